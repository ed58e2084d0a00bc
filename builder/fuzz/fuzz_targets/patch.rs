//! Texts of any bytes into `patch` and `unpatch`: no panic, never a changed byte outside the edit, never an invalid document
//! from a valid one.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/invariants/patch.rs"]
mod invariants;

fuzz_target!(|text: &str| {
    invariants::hold(text).expect("an invariant");
});
