//! Every code: what it says, why it matters, how to mend it. A code is never used for anything else.

use crate::diagnostic::{Severity, nearest};

/// One kind of finding.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `MW001`.
    pub code: &'static str,
    /// In one line.
    pub title: &'static str,
    pub severity: Severity,
    /// What happens, and why that is probably not what was meant.
    pub why: &'static str,
    /// What to write instead.
    pub mend: &'static str,
}

pub static SPLIT_RULE: Code = Code {
    code: "MW001",
    title: "two rules where one was meant",
    severity: Severity::Warning,
    why: "One rule says only who (`from`), the next only what (`to`). Each `-` below `rules` begins a rule of its own, and \
          one rule that matches is enough: the first lets those callers do anything, the second lets anybody do that.",
    mend: "Take the `-` before the second one away and indent it below the first, so that both must match. If two rules \
           are meant, put a rule about something else between them, or make two policies.",
};

pub static NEGATED_IDENTITY: Code = Code {
    code: "MW002",
    title: "a negation that lets callers without an identity in",
    severity: Severity::Warning,
    why: "A negation matches when the attribute is absent. `notPrincipals: [x]` in an ALLOW policy therefore lets in whoever \
          has no certificate, and `notRequestPrincipals: [x]` whoever has no token.",
    mend: "Say whom to let in as well (`principals: [\"*\"]` for anybody with a certificate), or turn it round: a DENY policy \
           with `principals: [x]`.",
};

pub static WILDCARD: Code = Code {
    code: "MW003",
    title: "a `*` that does not stand at one end",
    severity: Severity::Error,
    why: "Istio takes such a value and compares the `*` literally, so that the rule silently never matches.",
    mend: "Use a path template (`/books/{*}/cover`, `/books/{**}`), a principal by segments (`spiffe://td/ns/*/sa/web`), or \
           list the values.",
};

pub static NEVER_MATCHES: Code = Code {
    code: "MW004",
    title: "a rule, or a part of one, that never matches",
    severity: Severity::Warning,
    why: "No request can satisfy it: its parts contradict each other, or a value is one that the attribute never has. In \
          a DENY policy nobody is then denied; in an ALLOW policy nobody is let in.",
    mend: "Compare with what the attribute looks like: methods are upper case, paths begin with `/` and have no query, a \
           principal is `trust.domain/ns/namespace/sa/account`.",
};

pub static SHADOWED: Code = Code {
    code: "MW005",
    title: "a rule that changes nothing",
    severity: Severity::Warning,
    why: "Another rule of the same action matches everything that this one matches, or it allows only what a DENY rule \
          refuses. It gives a wrong idea of what is in force.",
    mend: "Take it away, or narrow the other one.",
};

pub static UNKNOWN_PRINCIPAL: Code = Code {
    code: "MW006",
    title: "an identity that nobody in the mesh has",
    severity: Severity::Warning,
    why: "Certificates are issued for the service accounts of the mesh's services. A principal or service account that is \
          none of them is usually a typing error, and the rule does not do what it says.",
    mend: "Write the identity of a service of the Mesh, `trust.domain/ns/namespace/sa/account`.",
};

pub static UNKNOWN_NAMESPACE: Code = Code {
    code: "MW007",
    title: "a namespace or trust domain that is not in the mesh",
    severity: Severity::Warning,
    why: "No service of the Mesh is there, so no caller comes from there and no policy there has a workload.",
    mend: "Write the namespace of a service of the Mesh.",
};

pub static NO_WORKLOAD: Code = Code {
    code: "MW008",
    title: "a policy that selects no workload",
    severity: Severity::Warning,
    why: "No service of the Mesh has these labels in that namespace, or none has that name. Nothing enforces the policy.",
    mend: "Select by a label that the pods have; every service has `app: <name>`.",
};

pub static UNGUARDED_PATH: Code = Code {
    code: "MW009",
    title: "a path that can be written in another way",
    severity: Severity::Warning,
    why: "Refusing by path holds only when the rule and the application read the path alike. With `pathParams: keep` the \
          filter sees `/admin;x` where many applications see `/admin`, and the rule is evaded.",
    mend: "Set `pathParams: strip` or `reject` in the Mesh. Better: allow what is meant instead of denying what is not.",
};

pub static HTTP_ON_TCP: Code = Code {
    code: "MW010",
    title: "a rule about HTTP where there is none",
    severity: Severity::Warning,
    why: "On a TCP port nothing is known of methods, paths, hosts, headers or tokens. As in Istio, an ALLOW rule about them is \
          then ignored (nobody is let in by it), and of a DENY rule they are dropped (everybody is refused by what is left).",
    mend: "Give the rule the `ports` that speak HTTP, or select the workloads that do.",
};

pub static PROBE_DENIED: Code = Code {
    code: "MW011",
    title: "a health check's path that is denied",
    severity: Severity::Warning,
    why: "A DENY rule matches the path that the workload's own probe asks for. The kubelet has no certificate and no token; \
          it comes through the sidecar's health listener, and whoever else checks (the edge, a monitor) gets 403.",
    mend: "Leave the path out with `notPaths`.",
};

pub static EMPTY_SELECTOR: Code = Code {
    code: "MW012",
    title: "a selector without labels",
    severity: Severity::Warning,
    why: "It selects every workload of the namespace, and in the root namespace every workload there is.",
    mend: "Name a label, or leave `selector` out to say that all are meant.",
};

pub static REPEATED_HEADER: Code = Code {
    code: "MW013",
    title: "a header that is sent twice gets past this",
    severity: Severity::Warning,
    why: "With `meshward.dev/repeated-headers: joined` the values of a repeated header are one text with `,` between them, and with \
          `all` each of them must match. A DENY rule about `admin` then does not match a request that says `user` as well.",
    mend: "Take the annotation away from a DENY policy: one value that matches is then enough.",
};

pub static TWO_ADDRESSES: Code = Code {
    code: "MW014",
    title: "an address that says little behind a sidecar",
    severity: Severity::Info,
    why: "Behind mTLS the direct peer of a sidecar is another pod, whose address changes. The original client's address comes \
          from `x-forwarded-for`, which is only as good as the caller that wrote it.",
    mend: "Use `principals` for callers of the mesh, and addresses at the edge.",
};

pub static EJECTS_NOTHING: Code = Code {
    code: "MW020",
    title: "an outlier detection that ejects nothing",
    severity: Severity::Warning,
    why: "Envoy ejects a host only while the ejected ones are at most `maxEjectionPercent` of all. 10 of 100, Envoy's and \
          Istio's default, is less than one host where there are fewer than ten.",
    mend: "Leave `maxEjectionPercent` out (50, and always at least one host), or write a number that is at least one host.",
};

pub static GATEWAY_ERRORS: Code = Code {
    code: "MW021",
    title: "gateway errors that are never counted far enough",
    severity: Severity::Warning,
    why: "502, 503 and 504 are 5xx too. With `consecutiveGatewayErrors` at or above `consecutive5xxErrors` (5 when not \
          said) the host is out for the other reason first, always.",
    mend: "Write a number below `consecutive5xxErrors`, or turn that off with 0.",
};

pub static PANIC: Code = Code {
    code: "MW022",
    title: "an ejection that is undone at once",
    severity: Severity::Warning,
    why: "When fewer than `minHealthPercent` of the hosts are left, Envoy uses all of them again, the ejected ones too. In a \
          small mesh one ejection is enough for that.",
    mend: "Leave `minHealthPercent` out: then ejected hosts stay out, and with none left callers get 503.",
};

/// In the order of their numbers.
pub static ALL: [&Code; 17] = [
    &SPLIT_RULE,
    &NEGATED_IDENTITY,
    &WILDCARD,
    &NEVER_MATCHES,
    &SHADOWED,
    &UNKNOWN_PRINCIPAL,
    &UNKNOWN_NAMESPACE,
    &NO_WORKLOAD,
    &UNGUARDED_PATH,
    &HTTP_ON_TCP,
    &PROBE_DENIED,
    &EMPTY_SELECTOR,
    &REPEATED_HEADER,
    &TWO_ADDRESSES,
    &EJECTS_NOTHING,
    &GATEWAY_ERRORS,
    &PANIC,
];

/// A code by its name, upper or lower case.
///
/// # Errors
/// The nearest one that there is.
pub fn find(name: &str) -> Result<&'static Code, Option<&'static str>> {
    let name = name.to_ascii_uppercase();
    let found = ALL.iter().find(|code| code.code == name);
    found.copied().ok_or_else(|| nearest(&name, ALL.iter().map(|code| code.code)))
}
