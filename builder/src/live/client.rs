//! The API server: objects read, listed and applied, as JSON.
//!
//! A request after the other: what is done here waits for people, not for throughput. kubeconfig, contexts, client
//! certificates, tokens, login plugins and the service account of a pod are the library's.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use kube::api::ObjectMeta;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::MANAGER;
use super::error::ApiError;
use super::kind::Kind;
use crate::diagnostic::Diagnostic;
use crate::local::client::{self as http1, Response};

/// How long a server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Objects in one answer to a list.
const PAGE: usize = 250;

/// Which cluster, as kubectl asks it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    pub namespace: Option<String>,
}

/// A connection to one cluster.
pub struct Cluster {
    client: kube::Client,
    runtime: tokio::runtime::Runtime,
    /// The namespace that was asked for, or the context's.
    pub namespace: String,
    /// The context's name, or the server's address.
    pub name: String,
}

/// How an apply is meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// The server answers as if, and keeps nothing.
    pub dry_run: bool,
    /// Fields of other managers are taken over.
    pub force: bool,
}

impl Cluster {
    /// Reads the kubeconfig (or the service account of the pod that this runs in). Nothing is asked of the server yet.
    ///
    /// # Errors
    /// No kubeconfig, a context that is not in it, credentials that cannot be read.
    pub fn connect(target: &Target) -> Result<Self, Diagnostic> {
        let failed = |why: String| {
            Diagnostic::error("no-cluster", format!("there is no cluster to speak to: {why}"))
                .help("name one with --context or --kubeconfig, as for kubectl")
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let (mut config, name) = runtime.block_on(configuration(target)).map_err(failed)?;
        config.connect_timeout = Some(Duration::from_secs(10));
        config.read_timeout = Some(PATIENCE);
        config.reset_reader_on_write = true;
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let _inside = runtime.enter();
        let client = kube::Client::try_from(config).map_err(|error| failed(error.to_string()))?;
        drop(_inside);
        Ok(Self { client, runtime, namespace, name })
    }

    fn ask(&self, request: Result<Request<Vec<u8>>, http::Error>) -> Result<Value, ApiError> {
        let request = request.map_err(|error| ApiError::Other(error.to_string()))?;
        Ok(self.runtime.block_on(self.client.request::<Value>(request))?)
    }

    /// One object; None when it is not there.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let path = format!("{}/{}", kind.path(Some(namespace)), escape(name));
        match self.ask(Request::get(path).body(Vec::new())) {
            Ok(object) => Ok(Some(object)),
            Err(ApiError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind, in a namespace or all, that have these labels.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        selector: Option<&str>,
    ) -> Result<Vec<Value>, ApiError> {
        let (mut found, mut next) = (Vec::new(), String::new());
        loop {
            let mut path = format!("{}?limit={PAGE}", kind.path(namespace));
            if let Some(selector) = selector {
                path.push_str(&format!("&labelSelector={}", escape(selector)));
            }
            if !next.is_empty() {
                path.push_str(&format!("&continue={}", escape(&next)));
            }
            let mut answer = self.ask(Request::get(path).body(Vec::new()))?;
            if let Some(Value::Array(items)) = answer.get_mut("items").map(Value::take) {
                // In a list the items do not say what they are.
                found.extend(items.into_iter().map(|item| with_type(item, kind)));
            }
            match answer.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(more) if !more.is_empty() => more.clone_into(&mut next),
                _ => return Ok(found),
            }
        }
    }

    /// One request to a port in a pod, which may listen on the pod's loopback alone.
    ///
    /// # Errors
    /// The port-forward is refused, or nobody answers; in words.
    pub fn exchange(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        request: &http1::Request<'_>,
    ) -> Result<Response, String> {
        let exchange = async {
            let pods = kube::Api::<Pod>::namespaced(self.client.clone(), namespace);
            let mut forwarder =
                pods.portforward(pod, &[port]).await.map_err(|error| ApiError::from(error).words())?;
            let mut stream = forwarder.take_stream(port).ok_or("no stream for the port")?;
            let mut bytes = Vec::new();
            let conversation = async {
                stream.write_all(&http1::encode(request)).await?;
                // The end of the answer, or, if the other side leaves the connection open, the last chunk of it.
                while stream.read_buf(&mut bytes).await? > 0 && !bytes.ends_with(b"\r\n0\r\n\r\n") {}
                Ok::<(), std::io::Error>(())
            };
            let ended = conversation.await;
            drop(stream);
            if let Some(answer) = http1::parse(&bytes) {
                return Ok(answer);
            }
            // What the server says of the port tells more than how the stream ended.
            let said = match forwarder.take_error(port) {
                Some(error) => tokio::time::timeout(Duration::from_secs(1), error).await.ok().flatten(),
                None => None,
            };
            let nobody = || format!("nobody answers at port {port} of the pod");
            Err(said.unwrap_or_else(|| ended.map_or_else(|error| error.to_string(), |()| nobody())))
        };
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, exchange)
                .await
                .unwrap_or_else(|_| Err(format!("no answer from port {port} of the pod within {PATIENCE:?}")))
        })
    }

    /// A server-side apply: the object as it is then.
    ///
    /// # Errors
    /// As for [`Self::get`], a conflict among them.
    pub fn apply(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        body: &Value,
        how: How,
    ) -> Result<Value, ApiError> {
        let mut path = format!(
            "{}/{}?fieldManager={MANAGER}&fieldValidation=Strict",
            kind.path(Some(namespace)),
            escape(name)
        );
        if how.dry_run {
            path.push_str("&dryRun=All");
        }
        if how.force {
            path.push_str("&force=true");
        }
        // JSON is YAML, and this is the only type that every server takes for an apply.
        let request = Request::patch(path).header("content-type", "application/apply-patch+yaml");
        self.ask(request.body(serde_json::to_vec(body).unwrap_or_default()))
    }
}

/// A pod, as far as a port-forward needs it.
#[derive(Clone, Debug, serde::Deserialize)]
struct Pod {
    metadata: ObjectMeta,
}

impl kube::Resource for Pod {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl kube::api::Portforward for Pod {}

async fn configuration(target: &Target) -> Result<(kube::Config, String), String> {
    use kube::config::{KubeConfigOptions, Kubeconfig};
    let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
    let (config, name) = if let Some(file) = &target.kubeconfig {
        let file = Kubeconfig::read_from(file).map_err(|error| error.to_string())?;
        let name = target.context.clone().or_else(|| file.current_context.clone());
        (kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string())?, name)
    } else if target.context.is_some() {
        let config = kube::Config::from_kubeconfig(&options).await.map_err(|error| error.to_string())?;
        (config, target.context.clone())
    } else {
        let name = Kubeconfig::read().ok().and_then(|file| file.current_context);
        (kube::Config::infer().await.map_err(|error| error.to_string())?, name)
    };
    let name = name.unwrap_or_else(|| config.cluster_url.host().unwrap_or("cluster").to_owned());
    Ok((config, name))
}

fn with_type(mut object: Value, kind: &Kind) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), kind.api_version().into());
        fields.insert("kind".to_owned(), kind.name.into());
    }
    object
}

/// A part of a path or a query, with everything escaped that could be read otherwise.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_selector_ends_the_query() {
        assert_eq!(escape("app in (a,b)&x"), "app%20in%20%28a%2Cb%29%26x");
    }
}
