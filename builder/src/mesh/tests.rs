//! What a user sees for a mesh.yaml, good and bad.

use super::model::CertificateProvider;
use super::model::Protocol;
use super::{Resolved, load_sources};
use crate::diagnostic::Source;

const HEAD: &str = "apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m}\n";

fn load(text: &str) -> Result<Resolved, Vec<String>> {
    let source = Source::new("mesh.yaml", text);
    load_sources(&[source]).map_err(|failure| {
        failure
            .diagnostics
            .iter()
            .map(|d| {
                let place = d.place().unwrap_or_default();
                let help = d.help.first().map(|help| format!(" ({help})")).unwrap_or_default();
                format!("{place}: {}: {}{help}", d.code, d.message)
            })
            .collect()
    })
}

#[test]
fn a_small_mesh_gets_its_defaults() {
    let mesh = load(&format!(
        "{HEAD}spec:\n  trustDomain: t.example\n  services:\n  - {{name: a, port: 80, calls: [db]}}\n  - {{name: db, protocol: tcp, port: 5432}}\n"
    ))
    .unwrap();
    assert_eq!(mesh.namespace, "default");
    let a = mesh.service("a").unwrap();
    assert_eq!(mesh.spiffe_id(a), "spiffe://t.example/ns/default/sa/a");
    assert_eq!((a.protocol, a.port, a.replicas), (Protocol::Http, Some(80), 1));
    assert_eq!(a.calls[0].port, Some(5432), "a TCP callee has its own port on the caller's loopback");
    assert_eq!(a.labels["app"], "a");
    assert_eq!(mesh.callers_of("db").map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn all_mistakes_come_at_once_each_at_its_place() {
    let text = format!(
        "{HEAD}spec:
  trustDomain: spiffe://Books.example
  services:
  - name: bookapi
    prot: tcp
    port: 70000
    calls: [timescale, {{service: web, port: 9}}]
  - name: web
    port: 15001
    replicas: \"2\"
  - name: Timescaledb
    protocol: htp
    port: 5432
  - port: 80
  - name: web
    port: 81
    calls: [wbe, bookapi]
"
    );
    insta::assert_snapshot!(load(&text).unwrap_err().join("\n"));
}

#[test]
fn ports_of_a_pods_loopback_do_not_collide() {
    let text = format!(
        "{HEAD}spec:
  trustDomain: t
  services:
  - {{name: a, port: 5432, calls: [p1, p2, {{service: p3, port: 7000}}, {{service: p4, port: 7000}}]}}
  - {{name: p1, protocol: tcp, port: 5432}}
  - {{name: p2, protocol: tcp, port: 6000}}
  - {{name: p3, protocol: tcp, port: 5432}}
  - {{name: p4, protocol: tcp, port: 5432}}
"
    );
    insta::assert_snapshot!(load(&text).unwrap_err().join("\n"));
}

#[test]
fn an_edge_is_checked() {
    let text = format!(
        "{HEAD}spec:
  trustDomain: t
  services:
  - {{name: api, port: 80, calls: [edge]}}
  - {{name: db, protocol: tcp, port: 5432}}
  - name: edge
    port: 80
    edge:
      routes:
      - {{prefix: /api, service: api}}
      - {{prefix: /api/v2, service: api}}
      - {{prefix: /db/, service: db}}
      - {{prefix: x, service: nope, host: UP}}
"
    );
    insta::assert_snapshot!(load(&text).unwrap_err().join("\n"));
}

#[test]
fn kinds_go_to_their_owners_and_unknown_ones_are_refused() {
    let policy =
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\nspec: {}\n";
    let limit =
        "---\napiVersion: meshward.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: p}\nspec: {}\n";
    let body = "spec: {trustDomain: t, services: [{name: a, port: 80}]}\n";
    let mesh = load(&format!("{HEAD}{body}{policy}")).unwrap();
    assert_eq!(mesh.policy_documents.len(), 1);
    assert_eq!(
        load(&format!("{HEAD}{body}{limit}")).unwrap_err().len(),
        1,
        "nothing is silently without effect"
    );
    let bad = format!(
        "{HEAD}{body}---\napiVersion: v1\nkind: AuthorisationPolicy\n---\nkind: Mesh\n---\napiVersion: v2\nkind: Mesh\n"
    );
    insta::assert_snapshot!(load(&bad).unwrap_err().join("\n"));
    insta::assert_snapshot!(load("").unwrap_err().join("\n"));
    insta::assert_snapshot!(load("a: [1\nb: 2\n").unwrap_err().join("\n"));
    insta::assert_snapshot!(load("a: 1\na: 2\n").unwrap_err().join("\n"));
}

#[test]
fn the_deny_list_is_read_and_checked() {
    let with = |spec: &str| {
        load(&format!("{HEAD}spec:\n  trustDomain: t\n{spec}  services: [{{name: a, port: 80}}]\n"))
    };
    let mesh = with(
        "  revocation: {serials: [\"00:5F1b\", \"12345678\", abc], ids: [spiffe://t/ns/a/sa/b], crl: true}\n",
    )
    .unwrap();
    assert_eq!(mesh.revocation.serials, [vec![0x5f, 0x1b], vec![0x12, 0x34, 0x56, 0x78], vec![0x0a, 0xbc]]);
    assert_eq!(mesh.revocation.ids, ["spiffe://t/ns/a/sa/b"]);
    assert!(mesh.revocation.crl);
    insta::assert_snapshot!(
        with("  revocation: {serials: [\"0\", xyz, \"+1\"], ids: [t/ns/a/sa/b], crl: true}\n  federatesWith: [t, other, Wrong]\n")
            .unwrap_err()
            .join("\n")
    );
}

#[test]
fn a_provider_of_certificates_is_asked_for_what_it_can_give() {
    let with = |spec: &str| {
        load(&format!("{HEAD}spec:\n  trustDomain: t\n{spec}  services: [{{name: a, port: 80}}]\n"))
    };
    let mesh = with("").unwrap();
    assert_eq!(mesh.certificates.provider, None);
    let mesh = with("  certificates: {provider: spire, agentSocket: /run/agent/api.sock}\n").unwrap();
    assert_eq!(mesh.certificates.provider, Some(CertificateProvider::Spire));
    assert_eq!(mesh.certificates.agent_socket, "/run/agent/api.sock");
    with("  federatesWith: [other]\n  certificates: {provider: spire}\n").unwrap();
    with("  certificates: {maxConnectionDuration: 720h}\n").unwrap();
    with("  revocation: {crl: true}\n  certificates: {provider: embedded}\n").unwrap();
    let wrong = [
        "  certificates: {provider: vault}\n",
        "  certificates: {provider: cert-manager, agentSocket: /run/agent/api.sock}\n  federatesWith: [other]\n",
        "  certificates: {provider: spire, agentSocket: api.sock}\n  revocation: {crl: true}\n",
        "  certificates: {provider: spire, agentSocket: /api.sock}\n",
        "  certificates: {maxConnectionDuration: 1s}\n",
    ];
    insta::assert_snapshot!(wrong.map(|spec| with(spec).unwrap_err().join("\n")).join("\n\n"));
}

#[test]
fn a_policy_for_the_edge_alone_is_told_to_be_without_effect() {
    let mesh = "spec:\n  trustDomain: t\n  services:\n  - {name: a, port: 80}\n  - {name: edge, edge: {routes: [{prefix: /, service: a}]}}\n";
    let policy = |name: &str, selector: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{{selector}rules: [{{}}]}}\n"
        )
    };
    let all = policy("all", "");
    let edge = policy("edge-only", "selector: {matchLabels: {app: edge}}, ");
    assert!(load(&format!("{HEAD}{mesh}{all}")).is_ok());
    insta::assert_snapshot!(load(&format!("{HEAD}{mesh}{all}{edge}")).unwrap_err().join("\n"));
}

mod reading {
    use proptest::prelude::*;

    use super::super::document;
    use super::super::model::Mesh;
    use super::super::read;
    use super::*;

    proptest! {
        /// Whatever is written: an answer, and no panic; and a refusal says where.
        #[test]
        fn any_text_gets_an_answer(text in "([a-z]{1,8}(: |:\n  ?)?|[-\\[\\]{}&*!|>'\"%@`#,? \n\t]|\\PC){0,60}") {
            let _ = load(&text);
        }

        /// A good mesh with some bytes taken out or doubled.
        #[test]
        fn a_damaged_mesh_gets_an_answer(from in 0usize..600, length in 0usize..40, twice: bool) {
            let good = include_str!("../commands/init/mesh.yaml");
            let cut = |at: usize| (0..=at.min(good.len())).rev().find(|at| good.is_char_boundary(*at)).unwrap_or(0);
            let (start, end) = (cut(from), cut(from + length));
            let damaged = if twice {
                format!("{}{}", &good[..end], &good[start..])
            } else {
                format!("{}{}", &good[..start], &good[end..])
            };
            if let Err(mistakes) = load(&damaged) {
                prop_assert!(!mistakes.is_empty());
            }
        }
    }

    #[test]
    fn a_mistake_set_aside_brings_no_second_one() {
        let text = format!("{HEAD}spec:\n  trustDomain: [1]\n  services:\n  - {{name: a, port: 80}}\n");
        let source = Source::new("mesh.yaml", text);
        let mut mistakes = Vec::new();
        let documents = document::parse(&source, &mut mistakes);
        let mesh: Option<Mesh> = read::document(&documents[0], &mut mistakes);
        assert!(mesh.is_none());
        assert_eq!(mistakes.len(), 1, "only the wrong type, not also a missing field: {mistakes:?}");
        assert_eq!(mistakes[0].place().as_deref(), Some("mesh.yaml:5:16"));
    }

    #[test]
    fn an_alias_bomb_is_refused_soon() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let items = vec![format!("*a{before}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        let start = std::time::Instant::now();
        assert!(load(&text).is_err());
        assert!(start.elapsed().as_secs() < 20, "it took {:?}", start.elapsed());
    }
}

#[test]
fn what_interception_would_get_wrong_is_refused() {
    let digest = "0123456789abcdef".repeat(4);
    let text = format!(
        "{HEAD}spec:
  trustDomain: t.example
  interception:
    image: iptables:latest
    outside: pass
    exclude:
      inboundPorts: [80, 15001, 0]
      outboundPorts: [5432]
      outboundCidrs: [10.0.0.0/33, 'fd00::/8', 10.0.0.1, 10.0.0.0/8]
  services:
  - {{name: a, port: 80, calls: [b, db], container: {{image: a, runAsUser: 15001}}}}
  - {{name: b, port: 5432}}
  - {{name: db, protocol: tcp, port: 5432}}
"
    );
    let mistakes = load(&text).unwrap_err();
    let expected = [
        "mesh.yaml:7:12: invalid-image: `iptables:latest` may become another image (pin it by its digest, as `name@sha256:…`)",
        "mesh.yaml:10:33: invalid-port: 0 is no port",
        "mesh.yaml:10:22: excluded-application: port 80 is the application's of `a`: excluded, everybody would reach it without a certificate (leave it out; to let plain text in, say so with a PeerAuthentication)",
        "mesh.yaml:10:26: reserved-port: port 15001 is the sidecar's own, and needs no exclusion (leave it out)",
        "mesh.yaml:12:23: invalid-cidr: `10.0.0.0/33` is no block of IPv4 addresses (write it like `10.0.0.0/8`; IPv6 is not redirected, but refused)",
        "mesh.yaml:12:36: invalid-cidr: `fd00::/8` is no block of IPv4 addresses (write it like `10.0.0.0/8`; IPv6 is not redirected, but refused)",
        "mesh.yaml:14:74: sidecar-user: user 15001 is the sidecar's: what it sends is not intercepted (run the application as another user)",
    ];
    for one in expected {
        assert!(mistakes.iter().any(|mistake| mistake == one), "`{one}` is not in {mistakes:#?}");
    }
    assert!(
        mistakes
            .iter()
            .any(|mistake| mistake.contains("captured-port: `a` calls `b` and `db`, both at port 5432")),
        "{mistakes:#?}"
    );
    let text = format!(
        "{HEAD}spec:
  trustDomain: t.example
  interception: {{image: 'i@sha256:{digest}', outside: refuse, exclude: {{outboundCidrs: [10.0.0.1, 10.0.0.0/8]}}}}
  services:
  - {{name: a, port: 80}}
"
    );
    let mesh = load(&text).unwrap();
    assert_eq!(mesh.interception.unwrap().outbound_cidrs, ["10.0.0.1", "10.0.0.0/8"]);
    assert!(load(&text.replace("outside: refuse, ", "")).is_err(), "a choice has no default");
}

#[test]
fn probes_of_a_pod_that_is_not_ours_are_paths() {
    let text = |more: &str| {
        format!("{HEAD}spec:\n  trustDomain: t.example\n  services:\n  - {{name: a, port: 80, {more}}}\n")
    };
    let mesh = load(&text("probes: {readiness: {path: /ready}}")).unwrap();
    assert_eq!(mesh.services[0].probes.named().map(|(name, _)| name).collect::<Vec<_>>(), ["readiness"]);
    let of_a_container = load(&text("container: {image: i, probes: {liveness: {path: /live}}}")).unwrap();
    assert_eq!(of_a_container.services[0].probes.named().count(), 1);
    for wrong in [
        "probes: {readiness: {exec: [a]}}",
        "probes: {readiness: {path: ready}}",
        "probes: {readiness: {path: /ready}}, container: {image: i}",
        "protocol: tcp, probes: {readiness: {path: /ready}}",
    ] {
        let mistakes = load(&text(wrong)).unwrap_err();
        assert!(mistakes[0].contains("invalid-p"), "{wrong}: {mistakes:?}");
    }
}
