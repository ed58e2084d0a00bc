//! Envoy's messages, as far as we write them, under Envoy's own field names (`envoy.config.*.v3`, JSON mapping).
//!
//! Only shapes live here; what goes into them is decided in the sibling modules. Durations are in protobuf's JSON form
//! (`"5s"`). Deliberately absent: reading foreign configurations (`crate::patch` does, on the text itself).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

/// A `google.protobuf.Any`: `@type` first, then the message's fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Any<T> {
    #[serde(rename = "@type")]
    type_url: String,
    #[serde(flatten)]
    pub message: T,
}

impl<T> Any<T> {
    /// `message` as the message type `name` (`envoy.extensions.…`).
    pub fn new(name: &str, message: T) -> Self {
        Self { type_url: format!("type.googleapis.com/{name}"), message }
    }
}

impl<T: Serialize> Any<T> {
    /// The same without its Rust type, for lists of different messages.
    pub fn erase(self) -> AnyValue {
        // Our messages have string keys only, so that they always are JSON.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// Any message, with its `@type`.
pub type AnyValue = Value;

/// An extension by name, with its configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Extension {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typed_config: Option<AnyValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_discovery: Option<ExtensionConfigSource>,
}

impl Extension {
    pub fn new<T: Serialize>(name: &str, type_name: &str, message: T) -> Self {
        let typed_config = Some(Any::new(type_name, message).erase());
        Self { name: name.to_owned(), typed_config, config_discovery: None }
    }
}

/// A message without fields.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Empty {}

/// `core.v3.ExtensionConfigSource`: a filter whose configuration comes by ECDS.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExtensionConfigSource {
    pub config_source: ConfigSource,
    pub default_config: AnyValue,
    pub apply_default_config_without_warming: bool,
    pub type_urls: Vec<String>,
}

/// `core.v3.ConfigSource` of a file in a watched directory. Envoy reacts to moves: without the directory, the swap of
/// `..data` in a ConfigMap's volume goes unseen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigSource {
    pub path_config_source: PathConfigSource,
    pub resource_api_version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathConfigSource {
    pub path: String,
    pub watched_directory: WatchedDirectory,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WatchedDirectory {
    pub path: String,
}

impl ConfigSource {
    pub fn file(directory: &str, name: &str) -> Self {
        Self {
            path_config_source: PathConfigSource {
                path: format!("{directory}/{name}"),
                watched_directory: WatchedDirectory { path: directory.to_owned() },
            },
            resource_api_version: "V3",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    SocketAddress(SocketAddress),
    Pipe(Pipe),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pipe {
    pub path: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SocketAddress {
    pub address: String,
    pub port_value: u16,
}

impl Address {
    pub fn ip(address: IpAddr, port: u16) -> Self {
        Self::name(address.to_string(), port)
    }

    pub fn name(address: impl Into<String>, port: u16) -> Self {
        Self::SocketAddress(SocketAddress { address: address.into(), port_value: port })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataSource {
    pub filename: String,
}

/// `config.bootstrap.v3.Bootstrap`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bootstrap {
    pub node: Node,
    pub admin: Admin,
    pub static_resources: StaticResources,
    pub stats_config: StatsConfig,
    pub overload_manager: OverloadManager,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    pub id: String,
    pub cluster: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admin {
    pub address: Address,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StaticResources {
    pub listeners: Vec<Listener>,
    pub clusters: Vec<Cluster>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatsConfig {
    pub stats_tags: Vec<TagSpecifier>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TagSpecifier {
    pub tag_name: String,
    pub regex: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverloadManager {
    pub refresh_interval: &'static str,
    pub resource_monitors: Vec<Extension>,
    pub actions: Vec<OverloadAction>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OverloadAction {
    pub name: &'static str,
    pub triggers: Vec<Trigger>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trigger {
    pub name: &'static str,
    pub threshold: Threshold,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Threshold {
    pub value: f64,
}

/// `config.listener.v3.Listener`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    pub name: String,
    pub address: Address,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub additional_addresses: Vec<AdditionalAddress>,
    pub traffic_direction: &'static str,
    pub per_connection_buffer_limit_bytes: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listener_filters: Vec<Extension>,
    pub filter_chains: Vec<FilterChain>,
    /// `xds.type.matcher.v3.Matcher` of the chains' names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_chain_matcher: Option<AnyValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_filters_timeout: Option<&'static str>,
}

/// `config.listener.v3.AdditionalAddress`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdditionalAddress {
    pub address: Address,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterChain {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_chain_match: Option<FilterChainMatch>,
    pub filters: Vec<Extension>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_socket: Option<Extension>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_socket_connect_timeout: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FilterChainMatch {
    pub transport_protocol: &'static str,
}

/// `…http_connection_manager.v3.HttpConnectionManager`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpConnectionManager {
    pub stat_prefix: String,
    pub codec_type: &'static str,
    pub route_config: RouteConfiguration,
    pub http_filters: Vec<Extension>,
    pub access_log: Vec<Extension>,
    pub use_remote_address: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xff_num_trusted_hops: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    pub skip_xff_append: bool,
    pub internal_address_config: InternalAddressConfig,
    pub forward_client_cert_details: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_current_client_cert_details: Option<SetCurrentClientCertDetails>,
    #[serde(skip_serializing_if = "is_false")]
    pub preserve_external_request_id: bool,
    pub server_header_transformation: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    pub normalize_path: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub merge_slashes: bool,
    pub path_with_escaped_slashes_action: &'static str,
    pub common_http_protocol_options: HttpProtocolOptions,
    pub http2_protocol_options: Http2ProtocolOptions,
    pub request_headers_timeout: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<&'static str>,
    pub stream_idle_timeout: &'static str,
    pub drain_timeout: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upgrade_configs: Vec<UpgradeConfig>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InternalAddressConfig {
    pub cidr_ranges: Vec<CidrRange>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CidrRange {
    pub address_prefix: &'static str,
    pub prefix_len: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SetCurrentClientCertDetails {
    pub uri: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpgradeConfig {
    pub upgrade_type: &'static str,
}

/// `core.v3.HttpProtocolOptions`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpProtocolOptions {
    pub idle_timeout: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stream_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_with_underscores_action: Option<&'static str>,
}

/// `core.v3.Http2ProtocolOptions`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Http2ProtocolOptions {
    pub max_concurrent_streams: u32,
    pub initial_stream_window_size: u32,
    pub initial_connection_window_size: u32,
}

/// `config.route.v3.RouteConfiguration`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteConfiguration {
    pub name: String,
    pub virtual_hosts: Vec<VirtualHost>,
    /// `bookapi:80` finds the virtual host `bookapi`.
    pub ignore_port_in_host_matching: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VirtualHost {
    pub name: String,
    pub domains: Vec<String>,
    pub routes: Vec<Route>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    #[serde(rename = "match")]
    pub matcher: RouteMatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_separated_prefix: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatcher>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeaderMatcher {
    pub name: &'static str,
    pub string_match: StringMatcher,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteAction {
    pub cluster: String,
    pub timeout: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_rewrite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_rewrite_literal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<RetryPolicy>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryPolicy {
    pub retry_on: String,
    pub num_retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DirectResponse {
    pub status: u16,
    pub body: InlineString,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InlineString {
    pub inline_string: String,
}

/// `type.matcher.v3.StringMatcher`
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringMatcher {
    Exact(String),
    Prefix(String),
}

/// `…network.tcp_proxy.v3.TcpProxy`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TcpProxy {
    pub stat_prefix: String,
    pub cluster: String,
    pub idle_timeout: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_downstream_connection_duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_connect_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_early_data_bytes: Option<u32>,
    pub access_log: Vec<Extension>,
}

/// `config.cluster.v3.Cluster`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    pub name: String,
    #[serde(rename = "type")]
    pub discovery_type: &'static str,
    pub connect_timeout: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_lookup_family: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_refresh_rate: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lb_policy: Option<&'static str>,
    /// None exactly with the type `ORIGINAL_DST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_assignment: Option<ClusterLoadAssignment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_dst_lb_config: Option<OriginalDstLbConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breakers: Option<CircuitBreakers>,
    /// Ejects hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_lb_config: Option<CommonLbConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_socket: Option<Extension>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub typed_extension_protocol_options: BTreeMap<&'static str, AnyValue>,
}

/// `config.cluster.v3.Cluster.OriginalDstLbConfig`
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OriginalDstLbConfig {
    pub upstream_port_override: u16,
}

/// Envoy's `circuit_breakers` are limits of concurrency, and not what opens and closes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CircuitBreakers {
    pub thresholds: Vec<Thresholds>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Thresholds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    #[serde(skip_serializing_if = "is_false")]
    pub track_remaining: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetryBudget {
    pub budget_percent: Percent,
    pub min_retry_concurrency: u32,
}

/// `type.v3.Percent`
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percent {
    pub value: f64,
}

/// `config.cluster.v3.Cluster.CommonLbConfig`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommonLbConfig {
    pub healthy_panic_threshold: Percent,
}

/// `config.cluster.v3.OutlierDetection`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub enforcing_consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub split_external_local_origin_errors: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_local_origin_failure: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcing_consecutive_local_origin_failure: Option<u32>,
    pub enforcing_success_rate: u32,
    pub interval: String,
    pub base_ejection_time: String,
    pub max_ejection_percent: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub always_eject_one_host: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterLoadAssignment {
    pub cluster_name: String,
    pub endpoints: Vec<LocalityLbEndpoints>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LocalityLbEndpoints {
    pub lb_endpoints: Vec<LbEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LbEndpoint {
    pub endpoint: Endpoint,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    pub address: Address,
}

/// `…upstreams.http.v3.HttpProtocolOptions`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamHttp {
    pub common_http_protocol_options: HttpProtocolOptions,
    /// HTTP/1 stays HTTP/1 and HTTP/2 stays HTTP/2, all the way: so that WebSockets and gRPC both arrive.
    pub use_downstream_protocol_config: UseDownstreamProtocol,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UseDownstreamProtocol {
    pub http_protocol_options: Empty,
    pub http2_protocol_options: Http2ProtocolOptions,
}

/// A file with resources of one type, as Envoy reads it for a file subscription (`DiscoveryResponse`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Resources {
    pub resources: Vec<AnyValue>,
}
