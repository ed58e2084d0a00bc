//! Meshward's decisions, pure: what they need is an argument.
//!
//! Deliberately absent: I/O, clocks, randomness, globals, logging and host calls. The same code runs inside Envoy
//! (compiled to wasm by `meshward-filter`), in the `meshward` command and in tests, and answers the same.
#![forbid(unsafe_code)]
