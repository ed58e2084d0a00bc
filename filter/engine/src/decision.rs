//! The answer to one request, and which rule gave it.
//!
//! A [`Decision`] is a handful of numbers, so that making one allocates nothing. Names are behind
//! [`crate::policy::Policy::name`]; sentences for people behind [`crate::policy::Policy::explain`].

use crate::path_guard::PathFault;

/// What happens to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It continues.
    Allow,
    /// It is answered here, or its connection is closed.
    Deny,
}

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// Position of the policy in [`crate::config::PluginConfig::policies`].
    pub policy: u32,
    /// Position of the rule in its policy, from 0.
    pub rule: u32,
}

/// Why the verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule of an ALLOW policy matched.
    AllowRule,
    /// No ALLOW policy exists and the default action is ALLOW.
    DefaultAllow,
    /// A rule of a DENY policy matched.
    DenyRule,
    /// ALLOW policies exist and none matched.
    NoAllowRule,
    /// No ALLOW policy exists and the default action is DENY.
    DefaultDeny,
    /// The path could be read in two ways, or the path is not one.
    Path(PathFault),
    /// No certificate, where one is required.
    NoIdentity,
    /// A certificate that is not a valid X509-SVID.
    InvalidIdentity,
    /// A valid identity of a trust domain that is not accepted here.
    ForeignTrustDomain,
    /// The identity or the certificate's serial number is on the deny list.
    Revoked,
}

impl Reason {
    /// A stable name for logs, metrics and `policy eval`: lower case, with `_`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowRule => "allow_rule",
            Self::DefaultAllow => "default_allow",
            Self::DenyRule => "deny_rule",
            Self::NoAllowRule => "no_allow_rule",
            Self::DefaultDeny => "default_deny",
            Self::Path(_) => "path",
            Self::NoIdentity => "no_identity",
            Self::InvalidIdentity => "invalid_identity",
            Self::ForeignTrustDomain => "foreign_trust_domain",
            Self::Revoked => "revoked",
        }
    }

    /// The verdict that goes with it.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::AllowRule | Self::DefaultAllow => Verdict::Allow,
            _ => Verdict::Deny,
        }
    }
}

/// What the dry-run policies would have said. Like Envoy's shadow rules, one answer per action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shadow {
    /// The first dry-run DENY rule that matches, if any.
    pub deny: Option<RuleRef>,
    /// Of the dry-run ALLOW policies; `None` when there are none.
    pub allow: Option<ShadowAllow>,
}

/// What the dry-run ALLOW policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShadowAllow {
    /// The first rule that matches.
    Matched(RuleRef),
    /// There are such policies and none matches: enforced alone, they would deny.
    Missed,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Why; the verdict follows from it.
    pub reason: Reason,
    /// The rule that decided: the first one that matches in the order of attribution (see [`crate::policy`]).
    pub rule: Option<RuleRef>,
    /// The first AUDIT rule that matches; it never changes the verdict.
    pub audit: Option<RuleRef>,
    /// Dry-run policies; they never change the verdict.
    pub shadow: Shadow,
}

impl Decision {
    /// Allow or deny.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.reason.verdict()
    }

    /// Whether the request continues.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict() == Verdict::Allow
    }

    /// HTTP status: 200 when allowed, 400 for a path that is refused, else 403. A custom response may differ.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.reason {
            Reason::AllowRule | Reason::DefaultAllow => 200,
            Reason::Path(_) => 400,
            _ => 403,
        }
    }
}
