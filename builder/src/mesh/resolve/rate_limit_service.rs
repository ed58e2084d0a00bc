//! `spec.rateLimitService`: where it is, who it is, under which name it counts, and for how long to wait.

use super::RateLimitService;
use super::check::Check;
use crate::mesh::model::RateLimitServiceSpec;

/// In milliseconds. Longer than a request should wait for permission.
const LONGEST_TIMEOUT: u32 = 10_000;

impl Check<'_> {
    pub fn rate_limit_service(&mut self, written: &RateLimitServiceSpec) -> Option<RateLimitService> {
        let address = written.address.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
            let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
            (!host.is_empty() && host.bytes().all(good)).then(|| (host.to_owned(), port))
        });
        if address.is_none() {
            let message = format!("`{}` is no address of a service", written.address.value);
            let help = "write a name or an address, and the port: `ratelimit.infra:8081`".to_owned();
            self.error(&written.address.span, "invalid-address", message, help);
        }
        if let Some(id) = &written.identity
            && let Err(error) = crate::pki::svid::spiffe_id(&id.value)
        {
            self.error(&id.span, "spiffe-id", error.to_string(), None);
        }
        let timeout = written.timeout.as_ref().map_or(Some(50), |timeout| {
            let parsed = timeout.parse::<jiff::SignedDuration>().ok()?;
            u32::try_from(parsed.as_millis()).ok().filter(|time| (1..=LONGEST_TIMEOUT).contains(time))
        });
        if let (None, Some(written)) = (timeout, &written.timeout) {
            let message = format!("`{}` is no time to wait for an answer", written.value);
            let help = "write a number and its unit, from `1ms` to `10s`; requests wait for it: `50ms`";
            self.error(&written.span, "invalid-duration", message, help.to_owned());
        }
        let domain = written.domain.as_ref().map_or("meshward", |domain| &domain.value).to_owned();
        if let Some(written) = written.domain.as_ref().filter(|domain| domain.trim().is_empty()) {
            let help = "leave it out for `meshward`, or name the domain that the service has".to_owned();
            self.error(&written.span, "empty-value", "the domain is empty", help);
        }
        let (host, port) = address?;
        let identity = written.identity.as_ref().map(|id| id.value.clone());
        Some(RateLimitService { host, port, identity, domain, timeout: timeout? })
    }
}
