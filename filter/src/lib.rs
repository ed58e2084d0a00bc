//! The proxy-wasm plugin: the entry point only. It decides nothing; `meshward-engine` does.
//!
//! | module | what it holds |
//! |---|---|
//! | `dispatch` | Envoy's callbacks → the context that they are for |
//! | `root` | the configuration: decoded, compiled, swapped whole |
//! | `http`, `tcp` | callbacks: request or connection → engine → action |
//! | `attributes` | what the policies ask for, read from Envoy |
//! | `identity` | the peer's certificate → SPIFFE ID, remembered |
//! | `limits`, `breaker` | rate limits, concurrency limits, circuit breakers: the engine asked, its answer acted on |
//! | `global` | leases of global budgets, and the requests that wait for one |
//! | `shared` | the words that all workers share |
//! | `report` | what a decision leaves behind: counters, log, response code details |
//! | `metrics` | counters, defined when first needed, bounded |
//! | `host` | every host call |
//! | `vm` | heap, panic, and what a VM has one of |
//!
//! INVARIANT: no panic. A panic takes the worker's VM down, and a caller who can cause one can deny service. So no
//! indexing, no unwrap, no `RefCell::borrow_mut` (`try_borrow_mut`), no host call of the SDK's.

#![cfg_attr(target_family = "wasm", no_std)]

#[macro_use]
extern crate alloc;

mod attributes;
mod breaker;
mod dispatch;
mod gauges;
mod global;
mod host;
mod http;
mod identity;
mod limits;
mod metrics;
mod report;
mod root;
mod shared;
mod tcp;
mod vm;
