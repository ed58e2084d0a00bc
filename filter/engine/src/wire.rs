//! The bytes of a [`PluginConfig`]: postcard for what is there once, and one run of numbers for the policies.
//!
//! Ten thousand policies must fit a ConfigMap, so texts are sorted and share their prefixes, a text, match or clause that
//! repeats is a number, and all of it is an LZ4 block, which a third of the size is left of and whose reader is small: what
//! deflate would save beyond it costs more in the module. Policies are read without serde, whose code for many small types is larger than all
//! else here. Deliberately absent: compatibility between versions; builder and filter are of one release.

use alloc::vec::Vec;

mod read;
mod write;

use lz4_flex::block;
use serde::{Deserialize, Serialize};

use crate::config::{
    AcceptedPeers, ConfigError, DefaultAction, IdentityMode, PathGuard, PluginConfig, Protocol, Role,
    TrustDomain,
};
use crate::pattern::Text;

/// In front of every configuration.
const MAGIC: &[u8] = b"meshward";
/// Of the format behind the magic. Raise it with every change of a wire type.
const VERSION: u8 = 5;
/// A text longer than this is damage: the longest is a SPIFFE ID (2048) or a path.
const MAX_TEXT: usize = 16 * 1024;
/// All texts together; beyond it the bytes were made to exhaust memory.
const MAX_TEXTS: usize = 32 * 1024 * 1024;
/// All that the block stands for; beyond it likewise.
const MAX_LENGTH: usize = 64 * 1024 * 1024;
/// Of the length of what the block stands for, in front of it: 32 bits, least significant byte first.
const LENGTH_BYTES: usize = 4;

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    role: Role,
    protocol: Protocol,
    identity: IdentityMode,
    default_action: DefaultAction,
    path_guard: PathGuard,
    revision: &'a str,
    workload: &'a str,
    trust_domain: TrustDomain,
    trust_domain_aliases: Vec<TrustDomain>,
    accepted_peers: AcceptedPeers,
    /// See [`crate::limits::wire`].
    limits: Vec<u64>,
    limit_texts: Vec<&'a str>,
    /// See [`write::texts`].
    texts: &'a [u8],
    /// See [`write::Body`].
    body: &'a [u8],
}

/// Kinds of patterns that are a text; the number of the text follows in the bits above.
mod pattern_kind {
    pub const BITS: u32 = 3;
    pub const EXACT: u32 = 0;
    pub const PREFIX: u32 = 1;
    pub const SUFFIX: u32 = 2;
    pub const GLOB: u32 = 3;
    pub const TEMPLATE: u32 = 4;
    pub const SEGMENTS: u32 = 5;
    pub const ANY: u32 = 6;
    /// What follows in the bits above is one of those below, or a port plus [`PORT`].
    pub const OTHER: u32 = 7;
    pub const SERVICE_ACCOUNT: u32 = 0;
    pub const V4: u32 = 1;
    pub const V6: u32 = 2;
    pub const PORT: u32 = 3;
}

/// See [`PluginConfig::encode`].
pub fn encode(config: &PluginConfig) -> Result<Vec<u8>, ConfigError> {
    let (texts, body) = write::policies(config)?;
    let limits = crate::limits::wire::write(&config.limits);
    let wire = Wire {
        role: config.role,
        protocol: config.protocol,
        identity: config.identity,
        default_action: config.default_action,
        path_guard: config.path_guard,
        revision: &config.revision,
        workload: &config.workload,
        trust_domain: config.trust_domain.clone(),
        trust_domain_aliases: config.trust_domain_aliases.clone(),
        accepted_peers: config.accepted_peers.clone(),
        limits: limits.numbers,
        limit_texts: limits.texts,
        texts: &texts,
        body: &body,
    };
    let too_large = ConfigError::Other("it is too large to be written");
    let plain = postcard::to_allocvec(&wire).map_err(|_| too_large.clone())?;
    let length = u32::try_from(plain.len()).ok().filter(|length| *length as usize <= MAX_LENGTH);
    let length = length.ok_or(too_large)?.to_le_bytes();
    Ok([MAGIC, &[VERSION], &length, &block::compress(&plain)].concat())
}

/// See [`PluginConfig::decode`].
pub fn decode(bytes: &[u8]) -> Result<PluginConfig, ConfigError> {
    let (version, body) =
        bytes.strip_prefix(MAGIC).and_then(<[u8]>::split_first).ok_or(ConfigError::NotOurs)?;
    if *version != VERSION {
        return Err(ConfigError::Version { found: *version, expected: VERSION });
    }
    let damaged = || ConfigError::Damaged("it ends early or is garbled");
    let (length, block) = body.split_first_chunk::<LENGTH_BYTES>().ok_or_else(damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_LENGTH {
        return Err(damaged());
    }
    let body = block::decompress(block, length).map_err(|_| damaged())?;
    if body.len() != length {
        return Err(damaged());
    }
    let (wire, rest) = postcard::take_from_bytes::<Wire>(&body).map_err(|_| damaged())?;
    if !rest.is_empty() {
        return Err(ConfigError::Damaged("something follows its end"));
    }
    let policies = read::policies(wire.texts, wire.body)?;
    Ok(PluginConfig {
        revision: Text::from(wire.revision),
        workload: Text::from(wire.workload),
        role: wire.role,
        protocol: wire.protocol,
        trust_domain: wire.trust_domain,
        trust_domain_aliases: wire.trust_domain_aliases,
        accepted_peers: wire.accepted_peers,
        identity: wire.identity,
        default_action: wire.default_action,
        path_guard: wire.path_guard,
        deny_response: policies.deny_response,
        revoked: policies.revoked,
        policies: policies.policies,
        selectors: policies.selectors,
        limits: crate::limits::wire::read(&wire.limits, &wire.limit_texts)
            .ok_or(ConfigError::Damaged("its limits are garbled"))?,
    })
}

#[cfg(test)]
mod tests;
