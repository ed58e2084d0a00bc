//! The steps of a migration, in the order in which they are safe, and what each needs to be done before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::inventory::{Document, Inventory, Service, documents};
use super::settings::{self, Callee};
use crate::mesh::ports;
use crate::patch::files::Input;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `inject:bookapi`.
    pub name: String,
    pub title: String,
    /// Names of steps that come before it.
    pub after: Vec<String>,
    pub what: What,
}

/// An object in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    pub file: PathBuf,
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "does", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// Copies of all manifests.
    Backup,
    /// A mesh.yaml that lets everything through and counts it.
    Mesh { text: String },
    /// The sidecars' ConfigMaps, and the module's.
    Config,
    /// By hand: nothing here holds keys.
    Certificates,
    /// A sidecar.
    Inject { workload: Object, service: String },
    /// The Service leads to the sidecar: for mTLS and, until STRICT, for plain text.
    Expose { service: Object, port: u16 },
    /// The caller asks its own sidecar.
    Setting {
        object: Object,
        key: String,
        from: String,
        to: String,
        callee: Callee,
        /// Workloads that are to find the callee's name on their own loopback, where one of several is meant by it.
        aliases: Vec<(Object, String)>,
    },
    /// Nobody comes without a certificate any more.
    Watch,
    /// PERMISSIVE → STRICT.
    Strict,
    /// ALLOW → DENY: only `calls` and policies.
    Enforce,
}

/// The steps for what there is, and what is not covered by them.
pub fn plan(
    inputs: &[Input],
    inventory: &Inventory,
    name: &str,
    trust_domain: &str,
) -> (Vec<Step>, Vec<String>) {
    let mut remarks = inventory.left.clone();
    let (found, calls) = addresses(inputs, inventory, &mut remarks);
    let ordered = order(&inventory.services, &calls);
    let mut steps = vec![
        step("backup", "keep a copy of every manifest", &[], What::Backup),
        step(
            "mesh",
            "propose a mesh.yaml: PERMISSIVE, and nobody refused",
            &["backup"],
            What::Mesh { text: proposal(&ordered, &calls, name, trust_domain) },
        ),
        step(
            "config",
            "write the sidecars' configurations and the module as ConfigMaps",
            &["mesh"],
            What::Config,
        ),
        step(
            "certificates",
            "make the CA and the certificates (by hand: it says how)",
            &["mesh"],
            What::Certificates,
        ),
    ];
    let mut before_watch = Vec::new();
    for service in &ordered {
        let inject = format!("inject:{}", service.name);
        let expose = format!("expose:{}", service.name);
        let workload = &service.workload;
        if !workload.injected {
            steps.push(step(
                &inject,
                &format!("give {} {} a sidecar", workload.kind, workload.name),
                &["config", "certificates"],
                What::Inject { workload: object_of(workload), service: service.name.clone() },
            ));
            before_watch.push(inject.clone());
        }
        let needs = if workload.injected { "config" } else { inject.as_str() };
        let service_object =
            Object { file: service.file.clone(), kind: "Service".to_owned(), name: service.name.clone() };
        steps.push(step(
            &expose,
            &format!(
                "lead Service {} to the sidecar: port {} for mTLS, plain text as before",
                service.name,
                ports::INBOUND
            ),
            &[needs],
            What::Expose { service: service_object, port: service.port },
        ));
        before_watch.push(expose);
    }
    for found in found {
        let mut after: Vec<String> = found.callers.iter().map(|caller| format!("inject:{caller}")).collect();
        after.push(format!("expose:{}", found.callee.name));
        after.retain(|name| steps.iter().any(|step| step.name == *name));
        let name = format!("setting:{}/{}", found.object.name, found.key);
        before_watch.push(name.clone());
        steps.push(Step {
            title: format!(
                "{} {}: `{}` from {} to {}",
                found.object.kind, found.object.name, found.key, found.from, found.to
            ),
            name,
            after,
            what: What::Setting {
                object: found.object,
                key: found.key,
                from: found.from,
                to: found.to,
                callee: found.callee,
                aliases: found.aliases,
            },
        });
    }
    let all: Vec<&str> = before_watch.iter().map(String::as_str).collect();
    steps.push(step("watch", "see that nobody comes without a certificate any more", &all, What::Watch));
    steps.push(step(
        "strict",
        "PERMISSIVE → STRICT: without a certificate nobody comes in",
        &["watch"],
        What::Strict,
    ));
    steps.push(step(
        "enforce",
        "ALLOW → DENY: only what `calls` and policies allow",
        &["strict"],
        What::Enforce,
    ));
    (steps, remarks)
}

fn step(name: &str, title: &str, after: &[&str], what: What) -> Step {
    let after = after.iter().map(|name| (*name).to_owned()).collect();
    Step { name: name.to_owned(), title: title.to_owned(), after, what }
}

fn object_of(workload: &super::inventory::Workload) -> Object {
    Object { file: workload.file.clone(), kind: workload.kind.clone(), name: workload.name.clone() }
}

/// An address that is to be changed.
struct Found {
    object: Object,
    key: String,
    from: String,
    to: String,
    callee: Callee,
    callers: Vec<String>,
    aliases: Vec<(Object, String)>,
}

type Calls = BTreeMap<String, BTreeSet<String>>;

/// Every address in the manifests, and who calls whom by them.
fn addresses(inputs: &[Input], inventory: &Inventory, remarks: &mut Vec<String>) -> (Vec<Found>, Calls) {
    let mut found: Vec<Found> = Vec::new();
    let callees = inventory.callees();
    let mut calls = Calls::new();
    for input in inputs {
        let Some(path) = &input.path else { continue };
        for document in documents(path, &input.source.text) {
            let Some(slice) = input.source.text.get(document.range.clone()) else { continue };
            let callers = callers(inventory, &document);
            for address in settings::find(slice, &callees) {
                if callers.is_empty() {
                    remarks.push(format!(
                        "{} {}: `{}` names {}, but no service of the mesh reads it",
                        document.kind, document.name, address.key, address.written
                    ));
                    continue;
                }
                for caller in &callers {
                    calls.entry(caller.clone()).or_default().insert(address.callee.clone());
                }
                let object =
                    Object { file: path.clone(), kind: document.kind.clone(), name: document.name.clone() };
                let again = found.iter().any(|one| {
                    one.object == object && one.key == address.key && one.callee.name == address.callee
                });
                let Some(callee) = callees.iter().find(|one| one.name == address.callee) else { continue };
                if !again && !callers.contains(&address.callee) {
                    found.push(Found {
                        object,
                        key: address.key,
                        from: address.written,
                        to: String::new(),
                        callee: callee.clone(),
                        callers: callers.clone(),
                        aliases: Vec::new(),
                    });
                }
            }
        }
    }
    for (caller, callees) in &mut calls {
        callees.remove(caller);
    }
    for one in &mut found {
        if one.callee.is_tcp {
            "127.0.0.1".clone_into(&mut one.to);
            continue;
        }
        let http = |caller: &String| {
            let callees = calls.get(caller).into_iter().flatten();
            callees.filter(|name| inventory.service(name).is_some_and(|one| !one.is_tcp)).count()
        };
        if one.callers.iter().all(|caller| http(caller) <= 1) {
            one.to = format!("http://127.0.0.1:{}", ports::OUTBOUND);
            continue;
        }
        // Several callees behind one port are told apart by their names, which then are the pod's own loopback.
        one.to = format!("http://{}:{}", one.callee.name, ports::OUTBOUND);
        let callers = one.callers.iter().filter_map(|caller| inventory.service(caller));
        one.aliases = callers.map(|caller| (object_of(&caller.workload), one.callee.name.clone())).collect();
    }
    // Two callees under one key are two steps.
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for one in &mut found {
        let count = seen.entry((one.object.name.clone(), one.key.clone())).or_default();
        *count += 1;
        if *count > 1 {
            one.key = format!("{}#{count}", one.key);
        }
    }
    (found, calls)
}

/// The services that read a document.
fn callers(inventory: &Inventory, document: &Document) -> Vec<String> {
    let reads = |service: &&Service| {
        let workload = &service.workload;
        match document.kind.as_str() {
            "ConfigMap" => workload.config_maps.contains(&document.name),
            kind => kind == workload.kind && document.name == workload.name,
        }
    };
    inventory.services.iter().filter(reads).map(|service| service.name.clone()).collect()
}

/// Those who are called before those who call them.
fn order<'a>(services: &'a [Service], calls: &Calls) -> Vec<&'a Service> {
    let mut left: Vec<&Service> = services.iter().collect();
    let mut ordered: Vec<&Service> = Vec::new();
    while !left.is_empty() {
        let ready = |service: &&Service| {
            let callees = calls.get(&service.name).into_iter().flatten();
            callees.into_iter().all(|callee| !left.iter().any(|one| one.name == *callee))
        };
        // In a circle somebody is first.
        let at = left.iter().position(ready).unwrap_or_default();
        ordered.push(left.remove(at));
    }
    ordered
}

fn proposal(services: &[&Service], calls: &Calls, name: &str, trust_domain: &str) -> String {
    let namespace = services.first().map_or("default", |service| service.namespace.as_str());
    let mut text = format!(
        "# Proposed by `meshward migrate`. Look at the ports, the protocols and who calls whom: `calls` holds what the manifests\n\
         # tell, and what they do not tell is missing. `meshward migrate apply strict` and `enforce` change the marked lines.\n\
         apiVersion: meshward.dev/v1alpha1\nkind: Mesh\nmetadata:\n  name: {name}\nspec:\n  trustDomain: {trust_domain}\n  \
         namespace: {namespace}\n  # Nobody is refused yet, unless a policy says so.\n  defaultAction: ALLOW # migrate: DENY\n  services:\n"
    );
    for service in services {
        let _ = write!(text, "    - name: {}\n      port: {}\n", service.name, service.port);
        if service.is_tcp {
            text.push_str("      protocol: tcp\n");
        }
        if service.namespace != namespace {
            let _ = writeln!(text, "      namespace: {}", service.namespace);
        }
        if let Some(account) = &service.workload.service_account {
            let _ = writeln!(text, "      serviceAccount: {account}");
        }
        let callees: Vec<&str> = calls.get(&service.name).into_iter().flatten().map(String::as_str).collect();
        if !callees.is_empty() {
            let _ = writeln!(text, "      calls: [{}]", callees.join(", "));
        }
    }
    text.push_str(
        "---\n# Callers without a certificate are let in while they move.\napiVersion: security.istio.io/v1\n\
         kind: PeerAuthentication\nmetadata:\n  name: migration\n",
    );
    let _ =
        writeln!(text, "  namespace: {namespace}\nspec:\n  mtls:\n    mode: PERMISSIVE # migrate: STRICT");
    text
}
