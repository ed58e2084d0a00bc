//! The proxy-wasm plugin: the entry point only. It decides nothing; `meshward-engine` does.

struct Nothing;
impl proxy_wasm::traits::Context for Nothing {}
impl proxy_wasm::traits::RootContext for Nothing {}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Nothing));
}}
