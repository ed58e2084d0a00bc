//! Requests made of the policies' own constants: each value that a rule names, and something beside it.
//!
//! Every rule gives the request that it is written for, and that request again with one thing changed, for every value
//! that any rule compares there; and then, up to a number, everything combined with everything. What no constant of any
//! policy tells apart is asked once. Deliberately absent: asking (`super`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use meshward_engine::config::{Attribute, Clause, Match, Pattern, PluginConfig, Protocol};
use meshward_engine::request::TOKEN_SEPARATOR;
use serde_json::{Value, json};

use crate::mesh::{Resolved, Service};

/// Stands where a policy says "anything", and for what no policy names.
const OTHER: &str = "other";

/// What a request says, by what policies compare. Not there: the request does not have it.
type Said = BTreeMap<Slot, String>;

/// A part of a request that varies by itself. Namespace, account and trust domain are parts of a principal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Principal,
    Method,
    Path,
    Host,
    SourceIp,
    RemoteIp,
    DestinationIp,
    Sni,
    /// `issuer`, a separator, `subject`.
    Token,
    Header(String),
    /// `[a][b]`
    Claim(String),
    /// `filter[key]`
    Metadata(String),
}

/// The requests, and how many there would be with everything combined with everything.
#[derive(Debug)]
pub struct Requests {
    pub requests: Vec<Value>,
    pub possible: usize,
}

/// What a rule is written for, and what it compares itself, each value apart.
struct Pointed {
    base: Said,
    own: Vec<(Slot, Option<String>)>,
}

/// For a service as it is in one mesh or in two: their configurations and their callers. At most `most`, but every rule's
/// own request.
pub fn of(configs: &[PluginConfig], meshes: &[&Resolved], service: &Service, most: usize) -> Requests {
    let mut values: BTreeMap<Slot, BTreeSet<Option<String>>> = BTreeMap::new();
    let tcp = configs.iter().all(|config| config.protocol == Protocol::Tcp);
    let names = Names { trust_domain: meshes.first().map_or("", |mesh| &mesh.trust_domain) };
    for (slot, value) in usual(meshes, service, tcp) {
        values.entry(slot).or_default().insert(value);
    }
    let mut pointed: Vec<Pointed> = Vec::new();
    for rule in configs.iter().flat_map(|config| &config.policies).flat_map(|policy| &policy.rules) {
        for from in or_nothing(&rule.from) {
            for to in or_nothing(&rule.to) {
                let matches = from.into_iter().chain(to).chain([&rule.when]).flat_map(Clause::matches);
                pointed.push(names.point(matches.filter(|one| !(tcp && one.attribute.is_http_only()))));
            }
        }
    }
    let defaults = first_of_each(&values);
    for one in &mut pointed {
        for (slot, value) in &one.own {
            values.entry(slot.clone()).or_default().insert(value.clone());
        }
        for (slot, value) in &defaults {
            one.base.entry(slot.clone()).or_insert_with(|| value.clone());
        }
    }
    let mut all: BTreeSet<Said> = pointed.iter().map(|one| one.base.clone()).collect();
    for (one, (slot, value)) in pointed.iter().flat_map(|one| one.own.iter().map(move |own| (one, own))) {
        if all.len() >= most {
            break;
        }
        all.insert(with(&one.base, slot, value.as_ref()));
    }
    // Every rule's request with every value of any other.
    let each: Vec<(&Slot, &Option<String>)> =
        values.iter().flat_map(|(slot, values)| values.iter().map(move |value| (slot, value))).collect();
    for at in spread(pointed.len().saturating_mul(each.len()), most) {
        if all.len() >= most {
            break;
        }
        if let (Some(one), Some((slot, value))) = (pointed.get(at / each.len()), each.get(at % each.len())) {
            all.insert(with(&one.base, slot, value.as_ref()));
        }
    }
    // Everything with everything.
    let lists: Vec<(&Slot, Vec<&Option<String>>)> =
        values.iter().map(|(slot, values)| (slot, values.iter().collect())).collect();
    let possible = lists.iter().fold(1usize, |product, (_, list)| product.saturating_mul(list.len()));
    for at in spread(possible, most) {
        if all.len() >= most {
            break;
        }
        let mut said = Said::new();
        let mut rest = at;
        for (slot, list) in &lists {
            if let Some(Some(value)) = list.get(rest % list.len()) {
                said.insert((*slot).clone(), value.clone());
            }
            rest /= list.len();
        }
        all.insert(said);
    }
    Requests { requests: all.iter().map(|said| as_line(said, tcp)).collect(), possible }
}

/// The numbers below `of`, `most` of them, spread evenly: a stride that shares no factor with the number visits each once.
fn spread(of: usize, most: usize) -> impl Iterator<Item = usize> {
    let stride = coprime(of / most.max(1) + 1, of);
    let step = move |at: &usize| Some((*at as u128 + stride as u128).checked_rem(of as u128)? as usize);
    std::iter::successors(Some(0), step).take(of.min(most.saturating_mul(2)))
}

/// A number near `wanted` without a common factor with `of`.
fn coprime(wanted: usize, of: usize) -> usize {
    fn common(a: usize, b: usize) -> usize {
        if b == 0 { a } else { common(b, a % b) }
    }
    (wanted.max(1)..).find(|stride| common(*stride, of) == 1).unwrap_or(1)
}

fn or_nothing(clauses: &[Clause]) -> Vec<Option<&Clause>> {
    if clauses.is_empty() { vec![None] } else { clauses.iter().map(Some).collect() }
}

fn with(base: &Said, slot: &Slot, value: Option<&String>) -> Said {
    let mut said = base.clone();
    match value {
        Some(value) => said.insert(slot.clone(), value.clone()),
        None => said.remove(slot),
    };
    said
}

/// A request that somebody in the mesh could send.
fn first_of_each(values: &BTreeMap<Slot, BTreeSet<Option<String>>>) -> Said {
    let usual = [Slot::Principal, Slot::Method, Slot::Path, Slot::Host];
    let first = |slot: &Slot| values.get(slot)?.iter().flatten().next().cloned();
    usual.into_iter().filter_map(|slot| first(&slot).map(|value| (slot, value))).collect()
}

/// What is asked whatever the policies say: every service of the mesh, strangers, nobody; methods and paths that no policy
/// may have thought of.
fn usual(meshes: &[&Resolved], service: &Service, tcp: bool) -> Vec<(Slot, Option<String>)> {
    let mut all = vec![(Slot::Principal, None)];
    let mut add = |slot: Slot, value: &str| all.push((slot, Some(value.to_owned())));
    for mesh in meshes {
        for service in &mesh.services {
            add(Slot::Principal, &mesh.spiffe_id(service));
        }
        add(Slot::Principal, &format!("spiffe://{}/ns/{OTHER}/sa/{OTHER}", mesh.trust_domain));
        for domain in mesh.trust_domain_aliases.iter().chain(&mesh.federates_with) {
            add(Slot::Principal, &format!("spiffe://{domain}/ns/{}/sa/{OTHER}", service.namespace));
        }
        for id in &mesh.revocation.ids {
            add(Slot::Principal, id);
        }
    }
    add(Slot::Principal, "spiffe://elsewhere.example/ns/other/sa/other");
    if !tcp {
        for method in ["GET", "POST", "OTHER"] {
            add(Slot::Method, method);
        }
        for path in ["/", "/other"] {
            add(Slot::Path, path);
        }
        add(Slot::Host, &service.name);
    }
    all
}

fn slot(attribute: &Attribute) -> Option<Slot> {
    Some(match attribute {
        Attribute::Principal | Attribute::Namespace | Attribute::ServiceAccount | Attribute::TrustDomain => {
            Slot::Principal
        }
        Attribute::SourceIp => Slot::SourceIp,
        Attribute::RemoteIp => Slot::RemoteIp,
        Attribute::DestinationIp => Slot::DestinationIp,
        Attribute::Sni => Slot::Sni,
        Attribute::RequestPrincipal => Slot::Token,
        Attribute::Host => Slot::Host,
        Attribute::Method => Slot::Method,
        Attribute::Path => Slot::Path,
        Attribute::Header { name, .. } => match &**name {
            ":method" => Slot::Method,
            ":path" => Slot::Path,
            ":authority" => Slot::Host,
            name => Slot::Header(name.to_owned()),
        },
        Attribute::Claim(path) => Slot::Claim(path.to_string()),
        Attribute::Metadata(path) => Slot::Metadata(path.to_string()),
        // A sidecar has one inbound port, which every request has.
        Attribute::DestinationPort => return None,
    })
}

struct Names<'a> {
    trust_domain: &'a str,
}

impl Names<'_> {
    /// The request that all of these want, and what each of them compares.
    fn point<'a>(&self, matches: impl Iterator<Item = &'a Match>) -> Pointed {
        let mut pointed = Pointed { base: Said::new(), own: Vec::new() };
        for one in matches {
            let Some(slot) = slot(&one.attribute) else { continue };
            let examples = self.examples(one);
            // What a negation is about is what the request is not.
            if let (false, Some(first)) = (one.negated, examples.first()) {
                let joined = match pointed.base.get(&slot) {
                    Some(before) if slot == Slot::Principal => self.join(before, one, first),
                    _ => first.clone(),
                };
                pointed.base.insert(slot.clone(), joined);
            }
            pointed.own.push((slot.clone(), None));
            pointed.own.extend(examples.into_iter().map(|example| (slot.clone(), Some(example))));
        }
        pointed
    }

    /// Values on both sides of every pattern: what it matches first.
    fn examples(&self, one: &Match) -> Vec<String> {
        let mut all = Vec::new();
        for pattern in &one.patterns {
            all.extend(self.of_pattern(&one.attribute, pattern));
        }
        all
    }

    fn of_pattern(&self, attribute: &Attribute, pattern: &Pattern) -> Vec<String> {
        let texts = match pattern {
            Pattern::Any => vec![OTHER.to_owned()],
            Pattern::Exact(text) => vec![text.to_string()],
            Pattern::Prefix(text) => vec![format!("{text}{OTHER}"), text.to_string()],
            Pattern::Suffix(text) => vec![format!("{OTHER}{text}"), text.to_string()],
            Pattern::Glob(text) | Pattern::Segments(text) => vec![text.replace('*', OTHER)],
            Pattern::Template(text) => vec![
                text.replace("{**}", "other/other").replace("{*}", OTHER),
                text.replace("{**}", OTHER).replace("{*}", OTHER),
            ],
            Pattern::ServiceAccount { namespace, name } => vec![format!("ns/{namespace}/sa/{name}")],
            Pattern::Cidr { address, prefix } => addresses(*address, *prefix),
            Pattern::Port(_) => Vec::new(),
        };
        let domain = self.trust_domain;
        let wrap = |text: String| match (attribute, pattern) {
            (Attribute::Principal, Pattern::Any) => format!("spiffe://{domain}/ns/{OTHER}/sa/{OTHER}"),
            (Attribute::Principal, Pattern::Suffix(_)) => {
                let end = text.strip_prefix(OTHER).unwrap_or(&text);
                let join = if end.starts_with('/') { "" } else { "/" };
                // As much of a SPIFFE ID in front of it as it does not have itself.
                let front = match end.split('/').count() {
                    0..=2 => format!("spiffe://{domain}/ns/{OTHER}/sa{join}"),
                    3 | 4 => format!("spiffe://{domain}/ns/{OTHER}"),
                    _ => format!("spiffe://{domain}"),
                };
                format!("{front}{end}")
            }
            (Attribute::Principal, _) => format!("spiffe://{text}"),
            (Attribute::Namespace, _) => format!("spiffe://{domain}/ns/{text}/sa/{OTHER}"),
            (Attribute::ServiceAccount, _) => format!("spiffe://{domain}/{text}"),
            (Attribute::TrustDomain, _) => format!("spiffe://{text}/ns/{OTHER}/sa/{OTHER}"),
            (Attribute::Path, Pattern::Suffix(_)) if !text.starts_with('/') => format!("/{text}"),
            (Attribute::Path, Pattern::Any) => format!("/{text}"),
            (Attribute::RequestPrincipal, _) if !text.contains(TOKEN_SEPARATOR) => {
                format!("{text}{TOKEN_SEPARATOR}{OTHER}")
            }
            _ => text,
        };
        texts.into_iter().map(wrap).collect()
    }

    /// Two things said of one principal: the namespace and the account, say, of one rule.
    fn join(&self, before: &str, one: &Match, example: &str) -> String {
        let parts =
            |id: &str| id.trim_start_matches("spiffe://").split('/').map(str::to_owned).collect::<Vec<_>>();
        let (mut joined, new) = (parts(before), parts(example));
        let at = match one.attribute {
            Attribute::TrustDomain => 0..1,
            Attribute::Namespace => 1..3,
            Attribute::ServiceAccount => 1..5,
            _ => return example.to_owned(),
        };
        if let (Some(old), Some(new)) = (joined.get_mut(at.clone()), new.get(at)) {
            old.clone_from_slice(new);
        }
        format!("spiffe://{}", joined.join("/"))
    }
}

/// One of the block, and the one behind its last.
fn addresses(address: IpAddr, prefix: u8) -> Vec<String> {
    let behind = match address {
        IpAddr::V4(ip) => {
            let size = 1u32.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::from((u32::from(ip) & !size.wrapping_sub(1)).wrapping_add(size).to_be_bytes())
        }
        IpAddr::V6(ip) => {
            let size = 1u128.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::from((u128::from(ip) & !size.wrapping_sub(1)).wrapping_add(size).to_be_bytes())
        }
    };
    vec![address.to_string(), behind.to_string()]
}

/// In the words of `policy eval`.
fn as_line(said: &Said, tcp: bool) -> Value {
    let mut line = json!({ "id": "generated" });
    if tcp {
        put(&mut line, &["protocol"], "tcp".into());
    }
    for (slot, value) in said {
        let text = Value::from(value.as_str());
        match slot {
            Slot::Principal => put(&mut line, &["source", "principal"], text),
            Slot::Method => put(&mut line, &["method"], text),
            Slot::Path => put(&mut line, &["path"], text),
            Slot::Host => put(&mut line, &["host"], text),
            Slot::SourceIp => put(&mut line, &["source", "ip"], text),
            Slot::RemoteIp => put(&mut line, &["source", "remote_ip"], text),
            Slot::DestinationIp => put(&mut line, &["destination", "ip"], text),
            Slot::Sni => put(&mut line, &["sni"], text),
            Slot::Token => {
                let (issuer, subject) = value.split_once(TOKEN_SEPARATOR).unwrap_or((value, OTHER));
                put(&mut line, &["jwt", "iss"], issuer.into());
                put(&mut line, &["jwt", "sub"], subject.into());
            }
            Slot::Header(name) => put(&mut line, &["headers", name], text),
            Slot::Claim(path) => {
                let mut names = vec!["jwt", "claims"];
                names.extend(path.trim_start_matches('[').trim_end_matches(']').split("]["));
                put(&mut line, &names, text);
            }
            Slot::Metadata(path) => {
                let (filter, key) = path.split_once('[').unwrap_or((path, ""));
                put(&mut line, &["metadata", filter, key.trim_end_matches(']')], text);
            }
        }
    }
    line
}

/// Sets a field of a field; two claims of which one lies in the other cannot both be there.
fn put(line: &mut Value, names: &[&str], value: Value) {
    let Some((first, rest)) = names.split_first() else {
        *line = value;
        return;
    };
    if !line.is_object() {
        *line = json!({});
    }
    if let Value::Object(fields) = line {
        put(fields.entry(*first).or_insert(Value::Null), rest, value);
    }
}
