//! The proxy-wasm plugin: the entry point only. It decides nothing; `meshward-engine` does.
