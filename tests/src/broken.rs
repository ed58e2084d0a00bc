//! What a sidecar must survive without letting anybody through: modules and configurations with one thing wrong.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use meshward_builder::envoy::filter;
use serde_json::Value;

/// A module that lets everything through, and refuses its configuration from the `good`-th VM on that is given it (from
/// 0). Envoy asks the main thread's VMs first, so that with the right number only the workers' fail.
///
/// # Errors
/// It cannot be written to the folder.
pub fn fails_in_workers(folder: &Path, good: u32) -> anyhow::Result<PathBuf> {
    let text = format!(
        r#"(module
  (import "env" "proxy_get_shared_data" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "n")
  (global $free (mut i32) (i32.const 4096))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (i32.and (i32.add (local.get $size) (i32.const 15)) (i32.const -16)))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (local $count i32)
    (if (i32.eqz (call $get (i32.const 16) (i32.const 1) (i32.const 32) (i32.const 36) (i32.const 40)))
      (then (local.set $count (i32.load8_u (i32.load (i32.const 32))))))
    (i32.store8 (i32.const 48) (i32.add (local.get $count) (i32.const 1)))
    (drop (call $set (i32.const 16) (i32.const 1) (i32.const 48) (i32.const 1) (i32.const 0)))
    (i32.lt_u (local.get $count) (i32.const {good})))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32))
  (func (export "proxy_on_new_connection") (param i32) (result i32) (i32.const 0))
  (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))"#
    );
    let file = folder.join(format!("fails-after-{good}.wasm"));
    std::fs::write(&file, wat::parse_str(text)?)?;
    Ok(file)
}

/// A bootstrap without the guard: what everybody has who does without one.
///
/// # Errors
/// The text is no bootstrap.
pub fn without_guard(text: &str) -> anyhow::Result<String> {
    let mut value: Value = serde_yaml::from_str(text)?;
    strip(&mut value);
    Ok(value.to_string())
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| item.get("name").and_then(Value::as_str) != Some(filter::GUARD));
            items.iter_mut().for_each(strip);
        }
        Value::Object(entries) => entries.values_mut().for_each(strip),
        _ => {}
    }
}

/// The filter's configuration file with a plugin configuration that is nothing.
///
/// # Errors
/// The text is no such file.
pub fn configuration(text: &str) -> anyhow::Result<String> {
    let mut value: Value = serde_yaml::from_str(text)?;
    let place = value.pointer_mut("/resources/0/typed_config/config/configuration/value");
    // Base64 of `garbage`.
    *place.context("the file has no plugin configuration")? = "Z2FyYmFnZQ==".into();
    Ok(value.to_string())
}
