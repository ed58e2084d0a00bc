//! What a foreign listener lacks for the filter's answers to mean something, and `--harden`, which mends it.
//!
//! A mend is one line: a key that is added, or a value that is replaced. Each carries a comment that says so
//! (`# meshward: added`, `# meshward: was false`), which is what `unpatch` goes by. JSON and flow style have no place for
//! it, and are only reported on. What needs a decision or a file (a CA, a certificate) is never made up.

use super::edit::Editor;
use super::envoy::{self, Chain, Filter};
use super::selection::Selection;
use super::sites::{self, Finding, Pass, Site, Visit, unsafe_edit};
use super::splice::Edit;
use super::tree::{Kind, NodeId, SyntaxError, Tree};
use crate::diagnostic::Severity;

const ADDED: &str = "# meshward: added";
const WAS: &str = "# meshward: was ";

/// A setting that has to have one of some values.
struct Mend {
    mapping: NodeId,
    key: &'static str,
    value: &'static str,
}

struct Problem {
    finding: Finding,
    mends: Vec<Mend>,
}

/// Reports what the selected inbound listeners lack; with `mend`, puts right what can be.
///
/// # Errors
/// When the text is neither YAML nor JSON.
pub fn harden(text: &str, selection: &Selection, mend: bool) -> Result<Pass, SyntaxError> {
    let mut mended = 0;
    let mut pass = sites::pass(text, &mut |site| {
        let mut visit = Visit::default();
        for problem in problems(site, selection) {
            let edits: Option<Vec<Edit>> = match mend && !problem.mends.is_empty() {
                false => None,
                true => problem.mends.iter().map(|mend| write(&site.editor, mend)).collect(),
            };
            match edits {
                Some(edits) => {
                    mended += edits.len();
                    visit.edits.extend(
                        edits.into_iter().filter(|edit| !visit.edits.contains(edit)).collect::<Vec<_>>(),
                    );
                }
                None if mend && !problem.mends.is_empty() => {
                    let by_hand = "set it by hand: in JSON and flow style there is no place to note what was there before";
                    visit.findings.push(problem.finding.help(by_hand));
                }
                None => visit.findings.push(problem.finding),
            }
        }
        visit
    })?;
    if mended > 0 && !pass.failed() {
        let back = soften(&pass.text)?;
        let before = soften(text)?;
        if back.failed() || back.text != before.text {
            text.clone_into(&mut pass.text);
            pass.findings.push(unsafe_edit(0..0));
        }
    }
    Ok(pass)
}

/// Takes all mends back.
///
/// # Errors
/// When the text is neither YAML nor JSON.
pub fn soften(text: &str) -> Result<Pass, SyntaxError> {
    sites::pass(text, &mut |site| {
        let (text, tree) = (site.editor.text, site.editor.tree);
        let mut visit = Visit::default();
        for comment in tree.comments() {
            let written = text.get(comment.clone()).unwrap_or_default();
            if written == ADDED {
                visit.edits.push(site.editor.remove_line(comment.start));
            } else if let Some(at) = written.rfind(WAS) {
                let was = written.get(at + WAS.len()..).unwrap_or_default();
                let before = text.get(..comment.start + at).unwrap_or_default();
                let note = before.strip_suffix("  ").unwrap_or(before).len();
                match tree.scalar_on_line(text, comment.start) {
                    Some(value) => {
                        visit.edits.push(Edit { range: value, text: was.to_owned() });
                        visit.edits.push(Edit::delete(note..comment.end));
                    }
                    None => visit.findings.push(unsafe_edit(comment.clone())),
                }
            }
        }
        visit
    })
}

/// The edit of a mend; none where its note cannot be written.
fn write(editor: &Editor<'_>, mend: &Mend) -> Option<Edit> {
    let tree = editor.tree;
    let Kind::Mapping { flow: false, entries } = &tree.node(tree.resolve(mend.mapping)).kind else {
        return None;
    };
    if let Some((_, value)) = tree.entry(mend.mapping, mend.key) {
        let node = tree.node(value);
        let span = node.span.clone();
        let line = editor.text.get(span.start..)?.split(['\r', '\n']).next()?;
        let old =
            editor.text.get(span.clone()).filter(|old| !old.is_empty() && !old.contains(['\n', '#']))?;
        (matches!(node.kind, Kind::Scalar { .. }) && node.start == span.start && !node.anchored)
            .then_some(())?;
        let behind = line.get(old.len()..)?;
        let text = format!("{}{behind}  {WAS}{old}", mend.value);
        return Some(Edit { range: span.start..span.start + line.len(), text });
    }
    // Behind the type and name, before the long lists.
    let short = |key: &NodeId| matches!(tree.text(*key), Some("@type" | "stat_prefix" | "codec_type"));
    let index = entries.iter().rposition(|(key, _)| short(key)).map_or(entries.len(), |at| at + 1);
    editor.insert_line(mend.mapping, index, &format!("{}: {}  {ADDED}", mend.key, mend.value))
}

fn problems(site: &Site<'_>, selection: &Selection) -> Vec<Problem> {
    let tree = site.editor.tree;
    let mut found: Vec<Problem> = Vec::new();
    for listener in envoy::listeners(tree, site.root) {
        if !selection.listener(&listener) || listener.outbound {
            continue;
        }
        let name = listener
            .name
            .as_deref()
            .map_or_else(|| "a listener".to_owned(), |name| format!("listener `{name}`"));
        for chain in &listener.chains {
            let guarded = |filter: &&Filter| {
                (filter.is_manager() && selection.manager(tree, filter)) || filter.ends_connections()
            };
            let Some(filter) = chain.filters.iter().find(guarded) else { continue };
            if let Some(config) = filter.config.filter(|_| filter.is_manager()) {
                found.extend(manager(tree, &name, config));
            }
            found.extend(transport(tree, &name, chain));
        }
    }
    found
}

fn manager(tree: &Tree, name: &str, config: NodeId) -> Vec<Problem> {
    let at = |code, message: String, help: &str| {
        Finding::new(Severity::Warning, code, message, head(tree, config)).help(help)
    };
    let mut found = Vec::new();
    let decided =
        envoy::field(tree, config, "path_with_escaped_slashes_action").and_then(|node| tree.text(node));
    let mut paths = Vec::new();
    for key in ["normalize_path", "merge_slashes"] {
        if !is_true(tree, config, key) {
            paths.push(Mend { mapping: config, key, value: "true" });
        }
    }
    if !matches!(decided, Some("REJECT_REQUEST" | "UNESCAPE_AND_REDIRECT" | "UNESCAPE_AND_FORWARD")) {
        paths.push(Mend {
            mapping: config,
            key: "path_with_escaped_slashes_action",
            value: "REJECT_REQUEST",
        });
    }
    if !paths.is_empty() {
        let keys: Vec<String> = paths.iter().map(|mend| format!("`{}: {}`", mend.key, mend.value)).collect();
        let message =
            format!("{name} does not normalize paths: a policy and the application may read one path as two");
        let help = format!("set {}, or let --harden do it", keys.join(", "));
        found.push(Problem { finding: at("paths-not-normalized", message, &help), mends: paths });
    }
    if !is_true(tree, config, "use_remote_address") {
        let message = format!("{name} takes the caller's address from a header that the caller writes");
        let help = "set `use_remote_address: true`, or let --harden do it";
        let mends = vec![Mend { mapping: config, key: "use_remote_address", value: "true" }];
        found.push(Problem { finding: at("address-from-header", message, help), mends });
    }
    found
}

fn transport(tree: &Tree, name: &str, chain: &Chain) -> Vec<Problem> {
    let warning = |code, message: String, node: NodeId, help: &str| {
        Finding::new(Severity::Warning, code, message, head(tree, node)).help(help)
    };
    let socket = envoy::field(tree, chain.node, "transport_socket");
    let typed = socket.and_then(|socket| envoy::field(tree, socket, "typed_config"));
    let kind = typed.and_then(|typed| tree.text_at(typed, "@type")).unwrap_or_default();
    let context = if kind.ends_with("QuicDownstreamTransport") {
        typed.and_then(|typed| envoy::field(tree, typed, "downstream_tls_context"))
    } else {
        typed.filter(|_| kind.ends_with("DownstreamTlsContext"))
    };
    let Some(context) = context else {
        let message = format!(
            "{name} takes plaintext: its callers have no identity, and a policy that asks for one denies them"
        );
        let help = "give the filter chain a `transport_socket` with the mesh's certificate and CA";
        return vec![Problem { finding: warning("plaintext", message, chain.node, help), mends: Vec::new() }];
    };
    let mut found = Vec::new();
    let common = envoy::field(tree, context, "common_tls_context");
    let validation = common.and_then(|common| {
        envoy::field(tree, common, "validation_context").or_else(|| {
            let combined = envoy::field(tree, common, "combined_validation_context")?;
            Some(envoy::field(tree, combined, "default_validation_context").unwrap_or(combined))
        })
    });
    let elsewhere =
        common.and_then(|common| envoy::field(tree, common, "validation_context_sds_secret_config"));
    if !is_true(tree, context, "require_client_certificate") {
        let message = format!("{name} does not require a client certificate");
        // Without a CA a certificate says nothing, and for QUIC Envoy refuses to require one.
        let (help, mends) = if validation.is_none() && elsewhere.is_none() {
            ("give it a CA to check them by, and set `require_client_certificate: true`", Vec::new())
        } else {
            let mend = Mend { mapping: context, key: "require_client_certificate", value: "true" };
            ("set `require_client_certificate: true`, or let --harden do it", vec![mend])
        };
        found.push(Problem { finding: warning("no-client-certificate", message, context, help), mends });
    }
    match (validation, elsewhere) {
        (Some(validation), _) => {
            let trust =
                envoy::field(tree, validation, "trust_chain_verification").and_then(|node| tree.text(node));
            if trust == Some("ACCEPT_UNTRUSTED") {
                let message =
                    format!("{name} accepts certificates of any issuer: everybody can have any identity");
                let help =
                    "take `trust_chain_verification: ACCEPT_UNTRUSTED` out, or let --harden replace it";
                let mends = vec![Mend {
                    mapping: validation,
                    key: "trust_chain_verification",
                    value: "VERIFY_TRUST_CHAIN",
                }];
                found.push(Problem {
                    finding: warning("peers-not-validated", message, validation, help),
                    mends,
                });
            }
            if is_true(tree, validation, "allow_expired_certificate") {
                let message = format!("{name} accepts expired certificates");
                let help = "take `allow_expired_certificate` out, or let --harden replace it";
                let mends =
                    vec![Mend { mapping: validation, key: "allow_expired_certificate", value: "false" }];
                found
                    .push(Problem { finding: warning("expired-accepted", message, validation, help), mends });
            }
        }
        (None, Some(_)) => {}
        (None, None) => {
            let message = format!(
                "{name} has no CA to check callers' certificates by: everybody can have any identity"
            );
            let help = "give its `common_tls_context` a `validation_context` with `trusted_ca: {filename: /etc/certs/ca.crt}`";
            found.push(Problem {
                finding: warning("no-validation-context", message, context, help),
                mends: Vec::new(),
            });
        }
    }
    found
}

/// A flag that is set; Envoy's YAML reader takes YAML 1.1's words.
fn is_true(tree: &Tree, mapping: NodeId, key: &str) -> bool {
    let text = envoy::field(tree, mapping, key).and_then(|node| tree.text(node));
    text.is_some_and(|text| ["true", "yes", "on", "y"].iter().any(|word| text.eq_ignore_ascii_case(word)))
}

/// The first key of a mapping: a short place to point at.
fn head(tree: &Tree, node: NodeId) -> std::ops::Range<usize> {
    tree.entries(node)
        .next()
        .map_or_else(|| tree.node(node).span.clone(), |(key, _)| tree.node(key).span.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: &str = "static_resources:\n  listeners:\n  - name: in\n    filter_chains:\n    - filters:\n      - name: h\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: a\n          merge_slashes: false # why\n          http_filters:\n          - name: envoy.filters.http.router\n      transport_socket:\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          require_client_certificate: false\n          common_tls_context: {validation_context: {trusted_ca: {filename: ca.crt}}}\n";

    fn codes(pass: &Pass) -> Vec<&'static str> {
        pass.findings.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn what_a_listener_lacks_is_reported_and_left() {
        let pass = harden(LISTENER, &Selection::default(), false).unwrap();
        assert_eq!(pass.text, LISTENER);
        // It has a CA, so a validation context is not among them.
        assert_eq!(codes(&pass), ["paths-not-normalized", "address-from-header", "no-client-certificate"]);
    }

    #[test]
    fn mends_are_noted_and_taken_back() {
        let pass = harden(LISTENER, &Selection::default(), true).unwrap();
        assert!(pass.findings.is_empty(), "{:?}", pass.findings);
        for line in [
            "          normalize_path: true  # meshward: added\n",
            "          merge_slashes: true # why  # meshward: was false\n",
            "          use_remote_address: true  # meshward: added\n",
            "          require_client_certificate: true  # meshward: was false\n",
        ] {
            assert!(pass.text.contains(line), "{line} in {}", pass.text);
        }
        let again = harden(&pass.text, &Selection::default(), true).unwrap();
        assert_eq!(again.text, pass.text);
        assert_eq!(soften(&pass.text).unwrap().text, LISTENER);
    }

    #[test]
    fn crlf_and_json_stay_what_they_are() {
        let crlf = LISTENER.replace('\n', "\r\n");
        let pass = harden(&crlf, &Selection::default(), true).unwrap();
        assert!(!pass.text.replace("\r\n", "").contains('\n'));
        assert_eq!(soften(&pass.text).unwrap().text, crlf);
        let value: serde_json::Value = serde_saphyr::from_str(LISTENER).unwrap();
        let json = serde_json::to_string_pretty(&value).unwrap();
        let pass = harden(&json, &Selection::default(), true).unwrap();
        assert_eq!(pass.text, json);
        assert_eq!(pass.findings.len(), 3);
    }

    #[test]
    fn what_needs_a_file_is_not_made_up() {
        let bare = LISTENER.replace("{validation_context: {trusted_ca: {filename: ca.crt}}}", "{}");
        let pass = harden(&bare, &Selection::default(), true).unwrap();
        assert_eq!(codes(&pass), ["no-client-certificate", "no-validation-context"]);
        assert!(pass.text.contains("require_client_certificate: false\n"), "{}", pass.text);
    }
}
