//! Where one service is told how to call another: addresses in environment variables and in the values of ConfigMaps.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::patch::tree::{NodeId, Tree};

/// A service that may be meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callee {
    pub name: String,
    pub namespace: String,
    /// The one that callers know.
    pub port: u16,
    pub is_tcp: bool,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `BookApi__BaseUrl`, the variable or the key.
    pub key: String,
    /// The bytes to be replaced, in the text that was given.
    pub range: Range<usize>,
    /// What is written there: `http://bookapi:5288`, `timescaledb`.
    pub written: String,
    /// The service that it means.
    pub callee: String,
}

/// The addresses in one document: of a workload, or of a ConfigMap.
pub fn find(slice: &str, services: &[Callee]) -> Vec<Address> {
    let Ok(tree) = Tree::parse(slice) else { return Vec::new() };
    let mut found = Vec::new();
    for root in tree.documents() {
        match tree.text_at(*root, "kind") {
            Some("ConfigMap") => {
                let Some(data) = tree.value(*root, "data") else { continue };
                for (key, value) in tree.entries(data) {
                    scan(slice, &tree, tree.text(key).unwrap_or_default(), value, services, &mut found);
                }
            }
            _ => variables(slice, &tree, *root, services, &mut found),
        }
    }
    found
}

/// Lists called `env`, wherever they are.
fn variables(slice: &str, tree: &Tree, node: NodeId, services: &[Callee], found: &mut Vec<Address>) {
    for (key, value) in tree.entries(node) {
        if tree.text(key) == Some("env") {
            for variable in tree.items(value) {
                if let (Some(name), Some(value)) =
                    (tree.text_at(*variable, "name"), tree.value(*variable, "value"))
                {
                    scan(slice, tree, name, value, services, found);
                }
            }
        } else {
            variables(slice, tree, value, services, found);
        }
    }
    for item in tree.items(node) {
        variables(slice, tree, *item, services, found);
    }
}

fn scan(slice: &str, tree: &Tree, key: &str, value: NodeId, services: &[Callee], found: &mut Vec<Address>) {
    // An alias is written elsewhere, and changed there.
    let span = tree.node(value).span.clone();
    let Some(raw) = slice.get(span.clone()) else { return };
    for service in services {
        let range = if service.is_tcp { tcp(raw, service) } else { http(raw, service) };
        if let Some(range) = range {
            let written = raw.get(range.clone()).unwrap_or_default().to_owned();
            let range = span.start + range.start..span.start + range.end;
            found.push(Address { key: key.to_owned(), range, written, callee: service.name.clone() });
        }
    }
}

/// The names under which a service is known, the longest first.
fn hosts(service: &Callee) -> [String; 4] {
    let Callee { name, namespace, .. } = service;
    [
        format!("{name}.{namespace}.svc.cluster.local"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
        name.clone(),
    ]
}

/// `http://bookapi:5288`, without the path behind it.
fn http(raw: &str, service: &Callee) -> Option<Range<usize>> {
    for host in hosts(service) {
        let url = format!("http://{host}");
        for (start, _) in raw.match_indices(&url) {
            let behind = raw.get(start + url.len()..)?;
            let digits = behind
                .strip_prefix(':')
                .map_or(0, |port| port.bytes().take_while(u8::is_ascii_digit).count());
            let length = if digits > 0 { digits + 1 } else { 0 };
            if ends(behind.get(length..)?) {
                return Some(start..start + url.len() + length);
            }
        }
    }
    None
}

/// The name in `timescaledb:5432`, `@timescaledb/`, `Host=timescaledb`.
fn tcp(raw: &str, service: &Callee) -> Option<Range<usize>> {
    for host in hosts(service) {
        for (start, _) in raw.match_indices(&host) {
            let (before, behind) = (raw.get(..start)?, raw.get(start + host.len()..)?);
            let lower = before.to_ascii_lowercase();
            let keyword =
                ["host=", "server=", "data source=", "@", "//"].iter().any(|word| lower.ends_with(word));
            let port =
                behind.strip_prefix(':').is_some_and(|port| port.starts_with(&service.port.to_string()));
            let begins = !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "-._".contains(c));
            let whole = raw.trim_matches(['"', '\'']) == host;
            if begins && (port || whole || (keyword && ends(behind))) {
                return Some(start..start + host.len());
            }
        }
    }
    None
}

/// Nothing that makes the name a longer one.
fn ends(behind: &str) -> bool {
    !behind.starts_with(|c: char| c.is_ascii_alphanumeric() || "-._:".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, port: u16, is_tcp: bool) -> Callee {
        Callee { name: name.into(), namespace: "shop".into(), port, is_tcp }
    }

    fn found(value: &str) -> Vec<String> {
        let services = [service("bookapi", 5288, false), service("db", 5432, true)];
        let slice = format!("kind: ConfigMap\ndata:\n  Key: {value}\n");
        find(&slice, &services).into_iter().map(|one| format!("{} → {}", one.written, one.callee)).collect()
    }

    #[test]
    fn addresses_are_told_from_what_looks_like_them() {
        assert_eq!(found("http://bookapi:5288/books"), ["http://bookapi:5288 → bookapi"]);
        assert_eq!(
            found("'http://bookapi.shop.svc.cluster.local'"),
            ["http://bookapi.shop.svc.cluster.local → bookapi"]
        );
        assert_eq!(found("|\n    {\"Url\": \"http://bookapi/x\"}"), ["http://bookapi → bookapi"]);
        assert_eq!(found("postgres://u:p@db:5432/x"), ["db → db"]);
        assert_eq!(found("Host=db;Port=5432"), ["db → db"]);
        assert_eq!(found("db"), ["db → db"]);
        for other in [
            "http://bookapi-mcp-server:5289",
            "http://bookapi.other",
            "https://bookapi",
            "mydb:5432",
            "the db",
            "debug",
        ] {
            assert!(found(other).is_empty(), "{other}");
        }
    }
}
