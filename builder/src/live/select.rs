//! Which objects of a cluster are meant, and these objects.

use serde_json::Value;

use super::client::Cluster;
use super::error::ApiError;
use super::kind::{self, Kind};
use crate::diagnostic::{Diagnostic, Failure};

/// Which objects are meant.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `KIND/NAME` or a name; none: all that hold an Envoy configuration.
    pub names: Vec<String>,
    pub selector: Option<String>,
    pub all_namespaces: bool,
    /// Secrets, too, where none is named by kind.
    pub secrets: bool,
}

/// The objects that are meant: those named, or all of `kinds`; `known` are those that can be named.
///
/// # Errors
/// All that is not there or cannot be read.
pub fn objects(
    cluster: &Cluster,
    wanted: &Wanted,
    kinds: &[&'static Kind],
    known: &[&'static Kind],
) -> Result<Vec<(&'static Kind, Value)>, Failure> {
    let (mut found, mut mistakes) = (Vec::new(), Vec::new());
    if wanted.names.is_empty() {
        let namespace = (!wanted.all_namespaces).then_some(cluster.namespace.as_str());
        for kind in kinds {
            match cluster.list(kind, namespace, wanted.selector.as_deref()) {
                Ok(objects) => found.extend(objects.into_iter().map(|object| (*kind, object))),
                Err(error) => mistakes.push(error.diagnostic(kind, namespace, "", &["list"])),
            }
        }
    }
    for written in &wanted.names {
        let (asked, name) = match kind::named(written, known) {
            Ok(named) => named,
            Err(message) => {
                mistakes.push(Diagnostic::error("unknown-kind", message));
                continue;
            }
        };
        let asked: Vec<&'static Kind> = asked.map_or_else(|| kinds.to_vec(), |kind| vec![kind]);
        let before = found.len() + mistakes.len();
        for kind in &asked {
            match cluster.get(kind, &cluster.namespace, name) {
                Ok(object) => found.extend(object.map(|object| (*kind, object))),
                Err(error) => mistakes.push(error.diagnostic(kind, Some(&cluster.namespace), name, &["get"])),
            }
        }
        if found.len() + mistakes.len() == before
            && let Some(kind) = asked.first()
        {
            mistakes.push(ApiError::NotFound.diagnostic(kind, Some(&cluster.namespace), name, &[]));
        }
    }
    if mistakes.is_empty() { Ok(found) } else { Err(mistakes.into()) }
}
