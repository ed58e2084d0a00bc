//! What a patch has to find in an Envoy configuration: listeners, their filter chains, and the filter lists in them.
//!
//! Reads as Envoy does: snake and camel case, a single mapping where a list is meant, `TypedStruct`, names that say
//! nothing. Filter lists of clusters (upstream filters) are not listeners' and are never looked at.

use super::tree::{NodeId, Tree};

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The packages of the network filters that end a chain, below `envoy.extensions.filters.network`. The HTTP connection
/// manager is not among them: it has filters of its own.
const TERMINAL: [&str; 9] = [
    "tcp_proxy",
    "redis_proxy",
    "thrift_proxy",
    "dubbo_proxy",
    "generic_proxy",
    "rocketmq_proxy",
    "sip_proxy",
    "echo",
    "direct_response",
];
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Filters that establish who asks: the mesh's filter comes behind them.
const AUTHENTICATION: [&str; 5] = [
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.oauth2.v3.OAuth2",
    "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Tcp,
}

/// One listener, as far as a patch is concerned.
#[derive(Clone, Debug)]
pub struct Listener {
    pub node: NodeId,
    pub name: Option<String>,
    pub port: Option<u32>,
    pub outbound: bool,
    pub chains: Vec<Chain>,
    /// It asks its peers through an `api_listener`, which has no connections of its own.
    pub api: bool,
}

#[derive(Clone, Debug)]
pub struct Chain {
    /// The mapping of the filter chain.
    pub node: NodeId,
    pub filters: Vec<Filter>,
    /// Where a network filter would be put.
    pub list: Option<List>,
}

/// A network filter or an HTTP filter.
#[derive(Clone, Debug)]
pub struct Filter {
    pub node: NodeId,
    pub name: Option<String>,
    /// The message type, without `type.googleapis.com/`; of a `TypedStruct`, the type it holds.
    pub kind: Option<String>,
    /// The mapping of its configuration.
    pub config: Option<NodeId>,
}

/// A repeated field as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    pub key: NodeId,
    /// What stands behind the key: an alias, if it is one.
    pub written: NodeId,
    /// A sequence, a single mapping, or null; never an alias.
    pub value: NodeId,
}

impl List {
    fn new(tree: &Tree, (key, written): (NodeId, NodeId)) -> Self {
        Self { key, written, value: tree.resolve(written) }
    }

    /// Whether a change of one is a change of the other: both are one sequence, or one key's mapping.
    pub fn is_same(&self, tree: &Tree, other: &Self) -> bool {
        self.written == other.written || (self.value == other.value && tree.is_sequence(self.value))
    }
}

impl Filter {
    fn read(tree: &Tree, node: NodeId) -> Self {
        let name = tree.text_at(node, "name").map(str::to_owned);
        let typed = field(tree, node, "typed_config");
        let mut config = typed;
        let mut kind = typed.and_then(|typed| tree.text_at(typed, "@type")).map(short);
        if kind.as_deref().is_some_and(|kind| kind.ends_with(".TypedStruct")) {
            kind = typed
                .and_then(|typed| field(tree, typed, "type_url"))
                .and_then(|url| tree.text(url))
                .map(short);
            config = typed.and_then(|typed| tree.value(typed, "value"));
        }
        if kind.is_none() {
            // Of a filter that comes from elsewhere at least the type may be said.
            let discovery = field(tree, node, "config_discovery");
            let urls = discovery.and_then(|discovery| field(tree, discovery, "type_urls"));
            kind = urls
                .and_then(|urls| list(tree, urls).first().copied())
                .and_then(|url| tree.text(url))
                .map(short);
        }
        Self { node: tree.resolve(node), name, kind, config: config.map(|config| tree.resolve(config)) }
    }

    pub fn is_manager(&self) -> bool {
        self.kind.as_deref() == Some(MANAGER)
    }

    /// It takes the connection's bytes itself, as `tcp_proxy` does: `redis_proxy`, `thrift_proxy` and their like.
    pub fn ends_connections(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| {
            TERMINAL.iter().any(|name| {
                kind.strip_prefix("envoy.extensions.filters.network.")
                    .is_some_and(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(".v3")))
            })
        })
    }

    pub fn is_router(&self) -> bool {
        match &self.kind {
            Some(kind) => kind == ROUTER,
            None => self.name.as_deref() == Some("envoy.filters.http.router"),
        }
    }

    pub fn is_authentication(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| AUTHENTICATION.contains(&kind))
    }

    /// It speaks the API that Envoy has not read since 1.18: types of v2, or `config` instead of `typed_config`.
    pub fn is_v2(&self, tree: &Tree) -> bool {
        let old_type = self.kind.as_deref().is_some_and(|kind| {
            kind.starts_with("envoy.config.filter.") || kind.contains(".v2.") || kind.contains(".v2alpha.")
        });
        old_type || (self.config.is_none() && tree.value(self.node, "config").is_some())
    }
}

/// The filters of an HTTP connection manager, and of its upgrades (a WebSocket takes the upgrade's list instead).
pub fn http_lists(tree: &Tree, manager: NodeId) -> Vec<(List, Vec<Filter>)> {
    // Both spellings together are one list for Envoy. The one with the router is the later one, or Envoy refuses.
    let written: Vec<List> = ["http_filters", "httpFilters"]
        .iter()
        .filter_map(|key| tree.entry(manager, key))
        .map(|entry| List::new(tree, entry))
        .collect();
    let routed = written.iter().find(|list| filters(tree, list.value).iter().any(Filter::is_router));
    let mut lists: Vec<(List, Vec<Filter>)> =
        routed.or(written.last()).map(|found| (*found, filters(tree, found.value))).into_iter().collect();
    for upgrade in repeated(tree, manager, "upgrade_configs") {
        if let Some(entry) = tree.entry(upgrade, "filters") {
            let list = List::new(tree, entry);
            let found = filters(tree, list.value);
            if !found.is_empty() {
                lists.push((list, found));
            }
        }
    }
    lists
}

/// The filters of a list, in order.
pub fn filters(tree: &Tree, value: NodeId) -> Vec<Filter> {
    list(tree, value).into_iter().map(|node| Filter::read(tree, node)).collect()
}

/// Whether a document is an Envoy configuration: a bootstrap, a file of listeners, or listeners alone.
pub fn is_envoy(tree: &Tree, root: NodeId) -> bool {
    const BOOTSTRAP: [&str; 6] = [
        "static_resources",
        "staticResources",
        "dynamic_resources",
        "dynamicResources",
        "admin",
        "layered_runtime",
    ];
    let kubernetes = tree.value(root, "apiVersion").is_some() || tree.value(root, "kind").is_some();
    !kubernetes
        && (BOOTSTRAP.iter().any(|key| tree.value(root, key).is_some())
            || !listener_nodes(tree, root).is_empty())
}

/// All listeners of a document.
pub fn listeners(tree: &Tree, root: NodeId) -> Vec<Listener> {
    listener_nodes(tree, root).into_iter().map(|node| read_listener(tree, node)).collect()
}

fn listener_nodes(tree: &Tree, root: NodeId) -> Vec<NodeId> {
    let is_listener = |node: &NodeId| {
        let typed = tree.text_at(*node, "@type").is_some_and(|url| url.ends_with(".Listener"));
        typed || field(tree, *node, "filter_chains").is_some() || field(tree, *node, "api_listener").is_some()
    };
    let resources: Vec<NodeId> = spellings(tree, root, "static_resources").collect();
    if !resources.is_empty() {
        return resources.into_iter().flat_map(|resources| repeated(tree, resources, "listeners")).collect();
    }
    // A file of a listener discovery: the resources themselves, or wrapped with a name and version.
    if let Some(resources) = tree.value(root, "resources") {
        let unwrapped =
            list(tree, resources).into_iter().map(|node| tree.value(node, "resource").unwrap_or(node));
        return unwrapped.filter(is_listener).collect();
    }
    if let Some(found) = tree.value(root, "listeners") {
        return list(tree, found).into_iter().filter(is_listener).collect();
    }
    if tree.is_sequence(root) {
        return tree.items(root).iter().copied().filter(is_listener).collect();
    }
    if is_listener(&root) { vec![root] } else { Vec::new() }
}

fn read_listener(tree: &Tree, node: NodeId) -> Listener {
    let name = tree.text_at(node, "name").map(str::to_owned);
    let port = tree
        .value(node, "address")
        .and_then(|address| field(tree, address, "socket_address"))
        .and_then(|address| field(tree, address, "port_value"))
        .and_then(|port| tree.text(port))
        .and_then(|port| port.parse().ok());
    let direction = field(tree, node, "traffic_direction").and_then(|direction| tree.text(direction));
    let outbound = match direction {
        Some("OUTBOUND") => true,
        Some("INBOUND") => false,
        // Only what says so itself is taken for outbound; everything else is guarded.
        _ => name.as_deref().is_some_and(|name| {
            name.split(|c: char| !c.is_ascii_alphanumeric())
                .any(|word| word.eq_ignore_ascii_case("outbound") || word.eq_ignore_ascii_case("egress"))
        }),
    };
    let chains = repeated(tree, node, "filter_chains");
    let chains = chains.into_iter().chain(spellings(tree, node, "default_filter_chain"));
    let chains = chains.map(|chain| read_chain(tree, chain)).collect();
    let api = field(tree, node, "api_listener").is_some();
    Listener { node: tree.resolve(node), name, port, outbound, chains, api }
}

fn read_chain(tree: &Tree, node: NodeId) -> Chain {
    let node = tree.resolve(node);
    let list = tree.entry(node, "filters").map(|entry| List::new(tree, entry));
    Chain { node, filters: list.map_or_else(Vec::new, |list| filters(tree, list.value)), list }
}

/// A field by its proto name, or in camel case.
pub fn field(tree: &Tree, node: NodeId, name: &str) -> Option<NodeId> {
    tree.value(node, name).or_else(|| tree.value(node, &camel(name))).map(|value| tree.resolve(value))
}

/// A field under each name it is written with. Of one that is there in both spellings Envoy joins the two.
fn spellings<'t>(tree: &'t Tree, node: NodeId, name: &str) -> impl Iterator<Item = NodeId> + use<'t> {
    let values = [tree.value(node, name), tree.value(node, &camel(name)).filter(|_| name.contains('_'))];
    values.into_iter().flatten().map(|value| tree.resolve(value))
}

/// The items of a repeated field, in both its spellings.
fn repeated(tree: &Tree, node: NodeId, name: &str) -> Vec<NodeId> {
    spellings(tree, node, name).flat_map(|value| list(tree, value)).collect()
}

/// The items of a repeated field: Envoy takes a single mapping for a list of one.
pub fn list(tree: &Tree, value: NodeId) -> Vec<NodeId> {
    if tree.is_sequence(value) {
        tree.items(value).to_vec()
    } else if tree.is_null(value) {
        Vec::new()
    } else {
        vec![tree.resolve(value)]
    }
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// The message name of a type URL.
fn short(url: &str) -> String {
    url.rsplit('/').next().unwrap_or(url).to_owned()
}
