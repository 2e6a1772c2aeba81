//! Arbitrary bytes as a GGUF file: no panic, bounded memory, and what is accepted holds together.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../engine/tests/files/invariants.rs"]
mod invariants;

fuzz_target!(|bytes: &[u8]| {
    invariants::read_gguf(bytes);
});
