//! Envoy's callbacks → the context that they are for.
//!
//! These are the exports of proxy-wasm ABI 0.2.1. Envoy calls every callback that a module exports, on every request: so
//! only those that do something are here.
//!
//! Why not the SDK (the crate `proxy-wasm`): its dispatcher panics on what it does not expect, as its host calls do, and
//! its traits bring a method for every host call there is, which no linker can take out: a fifth of the module's
//! budget, for the hundred lines below.
#![allow(unsafe_code, reason = "an export's name is unsafe: two of one name would be undefined")]

use alloc::vec::Vec;

use crate::http::{self, Http};
use crate::root::Root;
use crate::tcp::Tcp;
use crate::vm::PerVm;
use crate::{global, host};

/// What Envoy does next with a request's headers or a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    Continue = 0,
    Pause = 1,
}

/// What an id of Envoy's stands for: a plugin's configuration, a request, a connection.
pub enum Context {
    Root(Root),
    Http(Http),
    Tcp(Tcp),
}

/// Lists that the contexts are spread over. Ids count up, so their last bits spread them evenly: with a thousand requests in
/// flight a list has four.
const LISTS: usize = 256;

/// The contexts of this VM, by their ids. No lists at all before the first.
struct Contexts(Vec<Vec<(u32, Context)>>);

static CONTEXTS: PerVm<Contexts> = PerVm::new(Contexts(Vec::new()));

impl Contexts {
    fn list(&mut self, id: u32) -> Option<&mut Vec<(u32, Context)>> {
        self.0.get_mut(id as usize % LISTS)
    }

    #[inline(never)]
    fn insert(&mut self, id: u32, context: Context) {
        self.0.resize_with(LISTS, Vec::new);
        self.remove(id);
        if let Some(list) = self.list(id) {
            list.push((id, context));
        }
    }

    #[inline(never)]
    fn get(&mut self, id: u32) -> Option<&mut Context> {
        self.list(id)?.iter_mut().find(|(known, _)| *known == id).map(|(_, context)| context)
    }

    #[inline(never)]
    fn remove(&mut self, id: u32) {
        if let Some(list) = self.list(id)
            && let Some(at) = list.iter().position(|(known, _)| *known == id)
        {
            list.swap_remove(at);
        }
    }
}

/// Runs a callback. Envoy never calls the VM while the VM calls it, except for memory; if it did, `otherwise`.
fn with<R>(otherwise: impl FnOnce() -> R, run: impl FnOnce(&mut Contexts) -> Option<R>) -> R {
    CONTEXTS.with(run).flatten().unwrap_or_else(otherwise)
}

/// Says which ABI this is, by being there.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Called once, before anything else.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    #[cfg(target_os = "wasi")]
    {
        unsafe extern "C" {
            fn __wasm_call_ctors();
        }
        // SAFETY: the linker makes this function; it is called once. Without the call, the linker would put one into
        // every export.
        unsafe { __wasm_call_ctors() }
    }
}

/// A new root context when `root` is 0, else a request or connection under it.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, root: u32) {
    with(
        || (),
        |contexts| {
            let context = match contexts.get(root) {
                Some(Context::Root(root)) => root.new_stream(id),
                _ if root == 0 => Context::Root(Root::new(id)),
                // Under nothing that is configured, so everything is refused.
                _ => Context::Http(Http::new(None, id)),
            };
            contexts.insert(id, context);
            Some(())
        },
    );
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: u32) {
    with(
        || (),
        |contexts| {
            contexts.remove(id);
            global::forget(id);
            Some(())
        },
    );
}

/// 1 when the configuration is taken.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(id: u32, size: usize) -> u32 {
    with(
        || 0,
        |contexts| match contexts.get(id) {
            Some(Context::Root(root)) => Some(root.on_configure(size).into()),
            _ => None,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, _: usize, _: u32) -> Action {
    with(http::refuse_unknown, |contexts| match contexts.get(id) {
        Some(Context::Http(http)) => Some(http.on_request_headers()),
        _ => None,
    })
}

/// 0: the response continues, always.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, _: usize, end_of_stream: u32) -> u32 {
    with(
        || 0,
        |contexts| match contexts.get(id) {
            Some(Context::Http(http)) => {
                http.on_response_headers(end_of_stream != 0);
                Some(0)
            }
            _ => None,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(id: u32) {
    with(
        || (),
        |contexts| match contexts.get(id) {
            Some(Context::Http(http)) => {
                http.on_log();
                Some(())
            }
            _ => None,
        },
    );
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(id: u32) {
    with(
        || (),
        |contexts| match contexts.get(id) {
            Some(Context::Root(root)) => {
                root.on_tick();
                Some(())
            }
            _ => None,
        },
    );
}

/// The rate limit service has answered.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(root: u32, token: u32, size: usize) {
    let answer = host::received(size);
    on_answer(root, token, answer.as_deref().ok());
}

/// The rate limit service has not answered.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(root: u32, token: u32, _: u32) {
    on_answer(root, token, None);
}

/// Those who have waited go on, each as if it had come just now.
fn on_answer(root: u32, token: u32, answer: Option<&[u8]>) {
    with(
        || (),
        |contexts| {
            let waiting = match contexts.get(root) {
                Some(Context::Root(root)) => root.on_answer(token, answer),
                _ => return None,
            };
            for id in waiting {
                // Who has left meanwhile has no context any more.
                let Some(context) = contexts.get(id) else { continue };
                if host::become_context(id).is_err() {
                    continue;
                }
                let (action, is_http) = match context {
                    Context::Http(http) => (http.resume(), true),
                    Context::Tcp(tcp) => (tcp.resume(), false),
                    Context::Root(_) => continue,
                };
                if action == Action::Continue {
                    host::go_on(is_http);
                }
            }
            Some(())
        },
    );
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_downstream_data(id: u32, _: usize, _: u32) -> Action {
    with(
        || Action::Pause,
        |contexts| match contexts.get(id) {
            Some(Context::Tcp(tcp)) => Some(tcp.on_downstream_data()),
            _ => None,
        },
    )
}
