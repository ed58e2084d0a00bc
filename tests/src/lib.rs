//! The end-to-end harness as a library: Envoy processes, certificates, clients, waiting for a condition.

pub mod native_rbac;
