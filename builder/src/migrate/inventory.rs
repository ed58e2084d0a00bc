//! What runs: Services, the workloads behind them, and the ConfigMaps that those read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use super::settings::Callee;
use crate::patch::files::Input;
use crate::patch::tree::{NodeId, Tree};

/// Workloads that can get a sidecar.
const WORKLOADS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// A service that is to be one of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    pub file: PathBuf,
    /// The port that the application listens on.
    pub port: u16,
    pub is_tcp: bool,
    pub workload: Workload,
}

/// The workload behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub kind: String,
    pub name: String,
    pub file: PathBuf,
    pub service_account: Option<String>,
    /// Names of ConfigMaps that its pods read.
    pub config_maps: Vec<String>,
    /// It has a sidecar already.
    pub injected: bool,
}

/// The manifests, as far as a migration is concerned.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pub services: Vec<Service>,
    /// What cannot be brought in, and why.
    pub left: Vec<String>,
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    pub file: PathBuf,
    /// Where it is in the text, without the separators around it.
    pub range: Range<usize>,
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

/// The documents of a stream, as ranges of its text; a separator begins a line and is no part of one.
pub fn slices(text: &str) -> Vec<Range<usize>> {
    let (mut found, mut begin, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- ") {
            found.push(begin..at);
            begin = at + line.len();
        }
        at += line.len();
    }
    found.push(begin..text.len());
    found.retain(|range| text.get(range.clone()).is_some_and(|part| !part.trim().is_empty()));
    found
}

/// Every object of a text that is written as a document of its own.
pub fn documents(file: &std::path::Path, text: &str) -> Vec<Document> {
    let read = |range: Range<usize>| -> Option<Document> {
        let tree = Tree::parse(text.get(range.clone())?).ok()?;
        let root = *tree.documents().first()?;
        let metadata = tree.value(root, "metadata")?;
        Some(Document {
            file: file.to_owned(),
            range,
            kind: tree.text_at(root, "kind")?.to_owned(),
            name: tree.text_at(metadata, "name")?.to_owned(),
            namespace: tree.text_at(metadata, "namespace").unwrap_or_default().to_owned(),
        })
    };
    slices(text).into_iter().filter_map(read).collect()
}

/// A workload on its way into the inventory: its namespace, its labels, itself, and its named ports.
type Placed = (String, BTreeMap<String, String>, Workload, Vec<(String, u16)>);

impl Inventory {
    /// Reads the files; `namespace` is that of objects which name none.
    pub fn read(inputs: &[Input], namespace: &str) -> Self {
        let mut inventory = Self::default();
        let mut workloads: Vec<Placed> = Vec::new();
        let mut services = Vec::new();
        for input in inputs {
            let Some(path) = &input.path else { continue };
            for document in documents(path, &input.source.text) {
                let Some(slice) = input.source.text.get(document.range.clone()) else { continue };
                let Ok(tree) = Tree::parse(slice) else { continue };
                let Some(root) = tree.documents().first().copied() else { continue };
                let of = if document.namespace.is_empty() {
                    namespace.to_owned()
                } else {
                    document.namespace.clone()
                };
                if WORKLOADS.contains(&document.kind.as_str()) {
                    workloads.extend(
                        workload(&tree, root, &document)
                            .map(|(labels, workload, ports)| (of, labels, workload, ports)),
                    );
                } else if document.kind == "Service" {
                    services.push((of, document, slice.to_owned()));
                }
            }
        }
        for (namespace, document, slice) in services {
            let Ok(tree) = Tree::parse(&slice) else { continue };
            let Some(root) = tree.documents().first().copied() else { continue };
            let selector = tree.value(root, "spec").and_then(|spec| tree.value(spec, "selector"));
            let selector = selector.map(|selector| pairs(&tree, selector)).unwrap_or_default();
            let behind = workloads.iter().find(|(of, labels, ..)| {
                *of == namespace
                    && !selector.is_empty()
                    && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            });
            let Some((.., workload, ports)) = behind else {
                inventory.left.push(format!("Service {}: no workload is behind its selector", document.name));
                continue;
            };
            let Some((port, is_tcp)) = port(&tree, root, ports) else {
                inventory
                    .left
                    .push(format!("Service {}: it has no port that its workload has", document.name));
                continue;
            };
            if inventory
                .services
                .iter()
                .any(|one| one.workload.name == workload.name && one.namespace == namespace)
            {
                inventory
                    .left
                    .push(format!("Service {}: its workload is behind another Service, too", document.name));
                continue;
            }
            inventory.services.push(Service {
                name: document.name,
                namespace,
                file: document.file,
                port,
                is_tcp,
                workload: workload.clone(),
            });
        }
        for (_, _, workload, _) in &workloads {
            if !inventory.services.iter().any(|one| one.workload == *workload) {
                inventory.left.push(format!("{} {}: no Service leads to it", workload.kind, workload.name));
            }
        }
        inventory
    }

    /// The services as they may be called.
    pub fn callees(&self) -> Vec<Callee> {
        let callee = |service: &Service| Callee {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            port: service.port,
            is_tcp: service.is_tcp,
        };
        self.services.iter().map(callee).collect()
    }

    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }
}

fn pairs(tree: &Tree, mapping: NodeId) -> BTreeMap<String, String> {
    let text = |id| tree.text(id).unwrap_or_default().to_owned();
    tree.entries(mapping).map(|(key, value)| (text(key), text(value))).collect()
}

type Found = (BTreeMap<String, String>, Workload, Vec<(String, u16)>);

fn workload(tree: &Tree, root: NodeId, document: &Document) -> Option<Found> {
    let template = tree.value(tree.value(root, "spec")?, "template")?;
    let spec = tree.value(template, "spec")?;
    let labels = tree.value(tree.value(template, "metadata")?, "labels").map(|labels| pairs(tree, labels));
    let (mut ports, mut config_maps) = (Vec::new(), Vec::new());
    let containers = tree.value(spec, "containers").map(|list| tree.items(list)).unwrap_or_default();
    for container in containers {
        for port in tree.value(*container, "ports").map(|list| tree.items(list)).unwrap_or_default() {
            if let Some(number) = tree.text_at(*port, "containerPort").and_then(|text| text.parse().ok()) {
                ports.push((tree.text_at(*port, "name").unwrap_or_default().to_owned(), number));
            }
        }
    }
    names_of_config_maps(tree, spec, &mut config_maps);
    let annotations =
        tree.value(template, "metadata").and_then(|metadata| tree.value(metadata, "annotations"));
    let injected = annotations
        .is_some_and(|notes| tree.value(notes, crate::inject::workload::INJECTED).is_some())
        || containers.iter().any(|one| tree.text_at(*one, "name") == Some(crate::inject::sidecar::CONTAINER));
    let workload = Workload {
        kind: document.kind.clone(),
        name: document.name.clone(),
        file: document.file.clone(),
        service_account: tree.text_at(spec, "serviceAccountName").map(str::to_owned),
        config_maps,
        injected,
    };
    Some((labels.unwrap_or_default(), workload, ports))
}

/// Everything below a pod that names a ConfigMap: volumes, `envFrom`, `valueFrom`.
fn names_of_config_maps(tree: &Tree, node: NodeId, found: &mut Vec<String>) {
    for (key, value) in tree.entries(node) {
        let key = tree.text(key).unwrap_or_default();
        if ["configMap", "configMapRef", "configMapKeyRef"].contains(&key) {
            found.extend(tree.text_at(value, "name").map(str::to_owned));
        }
        names_of_config_maps(tree, value, found);
    }
    for item in tree.items(node) {
        names_of_config_maps(tree, *item, found);
    }
}

/// The port of a Service that is meant: the first that leads to the workload. Its number there, and whether it is TCP.
fn port(tree: &Tree, root: NodeId, ports: &[(String, u16)]) -> Option<(u16, bool)> {
    let spec = tree.value(root, "spec")?;
    for port in tree.value(spec, "ports").map(|list| tree.items(list)).unwrap_or_default() {
        let text = |key| tree.text_at(*port, key);
        let target = text("targetPort").or_else(|| text("port"))?;
        let number = match target.parse::<u16>() {
            Ok(number) => Some(number),
            Err(_) => ports.iter().find(|(name, _)| name == target).map(|(_, number)| *number),
        };
        let Some(number) = number else { continue };
        let said = text("appProtocol").or_else(|| text("name")).unwrap_or_default().to_ascii_lowercase();
        let http = ["http", "grpc", "web"].iter().any(|word| said.contains(word));
        // What has a well-known protocol of its own is no HTTP.
        let known = [1433, 3306, 5432, 5672, 6379, 9042, 9092, 11211, 27017].contains(&number);
        let tcp = ["tcp", "postgres", "mysql", "redis", "mongo", "kafka", "amqp"]
            .iter()
            .any(|word| said.contains(word));
        return Some((number, tcp || (known && !http)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_falls_into_its_documents() {
        let text = "# head\na: 1\n---\nb: |\n  ---\n  x\n--- # c\nc: 3";
        let parts: Vec<&str> = slices(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(parts, ["# head\na: 1\n", "b: |\n  ---\n  x\n", "c: 3"]);
    }
}
