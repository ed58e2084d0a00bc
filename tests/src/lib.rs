//! The end-to-end harness as a library: real Envoy processes on loopback addresses of their own, certificates, clients,
//! waiting for a condition.
//!
//! It starts what `meshward up` starts, with the same code, so that a test of a sidecar is a test of the product's
//! sidecar. Applications are threads of the test, which tell what reached them. Nothing here sleeps a fixed time.

pub mod api;
pub mod application;
pub mod broken;
pub mod command;
pub mod connection;
pub mod go;
pub mod hammer;
pub mod http2;
pub mod mesh;
pub mod native_rbac;
pub mod rls;
pub mod tools;
pub mod wait;

pub use application::Application;
pub use connection::Connection;
pub use hammer::hammer;
pub use mesh::TestMesh;
pub use rls::RateLimitService;
pub use wait::until;
