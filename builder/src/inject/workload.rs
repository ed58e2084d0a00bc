//! Where the pod templates are in a stream of manifests, and which of them are to be left alone.

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
        visit(tree, *root, LISTS_IN_LISTS, &mut found);
    }
    found
}

fn visit(tree: &Tree, root: NodeId, depth: usize, found: &mut Vec<Workload>) {
    let root = tree.resolve(root);
    let Some(kind) = tree.text_at(root, "kind") else { return };
    if tree.value(root, "apiVersion").is_none() {
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
    if kind.ends_with("List") && depth > 0 {
        for item in tree.value(root, "items").map(|items| tree.items(items)).unwrap_or_default() {
            visit(tree, *item, depth - 1, found);
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

    /// Why this workload is left alone, if it is.
    pub fn skip(&self, tree: &Tree) -> Option<String> {
        if let Some(asked @ ("false" | "disabled" | "no")) = self.annotation(tree, INJECT) {
            return Some(format!("`{INJECT}: {asked}` asks for it"));
        }
        if tree.text_at(self.spec, "hostNetwork") == Some("true") {
            return Some("`hostNetwork: true`: its ports are the node's".to_owned());
        }
        let others = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane", "daprd"];
        if let Some(other) = self.containers(tree).find(|name| others.contains(name)) {
            return Some(format!("it has the sidecar `{other}` of another mesh"));
        }
        let os =
            tree.value(self.spec, "nodeSelector").and_then(|nodes| tree.text_at(nodes, "kubernetes.io/os"));
        if os == Some("windows") {
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
