//! One rule: its sources, operations and conditions, every value parsed.

use std::ops::Range;

use meshward_engine::config::{Attribute, HeaderMode, Pattern};
use meshward_engine::pattern::PatternError;

use super::super::authorization::{Clause, Match, Rule, Value};
use super::super::{condition, model};
use crate::diagnostic::Diagnostic;
use crate::mesh::document::{Document, Spanned};

/// Most service accounts in one field, as in Istio.
const MOST_ACCOUNTS: usize = 16;

pub(crate) struct Reader<'a> {
    pub document: &'a Document,
    /// Nothing was set aside while reading, so what is missing is missing.
    pub whole: bool,
    /// The policy's own.
    pub namespace: &'a str,
    pub headers: HeaderMode,
    pub mistakes: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn error(&mut self, code: &'static str, message: String, span: &Range<usize>, help: &str) {
        self.mistakes.push(self.document.error(code, message, span).help(help));
    }

    /// A whole rule.
    pub fn rule(mut self, written: Spanned<model::Rule>) -> Rule {
        let span = written.span;
        let model::Rule { from, to, when } = written.value;
        self.not_empty("from", from.as_ref());
        self.not_empty("to", to.as_ref());
        self.not_empty("when", when.as_ref());
        let from = from.map(|list| list.value).unwrap_or_default();
        let to = to.map(|list| list.value).unwrap_or_default();
        let when = when.map(|list| list.value).unwrap_or_default();
        Rule {
            span,
            from: from.iter().filter_map(|from| self.source(from)).collect(),
            to: to.iter().filter_map(|to| self.operation(to)).collect(),
            when: when.iter().flat_map(|condition| self.condition(condition)).collect(),
        }
    }

    /// A list that is there and empty: Istio refuses it for `from` and `to`, and reads it as missing elsewhere.
    fn not_empty<T>(&mut self, name: &str, list: Option<&Spanned<Vec<T>>>) {
        if let Some(list) = list
            && list.is_empty()
            && self.whole
        {
            let help = "leave it out to match anything, or say what it matches";
            self.error("empty-list", format!("`{name}` is there and has no entries"), &list.span, help);
        }
    }

    fn source(&mut self, from: &Spanned<model::From>) -> Option<Clause> {
        let Some(source) = &from.source else {
            if !self.whole {
                return None;
            }
            let help = "write `- source: {…}`, or leave `from` out to match any caller";
            self.error("empty-source", "an entry of `from` has no `source`".to_owned(), &from.span, help);
            return None;
        };
        let mut matches = Vec::new();
        for (field, values, attribute, negated) in [
            ("principals", &source.principals, Attribute::Principal, false),
            ("notPrincipals", &source.not_principals, Attribute::Principal, true),
            ("requestPrincipals", &source.request_principals, Attribute::RequestPrincipal, false),
            ("notRequestPrincipals", &source.not_request_principals, Attribute::RequestPrincipal, true),
            ("namespaces", &source.namespaces, Attribute::Namespace, false),
            ("notNamespaces", &source.not_namespaces, Attribute::Namespace, true),
            ("serviceAccounts", &source.service_accounts, Attribute::ServiceAccount, false),
            ("notServiceAccounts", &source.not_service_accounts, Attribute::ServiceAccount, true),
            ("trustDomains", &source.trust_domains, Attribute::TrustDomain, false),
            ("notTrustDomains", &source.not_trust_domains, Attribute::TrustDomain, true),
            ("ipBlocks", &source.ip_blocks, Attribute::SourceIp, false),
            ("notIpBlocks", &source.not_ip_blocks, Attribute::SourceIp, true),
            ("remoteIpBlocks", &source.remote_ip_blocks, Attribute::RemoteIp, false),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks, Attribute::RemoteIp, true),
        ] {
            matches.extend(self.field(field, values, attribute, negated));
        }
        let said = |values: &model::Values| values.is_some();
        let accounts = [&source.service_accounts, &source.not_service_accounts].into_iter().find(|v| said(v));
        let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
        if let Some(Some(accounts)) = accounts
            && others.into_iter().any(said)
        {
            let message = "`serviceAccounts` does not go with `principals` or `namespaces` in one source";
            let help = "a service account says the namespace already: write `namespace/account`, or make two sources";
            self.error("service-accounts", message.to_owned(), &accounts.span.clone(), help);
        }
        self.clause("source", &source.span, matches, source_is_silent(source))
    }

    fn operation(&mut self, to: &Spanned<model::To>) -> Option<Clause> {
        let Some(operation) = &to.operation else {
            if !self.whole {
                return None;
            }
            let help = "write `- operation: {…}`, or leave `to` out to match anything";
            self.error("empty-operation", "an entry of `to` has no `operation`".to_owned(), &to.span, help);
            return None;
        };
        let fields = [
            ("hosts", &operation.hosts, Attribute::Host, false),
            ("notHosts", &operation.not_hosts, Attribute::Host, true),
            ("ports", &operation.ports, Attribute::DestinationPort, false),
            ("notPorts", &operation.not_ports, Attribute::DestinationPort, true),
            ("methods", &operation.methods, Attribute::Method, false),
            ("notMethods", &operation.not_methods, Attribute::Method, true),
            ("paths", &operation.paths, Attribute::Path, false),
            ("notPaths", &operation.not_paths, Attribute::Path, true),
        ];
        let silent = fields.iter().all(|(_, values, _, _)| values.is_none());
        let mut matches = Vec::new();
        for (field, values, attribute, negated) in fields {
            matches.extend(self.field(field, values, attribute, negated));
        }
        self.clause("operation", &operation.span, matches, silent)
    }

    /// A clause, unless nothing is said in it (`silent`), which Istio refuses.
    fn clause(
        &mut self,
        name: &str,
        span: &Range<usize>,
        matches: Vec<Match>,
        silent: bool,
    ) -> Option<Clause> {
        if silent && !self.whole {
            return None;
        }
        if silent {
            let message = format!("`{name}` says nothing");
            let help = "leave it out to match anything, or say what it matches";
            let code = if name == "source" { "empty-source" } else { "empty-operation" };
            self.error(code, message, span, help);
            return None;
        }
        Some(Clause { span: span.clone(), matches })
    }

    fn condition(&mut self, condition: &Spanned<model::Condition>) -> Vec<Match> {
        let key = &condition.key;
        if key.is_empty() {
            let help = "for example `key: source.namespace`";
            self.error("unknown-key", "the key is empty".to_owned(), &key.span, help);
            return Vec::new();
        }
        let attribute = match condition::attribute(key, self.headers) {
            Ok(attribute) => attribute,
            Err(refused) => {
                self.error("unknown-key", refused.message, &key.span, &refused.help);
                return Vec::new();
            }
        };
        if self.whole && condition.values.is_none() && condition.not_values.is_none() {
            let message = format!("the condition on `{}` has neither `values` nor `notValues`", key.value);
            self.error("no-values", message, &key.span, "say at least one of them");
        }
        let values = self.field(key, &condition.values, attribute.clone(), false);
        let not_values = self.field(key, &condition.not_values, attribute, true);
        values.into_iter().chain(not_values).collect()
    }

    /// The values of one field, parsed. `None` when there is none.
    pub fn field(
        &mut self,
        field: &str,
        values: &model::Values,
        attribute: Attribute,
        negated: bool,
    ) -> Option<Match> {
        let list = values.as_ref()?;
        self.not_empty(field, Some(list));
        if attribute == Attribute::ServiceAccount && list.len() > MOST_ACCOUNTS {
            let message = format!("`{field}` has {} values; {MOST_ACCOUNTS} is the most", list.len());
            self.error("service-accounts", message, &list.span, "spread them over several sources");
        }
        let parsed: Vec<Value> = list.iter().filter_map(|text| self.value(field, &attribute, text)).collect();
        (!parsed.is_empty()).then(|| Match {
            field: field.to_owned(),
            span: list.span.clone(),
            attribute,
            negated,
            values: parsed,
        })
    }

    fn value(&mut self, field: &str, attribute: &Attribute, text: &Spanned<String>) -> Option<Value> {
        // Istio matches an element of a list in metadata when the value is in brackets; here every list is looked into.
        let plain = match attribute {
            Attribute::Metadata(_) => {
                text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text)
            }
            _ => text,
        };
        let pattern = match Pattern::parse(attribute, plain, self.namespace) {
            // Of a trust domain Istio takes a `*` at one end only.
            Ok(Pattern::Glob(_)) if *attribute == Attribute::TrustDomain => Err(PatternError::Wildcard),
            // Envoy refuses the whole configuration then.
            Ok(Pattern::Template(_)) if !plain.starts_with('/') => {
                let help = "begin it with `/`, as the path of a request does";
                self.error(
                    "invalid-value",
                    format!("the template `{plain}` begins with no `/`"),
                    &text.span,
                    help,
                );
                return None;
            }
            parsed => parsed,
        };
        match pattern {
            Ok(pattern) => Some(Value { text: text.clone(), pattern }),
            Err(fault) => {
                self.fault(field, attribute, text, fault);
                None
            }
        }
    }

    fn fault(&mut self, field: &str, attribute: &Attribute, text: &Spanned<String>, fault: PatternError) {
        let written = &text.value;
        let (code, message, help) = match fault {
            PatternError::Empty => (
                "empty-value",
                format!("a value of `{field}` is empty"),
                "take it away; to match anything leave the field out".to_owned(),
            ),
            PatternError::Wildcard => (
                "MW003",
                format!(
                    "in `{written}` a `*` stands where it means nothing: Istio would compare it literally"
                ),
                instead_of_wildcard(attribute, written),
            ),
            other => {
                ("invalid-value", format!("`{written}` in `{field}`: {other}"), how(attribute).to_owned())
            }
        };
        self.error(code, message, &text.span, &help);
    }
}

/// What does say what somebody who writes a `*` in the middle means.
fn instead_of_wildcard(attribute: &Attribute, written: &str) -> String {
    match attribute {
        Attribute::Path => {
            let template: Vec<&str> = written
                .split('/')
                .map(|segment| match segment {
                    "*" => "{*}",
                    "**" => "{**}",
                    other => other,
                })
                .collect();
            let template = template.join("/");
            let all_of_it = !template.replace("{*}", "").replace("{**}", "").contains('*');
            if all_of_it && meshward_engine::pattern::check_template(&template).is_ok() {
                return format!("write the template `{template}`: `{{*}}` is one segment, `{{**}}` any number of them");
            }
            "use a template, where `{*}` is one whole segment and `{**}` any number of them: `/books/{*}/cover`"
                .to_owned()
        }
        Attribute::Principal => {
            "write it by segments, where `*` is one whole segment: `spiffe://trust.domain/ns/*/sa/web`; or use \
             `namespaces` and `serviceAccounts`"
                .to_owned()
        }
        Attribute::TrustDomain => "list the trust domains, or put the `*` at one end".to_owned(),
        Attribute::Header { .. } => {
            "list the values, or put the `*` at one end; of a header that is sent several times one value that matches is \
             enough"
                .to_owned()
        }
        _ => "list the values, or put the `*` at one end".to_owned(),
    }
}

/// What a good value looks like.
fn how(attribute: &Attribute) -> &'static str {
    match attribute {
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            "write an address like `10.0.0.1` or a block like `10.0.0.0/8` or `fd00::/8`"
        }
        Attribute::DestinationPort => "write a number from 0 to 65535, in quotes",
        Attribute::ServiceAccount => "write `account`, or `namespace/account` for one of another namespace",
        Attribute::Namespace => "write the name of a namespace, like `books`",
        Attribute::TrustDomain => "write the name of a trust domain, like `cluster.local`",
        Attribute::Path => "`/books/{*}` is one segment below `/books`, `/books/{**}` any number of them",
        Attribute::Principal => "write it like `cluster.local/ns/books/sa/web`",
        _ => "write the value itself, or put a `*` at one end",
    }
}

fn source_is_silent(source: &model::Source) -> bool {
    [
        &source.principals,
        &source.not_principals,
        &source.request_principals,
        &source.not_request_principals,
        &source.namespaces,
        &source.not_namespaces,
        &source.service_accounts,
        &source.not_service_accounts,
        &source.trust_domains,
        &source.not_trust_domains,
        &source.ip_blocks,
        &source.not_ip_blocks,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
    ]
    .into_iter()
    .all(Option::is_none)
}
