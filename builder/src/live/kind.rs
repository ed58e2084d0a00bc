//! The kinds of objects that are read and written, and the names by which people ask for them.

/// One kind of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub plural: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    /// What people write for it, besides the names.
    short: &'static str,
}

const VERSION: &str = "v1";

pub const CONFIG_MAP: Kind = Kind { name: "ConfigMap", plural: "configmaps", group: "", short: "cm" };
pub const SECRET: Kind = Kind { name: "Secret", plural: "secrets", group: "", short: "secret" };
pub const DEPLOYMENT: Kind =
    Kind { name: "Deployment", plural: "deployments", group: "apps", short: "deploy" };
pub const STATEFUL_SET: Kind =
    Kind { name: "StatefulSet", plural: "statefulsets", group: "apps", short: "sts" };
pub const DAEMON_SET: Kind = Kind { name: "DaemonSet", plural: "daemonsets", group: "apps", short: "ds" };
pub const CRON_JOB: Kind = Kind { name: "CronJob", plural: "cronjobs", group: "batch", short: "cj" };

pub const POD: Kind = Kind { name: "Pod", plural: "pods", group: "", short: "po" };
pub const SERVICE: Kind = Kind { name: "Service", plural: "services", group: "", short: "svc" };

/// Kinds whose pods are replaced when their template changes.
pub const WORKLOADS: [&Kind; 4] = [&DEPLOYMENT, &STATEFUL_SET, &DAEMON_SET, &CRON_JOB];
/// Kinds that hold configurations.
pub const HOLDERS: [&Kind; 2] = [&CONFIG_MAP, &SECRET];

impl Kind {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { VERSION.to_owned() } else { format!("{}/{VERSION}", self.group) }
    }

    /// The path of the API below which the objects of a namespace are, or those of all.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let namespace = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        format!("{root}/{}{namespace}/{}", self.api_version(), self.plural)
    }

    /// As in `kubectl get <kind>`.
    fn is_called(&self, written: &str) -> bool {
        let written = written.to_ascii_lowercase();
        let written = written.split('.').next().unwrap_or_default();
        written == self.plural || written == self.short || written == self.name.to_ascii_lowercase()
    }
}

/// `deployment/bookapi`, or `bookapi` for any of the kinds.
///
/// # Errors
/// A kind that is not among them.
pub fn named<'a>(
    written: &'a str,
    kinds: &[&'static Kind],
) -> Result<(Option<&'static Kind>, &'a str), String> {
    let Some((kind, name)) = written.split_once('/') else { return Ok((None, written)) };
    let known = kinds.iter().find(|known| known.is_called(kind)).copied();
    match known {
        Some(kind) if !name.is_empty() && !name.contains('/') => Ok((Some(kind), name)),
        _ => {
            let known: Vec<&str> = kinds.iter().map(|kind| kind.short).collect();
            Err(format!(
                "`{written}` is no object of a cluster that this command is about; it has `KIND/NAME` with one of the kinds {}",
                known.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_as_kubectl_names_them() {
        for written in ["deployment/a", "deploy/a", "Deployments/a", "deployments.apps/a"] {
            assert_eq!(named(written, &WORKLOADS), Ok((Some(&DEPLOYMENT), "a")), "{written}");
        }
        assert_eq!(named("a", &HOLDERS), Ok((None, "a")));
        assert!(named("pod/a", &WORKLOADS).unwrap_err().contains("deploy"));
        assert!(named("deploy/a/b", &WORKLOADS).is_err());
        assert_eq!(DEPLOYMENT.path(Some("shop")), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(CONFIG_MAP.path(None), "/api/v1/configmaps");
    }
}
