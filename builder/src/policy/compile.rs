//! Checked policies → the engine's, for one workload.
//!
//! Trust domain aliases are written out here as Istio does it (`pilot/pkg/security/trustdomain`), so that what the engine
//! compares can be read in its configuration.

use std::collections::BTreeSet;

use meshward_engine::config::{self, Attribute, Pattern, Text};

use super::authorization::{AuthorizationPolicy, Clause, Match, Rule};
use super::check::Policies;
use super::select::{self, Workload};

/// What a workload's filter and listener need.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// For [`config::PluginConfig::policies`], in the order of the files.
    pub policies: Vec<config::AuthorizationPolicy>,
    /// Some policy compares the direct peer's address (`ipBlocks`, `source.ip`).
    pub source_ip: bool,
    /// Some policy compares the original client's address (`remoteIpBlocks`, `remote.ip`).
    pub remote_ip: bool,
}

/// What compiling needs to know of the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The policies of this namespace are for all namespaces.
    pub root_namespace: &'a str,
    pub trust_domain: &'a str,
    pub trust_domain_aliases: &'a [String],
    /// The application's port and the sidecar's: policies say the former, the filter sees the latter.
    pub port: Option<PortMap>,
}

/// A sidecar's listener stands for the application's port.
#[derive(Clone, Copy, Debug)]
pub struct PortMap {
    pub application: u16,
    pub listener: u16,
}

/// The policies that are for a workload, as the engine takes them.
pub fn compile_for(policies: &Policies, workload: Workload<'_>, names: &Names<'_>) -> Compiled {
    let selected: Vec<&AuthorizationPolicy> =
        select::select(policies, workload, names.root_namespace).collect();
    let uses = |attribute: &Attribute| {
        selected
            .iter()
            .flat_map(|policy| &policy.rules)
            .flat_map(Rule::matches)
            .any(|one| one.attribute == *attribute)
    };
    Compiled {
        source_ip: uses(&Attribute::SourceIp),
        remote_ip: uses(&Attribute::RemoteIp),
        policies: selected.iter().map(|policy| authorization(policy, names)).collect(),
    }
}

/// One policy, whatever it selects.
pub fn authorization(policy: &AuthorizationPolicy, names: &Names<'_>) -> config::AuthorizationPolicy {
    config::AuthorizationPolicy {
        name: Text::from(policy.full_name()),
        action: policy.action,
        dry_run: policy.dry_run,
        rules: policy.rules.iter().map(|one| rule(one, names)).collect(),
        deny_response: policy.deny_response.clone(),
    }
}

/// One rule.
pub fn rule(rule: &Rule, names: &Names<'_>) -> config::Rule {
    let clauses = |clauses: &[Clause]| clauses.iter().map(|one| clause(&one.matches, names)).collect();
    config::Rule { from: clauses(&rule.from), to: clauses(&rule.to), when: clause(&rule.when, names) }
}

fn clause(matches: &[Match], names: &Names<'_>) -> config::Clause {
    let one = |one: &Match| {
        let patterns = one.values.iter().map(|value| &value.pattern);
        config::Match {
            attribute: one.attribute.clone(),
            negated: one.negated,
            patterns: match &one.attribute {
                Attribute::Principal => {
                    let mut seen = BTreeSet::new();
                    patterns
                        .flat_map(|pattern| with_aliases(pattern, names))
                        .filter(|pattern| seen.insert(pattern.clone()))
                        .collect()
                }
                Attribute::DestinationPort => {
                    patterns.map(|pattern| as_the_filter_sees(pattern, names)).collect()
                }
                _ => patterns.cloned().collect(),
            },
        }
    };
    config::Clause::new(matches.iter().map(one).collect())
}

/// No port of a request.
const NO_PORT: Pattern = Pattern::Port(0);

fn as_the_filter_sees(pattern: &Pattern, names: &Names<'_>) -> Pattern {
    match (pattern, names.port) {
        (Pattern::Port(port), Some(map)) if *port == map.application => Pattern::Port(map.listener),
        // Nothing else arrives at this sidecar; and its own port is no port of the application's.
        (Pattern::Port(_), Some(_)) => NO_PORT,
        _ => pattern.clone(),
    }
}

/// A principal under all names of our trust domain, when its own is one of them, or `cluster.local`, which stands for
/// ours. Istio does so only for principals of the form `td/ns/n/sa/a`; our own patterns by segments always name one.
fn with_aliases(pattern: &Pattern, names: &Names<'_>) -> Vec<Pattern> {
    let (text, make): (&Text, fn(Text) -> Pattern) = match pattern {
        Pattern::Exact(text) => (text, Pattern::Exact),
        Pattern::Prefix(text) => (text, Pattern::Prefix),
        Pattern::Segments(text) => (text, Pattern::Segments),
        Pattern::Suffix(text) => (text, Pattern::Exact),
        _ => return vec![pattern.clone()],
    };
    let as_written = vec![pattern.clone()];
    let Some((domain, rest)) = text.split_once('/') else { return as_written };
    if text.split('/').count() != 5 && !matches!(pattern, Pattern::Segments(_)) {
        return as_written;
    }
    let ours =
        || std::iter::once(names.trust_domain).chain(names.trust_domain_aliases.iter().map(String::as_str));
    let open = matches!(pattern, Pattern::Suffix(_));
    let is = |name: &str| if open { name.ends_with(domain) } else { name == domain };
    if open && domain.is_empty() || !(domain == "cluster.local" || ours().any(is)) {
        return as_written;
    }
    let mut all = Vec::new();
    for name in ours() {
        let one = if is(name) { pattern.clone() } else { make(Text::from(format!("{name}/{rest}"))) };
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(pattern: Pattern, aliases: &[&str]) -> Vec<Pattern> {
        let aliases: Vec<String> = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let names = Names {
            root_namespace: "istio-system",
            trust_domain: "td1",
            trust_domain_aliases: &aliases,
            port: None,
        };
        with_aliases(&pattern, &names)
    }

    fn exact(text: &str) -> Pattern {
        Pattern::Exact(text.into())
    }

    #[test]
    fn aliases_are_istios() {
        assert_eq!(
            expand(exact("cluster.local/ns/a/sa/b"), &["some-td"]),
            [exact("td1/ns/a/sa/b"), exact("some-td/ns/a/sa/b")]
        );
        assert_eq!(
            expand(exact("some-td/ns/a/sa/b"), &["cluster.local", "some-td"]),
            [exact("td1/ns/a/sa/b"), exact("cluster.local/ns/a/sa/b"), exact("some-td/ns/a/sa/b")]
        );
        for kept in
            [exact("other/ns/a/sa/b"), exact("td1/a"), Pattern::Prefix("td1/ns/a/".into()), Pattern::Any]
        {
            assert_eq!(expand(kept.clone(), &["some-td"]), [kept]);
        }
        let suffix = Pattern::Suffix("bar/ns/foo/sa/x".into());
        assert_eq!(expand(suffix.clone(), &["foobar"]), [exact("td1/ns/foo/sa/x"), suffix]);
        let open = Pattern::Suffix("/ns/foo/sa/x".into());
        assert_eq!(expand(open.clone(), &["foobar"]), [open]);
        let prefix = |text: &str| Pattern::Prefix(text.into());
        assert_eq!(expand(prefix("td1/ns/a/sa/b"), &["x"]), [prefix("td1/ns/a/sa/b"), prefix("x/ns/a/sa/b")]);
    }
}
