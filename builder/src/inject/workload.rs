//! Where the pod templates are in a stream of manifests, and which of them are to be left alone.

use crate::diagnostic::Severity;
use crate::patch::sites::Finding;
use crate::patch::tree::{NodeId, Tree};

/// On a pod template or its workload: `false` (or `disabled`) keeps the sidecar out.
pub const INJECT: &str = "meshward.dev/inject";
/// On a pod template or its workload: the service of the mesh, where it is not the workload's name.
pub const SERVICE: &str = "meshward.dev/service";
/// Ours, on a pod template: it has a sidecar, and which of the collections around it were not there before.
pub const INJECTED: &str = "meshward.dev/injected";
/// Ours, on a pod template: changes when the pods must be replaced for a change to take effect.
pub const CHECKSUM: &str = "meshward.dev/checksum";

/// One workload.
#[derive(Clone, Debug)]
pub struct Workload {
    pub kind: String,
    pub name: String,
    /// The mapping with `metadata` and `spec` of the pods.
    pub template: NodeId,
    /// The pods' `spec`.
    pub spec: NodeId,
    /// The workload itself.
    pub root: NodeId,
}

/// A List may hold Lists; with an alias, even itself.
const LISTS_IN_LISTS: usize = 3;

/// All workloads of a stream, each pod template once.
pub fn find(tree: &Tree) -> Vec<Workload> {
    let mut found: Vec<Workload> = Vec::new();
    for root in tree.documents() {
        visit(tree, *root, None, LISTS_IN_LISTS, &mut found);
    }
    found
}

/// `item` is the kind of the items of a typed list, which the API server does not repeat for each.
fn visit(tree: &Tree, root: NodeId, item: Option<&str>, depth: usize, found: &mut Vec<Workload>) {
    let root = tree.resolve(root);
    let Some(kind) = tree.text_at(root, "kind").or(item) else { return };
    if tree.value(root, "apiVersion").is_none() && item.is_none() {
        return;
    }
    let spec = |node: NodeId| tree.value(node, "spec");
    let template = match kind {
        "Pod" => Some(root),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job"
        | "DeploymentConfig" => spec(root).and_then(|spec| tree.value(spec, "template")),
        "CronJob" => spec(root)
            .and_then(|spec| tree.value(spec, "jobTemplate"))
            .and_then(spec)
            .and_then(|spec| tree.value(spec, "template")),
        _ => None,
    };
    if let Some(template) = template.map(|template| tree.resolve(template))
        && let Some(spec) = spec(template).map(|spec| tree.resolve(spec))
        && !found.iter().any(|other| other.spec == spec)
    {
        let metadata = tree.value(root, "metadata");
        let name = |key| metadata.and_then(|metadata| tree.text_at(metadata, key));
        let name = name("name").or_else(|| name("generateName")).unwrap_or_default().trim_end_matches('-');
        found.push(Workload { kind: kind.to_owned(), name: name.to_owned(), template, spec, root });
    }
    // `kubectl get` answers with a List; DeploymentList and the like are the same, and an OpenShift Template nearly so.
    let within = match kind.strip_suffix("List") {
        Some(item) => {
            tree.value(root, "items").map(|items| (items, Some(item).filter(|item| !item.is_empty())))
        }
        None if kind == "Template" => tree.value(root, "objects").map(|items| (items, None)),
        None => None,
    };
    if let Some((items, item)) = within.filter(|_| depth > 0) {
        for object in tree.items(items) {
            visit(tree, *object, item, depth - 1, found);
        }
    }
}

impl Workload {
    /// `Deployment bookapi`.
    pub fn label(&self) -> String {
        format!("{} {}", self.kind, if self.name.is_empty() { "without a name" } else { &self.name })
    }

    pub fn metadata(&self, tree: &Tree) -> Option<NodeId> {
        tree.value(self.template, "metadata").map(|node| tree.resolve(node))
    }

    /// The annotations of the pods.
    pub fn annotations(&self, tree: &Tree) -> Option<NodeId> {
        let annotations = tree.value(self.metadata(tree)?, "annotations")?;
        Some(tree.resolve(annotations))
    }

    /// An annotation of the pods, or else of the workload.
    pub fn annotation<'t>(&self, tree: &'t Tree, key: &str) -> Option<&'t str> {
        let on_pods = self.annotations(tree).and_then(|annotations| tree.text_at(annotations, key));
        on_pods.or_else(|| {
            let annotations = tree.value(tree.value(self.root, "metadata")?, "annotations")?;
            tree.text_at(annotations, key)
        })
    }

    /// The names of the containers and native sidecars.
    pub fn containers<'t>(&self, tree: &'t Tree) -> impl Iterator<Item = &'t str> + use<'t> {
        let lists = ["containers", "initContainers"].map(|key| tree.value(self.spec, key));
        lists
            .into_iter()
            .flatten()
            .flat_map(|list| tree.items(list))
            .filter_map(|item| tree.text_at(*item, "name"))
    }

    /// The TCP ports of the containers and native sidecars, each with its container's name.
    pub fn ports<'t>(&self, tree: &'t Tree) -> impl Iterator<Item = (&'t str, u16)> + use<'t> {
        let lists = ["containers", "initContainers"].map(|key| tree.value(self.spec, key));
        let containers = lists.into_iter().flatten().flat_map(|list| tree.items(list));
        containers.flat_map(move |container| {
            let name = tree.text_at(*container, "name").unwrap_or("?");
            let ports = tree.value(*container, "ports").map(|ports| tree.items(ports)).unwrap_or_default();
            let tcp = ports
                .iter()
                .filter(move |port| matches!(tree.text_at(**port, "protocol"), None | Some("TCP")));
            tcp.filter_map(move |port| Some((name, tree.text_at(*port, "containerPort")?.parse().ok()?)))
        })
    }

    /// Whether something that gets a part of the sidecar is in another place, too, which would get it as well.
    pub fn is_shared(&self, tree: &Tree) -> bool {
        let lists = ["containers", "initContainers", "volumes"].map(|key| tree.value(self.spec, key));
        let own = [Some(self.template), Some(self.spec), self.metadata(tree), self.annotations(tree)];
        own.into_iter().chain(lists).flatten().any(|node| tree.is_shared(node))
    }

    fn all_containers<'t>(&self, tree: &'t Tree) -> impl Iterator<Item = NodeId> + use<'t> {
        let lists = ["containers", "initContainers"].map(|key| tree.value(self.spec, key));
        lists.into_iter().flatten().flat_map(|list| tree.items(list)).copied()
    }

    /// Where a container, or the pod, is said to run as this user.
    pub fn user(&self, tree: &Tree, user: u32) -> Option<std::ops::Range<usize>> {
        let said = |node: NodeId| {
            let value = tree.value(tree.value(node, "securityContext")?, "runAsUser")?;
            (tree.text(value)? == user.to_string()).then(|| tree.node(value).span.clone())
        };
        said(self.spec).or_else(|| self.all_containers(tree).find_map(said))
    }

    /// A probe that comes over the network to another port than these: its container, its name, its place.
    pub fn probed<'t>(
        &self,
        tree: &'t Tree,
        open: &[u16],
    ) -> Option<(&'t str, &'static str, std::ops::Range<usize>)> {
        for container in self.all_containers(tree) {
            let number = |port: &str| -> Option<u16> {
                port.parse().ok().or_else(|| {
                    let ports = tree.value(container, "ports")?;
                    let named =
                        tree.items(ports).iter().find(|one| tree.text_at(**one, "name") == Some(port))?;
                    tree.text_at(*named, "containerPort")?.parse().ok()
                })
            };
            for kind in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let Some((key, probe)) = tree.entry(container, kind) else { continue };
                let actions = ["httpGet", "tcpSocket", "grpc"].map(|action| tree.value(probe, action));
                for action in actions.into_iter().flatten() {
                    let port = tree.text_at(action, "port").and_then(number);
                    if !port.is_some_and(|port| open.contains(&port)) {
                        let name = tree.text_at(container, "name").unwrap_or("?");
                        return Some((name, kind, tree.node(key).span.clone()));
                    }
                }
            }
        }
        None
    }

    /// What is to be said of a workload that gets a sidecar nevertheless.
    pub fn remark(&self, tree: &Tree, span: std::ops::Range<usize>) -> Option<Finding> {
        if tree.text_at(self.spec, "shareProcessNamespace") != Some("true") {
            return None;
        }
        let message = format!(
            "{} has `shareProcessNamespace: true`: its other containers see the sidecar's process, and as root its key",
            self.label()
        );
        let finding = Finding::new(Severity::Warning, "shared-processes", message, span);
        Some(finding.help("take it out, or let no container of the pod run as root"))
    }

    /// Why this workload is left alone, if it is.
    pub fn skip(&self, tree: &Tree) -> Option<String> {
        let asked = self.annotation(tree, INJECT).unwrap_or_default();
        if ["false", "disabled", "no", "off", "n"].iter().any(|word| asked.eq_ignore_ascii_case(word)) {
            return Some(format!("`{INJECT}: {asked}` asks for it"));
        }
        if tree.text_at(self.spec, "hostNetwork") == Some("true") {
            return Some("`hostNetwork: true`: its ports are the node's".to_owned());
        }
        let others = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane", "daprd"];
        if let Some(other) = self.containers(tree).find(|name| others.contains(name)) {
            return Some(format!("it has the sidecar `{other}` of another mesh"));
        }
        let nodes = tree.value(self.spec, "nodeSelector");
        let labelled = |label| nodes.and_then(|nodes| tree.text_at(nodes, label));
        let os = tree.value(self.spec, "os").and_then(|os| tree.text_at(os, "name"));
        let os = [os, labelled("kubernetes.io/os"), labelled("beta.kubernetes.io/os")];
        if os.contains(&Some("windows")) {
            return Some("it runs on Windows nodes, where the sidecar's image does not run".to_owned());
        }
        let containers = tree.value(self.spec, "containers");
        if containers.is_none_or(|containers| tree.items(containers).is_empty()) {
            return Some("it has no containers".to_owned());
        }
        None
    }

    /// A Job is done when its containers are: an ordinary sidecar would keep it running.
    pub fn ends(&self, tree: &Tree) -> bool {
        matches!(self.kind.as_str(), "Job" | "CronJob")
            || matches!(tree.text_at(self.spec, "restartPolicy"), Some("Never" | "OnFailure"))
    }
}
