//! Bytes that the host hands over, and the plugin's configuration.

use alloc::vec::Vec;
use core::ops::Deref;

use super::{HostError, abi, check};

/// Bytes from the host, ours to keep.
#[derive(Debug, Default)]
pub struct HostBytes(Vec<u8>);

impl HostBytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// `PluginConfiguration` in the ABI's list of buffers.
const PLUGIN_CONFIGURATION: u32 = 7;

/// The plugin's configuration; only during `on_configure`. Empty when there is none.
///
/// # Errors
/// The host has none to give.
pub fn plugin_configuration(size: usize) -> Result<HostBytes, HostError> {
    let mut bytes = HostBytes::default();
    check(abi::buffer(PLUGIN_CONFIGURATION, size, &mut bytes))?;
    Ok(bytes)
}
