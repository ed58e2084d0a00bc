//! An API server of a few hundred lines, for where there is no real one: objects as sets of fields, each with its owners, so
//! that server-side apply, its conflicts and what an apply takes away are as the real one has them.
//!
//! What it does not have: defaults, validation, admission, watching. Scenarios that pass here pass on the real server,
//! too; the other way round it is the real one that is right.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use super::{ADMIN, Api, path, pods, resource, write_kubeconfig};

/// `f:name` for a field, `k:{"name":"x"}` for an item of a list.
type Path = Vec<String>;
/// Manager and operation.
type Owner = (String, &'static str);

#[derive(Clone, Default)]
struct Object {
    kind: String,
    /// Every field that has a value and nothing below it.
    leaves: BTreeMap<Path, Value>,
    owners: BTreeMap<Path, BTreeSet<Owner>>,
    version: u64,
    generation: i64,
}

#[derive(Default)]
struct State {
    /// By the path of the API, with the name.
    objects: BTreeMap<String, Object>,
    version: u64,
    pods: pods::Pods,
    /// Namespace, resource, verb.
    allowed: BTreeSet<(String, String, String)>,
}

/// The server. Its thread ends with the test's process.
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    dead: Arc<AtomicBool>,
    /// Writes that were carried out.
    writes: Arc<AtomicUsize>,
    /// The count of writes after which it is dead.
    last: Arc<AtomicUsize>,
    folder: tempfile::TempDir,
    address: String,
}

impl FakeApi {
    /// Starts it on a port of its own.
    ///
    /// # Errors
    /// No port, no folder.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let api = Self {
            state: Arc::default(),
            dead: Arc::default(),
            writes: Arc::default(),
            last: Arc::new(AtomicUsize::new(usize::MAX)),
            folder: tempfile::tempdir()?,
            address: format!("http://{}", listener.local_addr()?),
        };
        let (state, dead, writes) = (Arc::clone(&api.state), Arc::clone(&api.dead), Arc::clone(&api.writes));
        let last = Arc::clone(&api.last);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, dead, writes) = (Arc::clone(&state), Arc::clone(&dead), Arc::clone(&writes));
                let last = Arc::clone(&last);
                std::thread::spawn(move || {
                    let gone = || {
                        dead.load(Ordering::SeqCst)
                            || writes.load(Ordering::SeqCst) >= last.load(Ordering::SeqCst)
                    };
                    serve(stream, &state, &gone, &writes);
                });
            }
        });
        Ok(api)
    }

    /// A pod, as it is listed, and where a port-forward to it leads.
    pub fn pod(&self, namespace: &str, name: &str, object: Value, to: SocketAddr) {
        lock(&self.state).pods.insert((namespace.to_owned(), name.to_owned()), (object, to));
    }

    /// How many writes were carried out.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Dies by itself after so many more writes.
    pub fn die_after(&self, writes: usize) {
        self.last.store(self.writes() + writes, Ordering::SeqCst);
    }
}

impl Api for FakeApi {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        write_kubeconfig(self.folder.path(), user, &self.address, None)
    }

    fn write(&self, manager: &str, object: &Value) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let path = format!("{}/{name}", path(kind, text("/metadata/namespace")));
        lock(&self.state).update(&path, kind, manager, object);
    }

    fn read(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = lock(&self.state);
        let path = format!("{}/{name}", path(kind, namespace));
        state.objects.get(&path).map(|object| object.json(&path))
    }

    fn allow(&self, namespace: &str, _group: &str, resource: &str, verbs: &[&str]) {
        let mut state = lock(&self.state);
        for verb in verbs {
            state.allowed.insert((namespace.to_owned(), resource.to_owned(), (*verb).to_owned()));
        }
    }

    fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    fn revive(&self) {
        self.dead.store(false, Ordering::SeqCst);
        self.last.store(usize::MAX, Ordering::SeqCst);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The answer to who has not all of these rights.
    fn refusal(&self, head: &str, namespace: &str, resource: &str, verbs: &[&str]) -> Option<(u16, Value)> {
        let user = header(head, "authorization").and_then(|text| text.strip_prefix("Bearer token-of-"));
        let user = user.unwrap_or("nobody");
        let allowed = |verb: &&&str| {
            let right = (namespace.to_owned(), resource.to_owned(), (**verb).to_owned());
            user == ADMIN || self.allowed.contains(&right)
        };
        let verb = verbs.iter().find(|verb| !allowed(verb))?;
        let message = format!(
            "{resource} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in the namespace \"{namespace}\""
        );
        Some(status(403, "Forbidden", &message, &json!({})))
    }

    /// A write without apply: what it changes belongs to its manager alone.
    fn update(&mut self, path: &str, kind: &str, manager: &str, body: &Value) {
        let mut wanted = BTreeMap::new();
        leaves(&content(body), &mut Vec::new(), "", &mut wanted);
        self.version += 1;
        let version = self.version;
        let object = self.objects.entry(path.to_owned()).or_default();
        kind.clone_into(&mut object.kind);
        let gone: Vec<Path> =
            object.leaves.keys().filter(|path| !wanted.contains_key(*path)).cloned().collect();
        for path in gone {
            object.leaves.remove(&path);
            object.owners.remove(&path);
        }
        for (path, value) in wanted {
            if object.leaves.get(&path) != Some(&value) {
                object.owners.insert(path.clone(), BTreeSet::from([(manager.to_owned(), "Update")]));
                object.leaves.insert(path, value);
            }
        }
        object.version = version;
        object.generation += 1;
    }

    /// A server-side apply: the object then, or a status.
    fn apply(
        &mut self,
        path: &str,
        kind: &str,
        manager: &str,
        body: &Value,
        force: bool,
        dry: bool,
    ) -> (u16, Value) {
        let mut wanted = BTreeMap::new();
        leaves(&content(body), &mut Vec::new(), "", &mut wanted);
        let mut object = self.objects.get(path).cloned().unwrap_or_default();
        let read = body.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        if read.is_some_and(|read| read != object.version.to_string()) {
            return status(
                409,
                "Conflict",
                "the object has been modified; please apply your changes to the latest version",
                &json!({}),
            );
        }
        let me: Owner = (manager.to_owned(), "Apply");
        let mut causes = Vec::new();
        for (path, value) in &wanted {
            if object.leaves.get(path).is_none_or(|have| have == value) {
                continue;
            }
            let owners = object.owners.entry(path.clone()).or_default();
            if force {
                owners.retain(|owner| *owner == me);
            } else {
                causes.extend(owners.iter().filter(|owner| **owner != me).map(|(name, _)| {
                    json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{name}\" using v1"), "field": shown(path)})
                }));
            }
        }
        if !causes.is_empty() {
            let message = format!("Apply failed with {} conflicts", causes.len());
            return status(409, "Conflict", &message, &json!({"causes": causes}));
        }
        let before = object.leaves.clone();
        let left: Vec<Path> = object
            .owners
            .iter()
            .filter(|(path, owners)| owners.contains(&me) && !wanted.contains_key(*path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in left {
            let owners = object.owners.entry(path.clone()).or_default();
            owners.remove(&me);
            if owners.is_empty() {
                object.owners.remove(&path);
                object.leaves.remove(&path);
            }
        }
        for (path, value) in wanted {
            object.owners.entry(path.clone()).or_default().insert(me.clone());
            object.leaves.insert(path, value);
        }
        let immutable = before.get(&vec!["f:immutable".to_owned()]) == Some(&Value::Bool(true));
        let data = |leaves: &BTreeMap<Path, Value>| -> Vec<(Path, Value)> {
            leaves
                .iter()
                .filter(|(path, _)| path.first().is_some_and(|first| first.ends_with("ata")))
                .map(|(path, value)| (path.clone(), value.clone()))
                .filter(|(path, _)| path.first().is_some_and(|first| first != "f:metadata"))
                .collect()
        };
        if immutable && data(&before) != data(&object.leaves) {
            return status(422, "Invalid", "field is immutable when `immutable` is set", &json!({}));
        }
        let spec = |leaves: &BTreeMap<Path, Value>| -> Vec<(Path, Value)> {
            leaves
                .iter()
                .filter(|(path, _)| path.first().is_some_and(|first| first == "f:spec"))
                .map(|(path, value)| (path.clone(), value.clone()))
                .collect()
        };
        if before != object.leaves || object.kind.is_empty() {
            object.generation += i64::from(spec(&before) != spec(&object.leaves));
            kind.clone_into(&mut object.kind);
            object.version = self.version + 1;
            if !dry {
                self.version += 1;
            }
        }
        let answer = object.json(path);
        if !dry {
            self.objects.insert(path.to_owned(), object);
        }
        (200, answer)
    }
}

impl Object {
    fn json(&self, path: &str) -> Value {
        let mut value = json!({});
        for (path, leaf) in &self.leaves {
            put(&mut value, path, leaf);
        }
        let mut fields: BTreeMap<&Owner, Value> = BTreeMap::new();
        for (path, owners) in &self.owners {
            for owner in owners {
                own(fields.entry(owner).or_insert_with(|| json!({})), path);
            }
        }
        let managed: Vec<Value> = fields
            .into_iter()
            .map(|((manager, operation), fields)| {
                json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
            })
            .collect();
        let mut parts = path.rsplit('/');
        let name = parts.next().unwrap_or_default();
        let namespace = parts.nth(1).unwrap_or_default();
        let (group, _) = resource(&self.kind);
        let mut all = json!({
            "apiVersion": if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") },
            "kind": self.kind,
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": self.version.to_string(),
                "generation": self.generation, "managedFields": managed},
        });
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), value) {
            for (key, value) in fields {
                match (all.get_mut(&key), value) {
                    (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                    (_, value) => drop(all.insert(key, value)),
                }
            }
        }
        all
    }
}

/// An object without what names it.
fn content(body: &Value) -> Value {
    let mut content = body.clone();
    if let Some(fields) = content.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        fields.remove("status");
    }
    if let Some(metadata) = content.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["name", "namespace", "resourceVersion", "managedFields", "generation"] {
            metadata.remove(field);
        }
        if metadata.is_empty()
            && let Some(fields) = content.as_object_mut()
        {
            fields.remove("metadata");
        }
    }
    content
}

/// The fields that tell the items of a list apart.
fn keys(list: &str, item: &Value) -> Option<String> {
    let names: &[&str] = match list {
        "containers" | "initContainers" | "volumes" | "env" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ports" if item.get("containerPort").is_some() => &["containerPort"],
        "ports" if item.get("port").is_some() => &["port"],
        _ => return None,
    };
    let keys: Option<Map<String, Value>> =
        names.iter().map(|name| Some(((*name).to_owned(), item.get(*name)?.clone()))).collect();
    Some(format!("k:{}", Value::Object(keys?)))
}

fn leaves(value: &Value, at: &mut Path, name: &str, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                at.push(format!("f:{key}"));
                leaves(value, at, key, found);
                at.pop();
            }
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(|item| keys(name, item).is_some()) => {
            for item in items {
                at.push(keys(name, item).unwrap_or_default());
                leaves(item, at, "", found);
                at.pop();
            }
        }
        // An object without any field at all has none.
        _ if at.is_empty() => {}
        other => drop(found.insert(at.clone(), other.clone())),
    }
}

fn put(value: &mut Value, path: &[String], leaf: &Value) {
    let Some((first, rest)) = path.split_first() else {
        *value = leaf.clone();
        return;
    };
    if let Some(name) = first.strip_prefix("f:") {
        if !value.is_object() {
            *value = json!({});
        }
        if let Some(fields) = value.as_object_mut() {
            put(fields.entry(name).or_insert(Value::Null), rest, leaf);
        }
    } else if let Some(keys) = first.strip_prefix("k:") {
        let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
        if !value.is_array() {
            *value = json!([]);
        }
        if let Some(items) = value.as_array_mut() {
            let same = |item: &Value| keys.iter().all(|(key, value)| item.get(key) == Some(value));
            let at = items.iter().position(same).unwrap_or_else(|| {
                items.push(Value::Object(keys.clone()));
                items.len() - 1
            });
            if let Some(item) = items.get_mut(at) {
                put(item, rest, leaf);
            }
        }
    }
}

fn own(fields: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    if let Some(object) = fields.as_object_mut() {
        let below = object.entry(first.clone()).or_insert_with(|| json!({}));
        if first.starts_with("k:")
            && let Some(below) = below.as_object_mut()
        {
            below.insert(".".to_owned(), json!({}));
        }
        own(below, rest);
    }
}

fn shown(path: &[String]) -> String {
    path.iter().map(|part| part.strip_prefix("f:").map_or(part.clone(), |name| format!(".{name}"))).collect()
}

fn status(code: u16, reason: &str, message: &str, details: &Value) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "details": details});
    (code, status)
}

/// The requests of one connection.
fn serve(mut stream: TcpStream, state: &Mutex<State>, gone: &dyn Fn() -> bool, writes: &AtomicUsize) {
    let mut buffer = Vec::new();
    loop {
        let Some((head, body)) = request(&mut stream, &mut buffer) else { return };
        if gone() {
            return;
        }
        let (code, answer) = match pods::wanted(&head) {
            None => answer(&mut lock(state), &head, &body, writes),
            Some((namespace, pod)) => {
                let to = lock(state).pods.get(&(namespace.clone(), pod)).map(|(_, to)| *to);
                let refused = lock(state).refusal(&head, &namespace, "pods/portforward", &["create"]);
                match (refused, to) {
                    (Some(refused), _) => refused,
                    (None, None) => status(404, "NotFound", "it is not there", &json!({})),
                    (None, Some(to)) => {
                        // It is over when one side has gone.
                        let _ = pods::forward(stream, &head, to);
                        return;
                    }
                }
            }
        };
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 {code} Said\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        if stream.write_all(head.as_bytes()).is_err() || stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut more = [0; 65536];
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(buffer.get(..end)?).into_owned();
            let length = header(&head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if let Some(body) = buffer.get(end + 4..end + 4 + length) {
                let body = body.to_vec();
                buffer.drain(..end + 4 + length);
                return Some((head, body));
            }
        }
        let count = stream.read(&mut more).ok().filter(|count| *count > 0)?;
        buffer.extend_from_slice(more.get(..count)?);
    }
}

pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn answer(state: &mut State, head: &str, body: &[u8], writes: &AtomicUsize) -> (u16, Value) {
    let line: Vec<&str> = head.lines().next().unwrap_or_default().split(' ').collect();
    let [method, target, _] = line.as_slice() else {
        return status(400, "BadRequest", "no request", &json!({}));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let below = if parts.first() == Some(&"api") { 2 } else { 3 };
    let (namespace, resource, name) = match parts.get(below..) {
        Some(["namespaces", namespace, resource]) => (*namespace, *resource, None),
        Some(["namespaces", namespace, resource, name]) => (*namespace, *resource, Some(*name)),
        Some([resource]) => ("", *resource, None),
        _ => return status(404, "NotFound", "no such path", &json!({})),
    };
    let exists = state.objects.contains_key(path);
    let verbs: &[&str] = match (*method, name, exists) {
        ("GET", None, _) => &["list"],
        ("GET", Some(_), _) => &["get"],
        ("PATCH", _, true) => &["patch"],
        ("PATCH", _, false) => &["patch", "create"],
        _ => &["none"],
    };
    if let Some(refused) = state.refusal(head, namespace, resource, verbs) {
        return refused;
    }
    match (*method, name) {
        ("GET", Some(_)) => match state.objects.get(path) {
            Some(object) => (200, object.json(path)),
            None => status(404, "NotFound", "it is not there", &json!({})),
        },
        ("GET", None) => {
            let wanted = |at: &String| {
                at.rsplit_once('/').is_some_and(|(folder, _)| {
                    folder == path || (namespace.is_empty() && folder.ends_with(&format!("/{resource}")))
                })
            };
            let pods = state.pods.iter().filter(|((of, _), _)| resource == "pods" && of == namespace);
            let pods = pods.map(|(_, (pod, _))| pod.clone());
            let items: Vec<Value> = state
                .objects
                .iter()
                .filter(|(at, _)| wanted(at))
                .map(|(at, object)| object.json(at))
                .chain(pods)
                .collect();
            (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
        }
        ("PATCH", Some(_)) => {
            if header(head, "content-type") != Some("application/apply-patch+yaml") {
                return status(415, "UnsupportedMediaType", "only server-side apply", &json!({}));
            }
            let Ok(body) = serde_json::from_slice::<Value>(body) else {
                return status(400, "BadRequest", "no JSON", &json!({}));
            };
            let parameter = |name: &str| {
                query
                    .split('&')
                    .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
                    .map(|(_, value)| value)
            };
            let Some(manager) = parameter("fieldManager") else {
                return status(422, "Invalid", "fieldManager is required for apply patch", &json!({}));
            };
            let kind = body.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            let dry = parameter("dryRun") == Some("All");
            let answer = state.apply(path, &kind, manager, &body, parameter("force") == Some("true"), dry);
            if answer.0 == 200 && !dry {
                writes.fetch_add(1, Ordering::SeqCst);
            }
            answer
        }
        _ => status(405, "MethodNotAllowed", "not here", &json!({})),
    }
}
