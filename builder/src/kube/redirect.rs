//! The rules that lead a pod's traffic to its sidecar, and the init container that puts them in place.
//!
//! They are text for `iptables-restore`, in the manifest itself: whoever reviews it sees everything that root does in the
//! pod. Out: all TCP of the application, but not the sidecar's own (told by its user, or it would be caught again for ever),
//! not what stays in the pod, not DNS, not what mesh.yaml excludes. In: the application's port leads to the sidecar's; any
//! other is refused, but the sidecar's and those excluded. IPv6, for which the sidecar does not listen, is refused.

use super::types::{Capabilities, Container, EnvVar, SecurityContext};
use crate::mesh::model::ResourcesSpec;
use crate::mesh::{Interception, Resolved, Service, ports};

/// The init container.
pub const CONTAINER: &str = "meshward-redirect";
/// The sidecar's user where traffic is intercepted: none that an application has by chance, as 101 is nginx's, too.
pub const USER: u32 = crate::mesh::INTERCEPTING_USER;

/// The nat chain whose presence says that the rules are there: the container may run again in the same pod.
const OUT: &str = "MESHWARD_OUT";
const IN: &str = "MESHWARD_IN";

/// `set -e` and the last command of a pipe: whatever fails, the pod does not start. No `$(…)`, which is Kubernetes' own in a
/// command; and `printf` is the shell's own, so that the image needs nothing but a shell and iptables.
const SCRIPT: &str = r#"set -e
case "`iptables-save -t nat`" in
*MESHWARD_OUT*) ;;
*) printf '%s' "$RULES" | iptables-restore --noflush ;;
esac
if [ -e /proc/net/if_inet6 ]; then
  case "`ip6tables-save -t filter`" in
  *MESHWARD_OUT*) ;;
  *) printf '%s' "$RULES_IPV6" | ip6tables-restore --noflush ;;
  esac
fi
"#;

/// The init container of a service; None where nothing is intercepted.
pub fn container(mesh: &Resolved, service: &Service) -> Option<Container> {
    let interception = mesh.interception.as_ref()?;
    let port = service.port?;
    let env =
        |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let quantities = |memory: &str| [("memory".to_owned(), memory.to_owned())].into_iter().collect();
    Some(Container {
        name: CONTAINER.to_owned(),
        image: interception.image.clone(),
        command: vec!["sh".to_owned(), "-c".to_owned(), SCRIPT.to_owned()],
        env: vec![
            env("RULES", rules(interception, port)),
            env("RULES_IPV6", rules_ipv6(interception)),
            // Where the older iptables wants its lock, the file system is read-only.
            env("XTABLES_LOCKFILE", "/dev/shm/xtables.lock".to_owned()),
        ],
        resources: Some(ResourcesSpec { requests: quantities("8Mi"), limits: quantities("64Mi") }),
        security_context: SecurityContext {
            allow_privilege_escalation: false,
            read_only_root_filesystem: true,
            run_as_non_root: false,
            run_as_user: Some(0),
            // The older iptables speaks over a raw socket.
            capabilities: Capabilities { add: vec!["NET_ADMIN", "NET_RAW"], drop: vec!["ALL"] },
            seccomp_profile: Some(super::types::SeccompProfile { kind: "RuntimeDefault" }),
        },
        ..Container::default()
    })
}

/// For IPv4. The table `filter` is first: between the two the pod is shut, not open.
fn rules(interception: &Interception, application: u16) -> String {
    let mut text = format!("*filter\n:{IN} - [0:0]\n-A INPUT -p tcp -j {IN}\n");
    text.push_str(&refuse_in(interception));
    text.push_str("COMMIT\n");
    text.push_str(&format!("*nat\n:{OUT} - [0:0]\n:{IN} - [0:0]\n"));
    text.push_str(&format!("-A OUTPUT -p tcp -j {OUT}\n-A PREROUTING -p tcp -j {IN}\n"));
    text.push_str(&format!("-A {OUT} -m owner --uid-owner {USER} -j RETURN\n"));
    text.push_str(&format!("-A {OUT} -o lo -j RETURN\n-A {OUT} -p tcp --dport 53 -j RETURN\n"));
    for cidr in &interception.outbound_cidrs {
        text.push_str(&format!("-A {OUT} -d {cidr} -j RETURN\n"));
    }
    for port in &interception.outbound_ports {
        text.push_str(&format!("-A {OUT} -p tcp --dport {port} -j RETURN\n"));
    }
    text.push_str(&format!("-A {OUT} -p tcp -j REDIRECT --to-ports {}\n", ports::OUTBOUND));
    text.push_str(&format!(
        "-A {IN} -p tcp --dport {application} -j REDIRECT --to-ports {}\nCOMMIT\n",
        ports::INBOUND
    ));
    text
}

fn rules_ipv6(interception: &Interception) -> String {
    let mut text = format!("*filter\n:{IN} - [0:0]\n:{OUT} - [0:0]\n");
    text.push_str(&format!("-A INPUT -p tcp -j {IN}\n-A OUTPUT -p tcp -j {OUT}\n"));
    text.push_str(&refuse_in(interception));
    text.push_str(&format!("-A {OUT} -o lo -j RETURN\n"));
    text.push_str(&format!("-A {OUT} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n"));
    text.push_str(&format!("-A {OUT} -m owner --uid-owner {USER} -j RETURN\n"));
    text.push_str(&format!("-A {OUT} -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"));
    text
}

/// What comes from outside the pod, after the redirection: the sidecar's ports, and those excluded.
fn refuse_in(interception: &Interception) -> String {
    let mut text = format!("-A {IN} -i lo -j RETURN\n");
    text.push_str(&format!("-A {IN} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n"));
    for port in [ports::INBOUND, ports::HEALTH].iter().chain(&interception.inbound_ports) {
        text.push_str(&format!("-A {IN} -p tcp --dport {port} -j RETURN\n"));
    }
    text.push_str(&format!("-A {IN} -p tcp -j REJECT --reject-with tcp-reset\n"));
    text
}
