//! Who issues the certificates in the cluster, and whether they can give what else the mesh asks for.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::document::Spanned;
use super::super::model::{CertificateProvider, CertificatesSpec, MeshSpec};
use super::check::Check;
use super::{Certificates, DEFAULT_AGENT_SOCKET};
use crate::native::Period;

/// What may be said of how long anything stays open.
const OPEN: RangeInclusive<Period> =
    Period(Duration::from_secs(2))..=Period(Duration::from_secs(30 * 24 * 3600));

impl CertificateProvider {
    /// As it is written in mesh.yaml; also the name of its overlay.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::CertManager => "cert-manager",
            Self::CsiDriverSpiffe => "csi-driver-spiffe",
            Self::Spire => "spire",
        }
    }

    /// Whether certificates are in Secrets that pods mount.
    pub fn fills_secrets(self) -> bool {
        matches!(self, Self::Embedded | Self::CertManager)
    }

    /// Whether sidecars get a revocation list from it.
    pub fn has_lists(self) -> bool {
        self == Self::Embedded
    }

    /// Whether sidecars get the bundles of other trust domains from it, each apart.
    pub fn federates(self) -> bool {
        matches!(self, Self::Embedded | Self::Spire)
    }
}

impl Check<'_> {
    pub fn certificates(&mut self, spec: &MeshSpec) -> Certificates {
        let CertificatesSpec { provider, agent_socket, max_connection_duration } = &spec.certificates;
        if let Some(provider) = provider {
            self.provider(provider, spec);
        }
        if let Some(socket) = agent_socket {
            self.socket(socket);
            if provider.as_ref().is_none_or(|provider| provider.value != CertificateProvider::Spire) {
                let message = "`agentSocket` is SPIRE's, and the provider is another one";
                let help = "say `provider: spire`, or leave `agentSocket` out".to_owned();
                self.error(&socket.span, "certificates", message, help);
            }
        }
        if let Some(period) = max_connection_duration.as_ref().filter(|period| !OPEN.contains(&period.value))
        {
            let message = format!("`maxConnectionDuration` is out of range: {}", period.value);
            let help = "write a time from `2s` to `720h`; shorter ones cost a handshake each".to_owned();
            self.error(&period.span, "certificates", message, help);
        }
        Certificates {
            max_connection_duration: max_connection_duration.as_ref().map(|period| period.value),
            provider: provider.as_ref().map(|provider| provider.value),
            agent_socket: agent_socket
                .as_ref()
                .map_or_else(|| DEFAULT_AGENT_SOCKET.to_owned(), |socket| socket.value.clone()),
        }
    }

    fn provider(&mut self, provider: &Spanned<CertificateProvider>, spec: &MeshSpec) {
        let name = provider.value.name();
        if spec.revocation.crl.as_ref().is_some_and(|crl| crl.value) && !provider.value.has_lists() {
            let message = format!(
                "`{name}` brings no revocation list to the sidecars, and `revocation.crl` asks for one"
            );
            let help =
                "leave `crl` out: `serials` and `ids` are enforced by the filter in any case".to_owned();
            self.error(&provider.span, "certificates", message, help);
        }
        if !spec.federates_with.is_empty() && !provider.value.federates() {
            let message = format!(
                "`{name}` brings no trust bundles of other trust domains, and `federatesWith` asks for them"
            );
            let help = "use `embedded` or `spire`, which keep one bundle for each trust domain".to_owned();
            self.error(&provider.span, "certificates", message, help);
        }
    }

    /// A path in a folder of its own, since the folder is what is mounted; at most 107 bytes (unix(7), `sun_path`).
    fn socket(&mut self, socket: &Spanned<String>) {
        let path = socket.value.as_str();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let clean = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        if !path.starts_with('/') || folder.is_empty() || !clean || path.len() > 107 {
            let message = format!("`{path}` cannot be the path of the agent's socket");
            let help = format!(
                "write an absolute path of at most 107 bytes in a folder of its own, like `{DEFAULT_AGENT_SOCKET}`"
            );
            self.error(&socket.span, "certificates", message, help);
        }
    }
}
