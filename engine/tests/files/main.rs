//! Model files: hostile ones are refused quickly and cheaply, sound ones read as other tools read them.

// Helpers of an integration test are tests too, which clippy does not see.
#![allow(clippy::unwrap_used)]

mod corpus;
mod draft;
mod gguf;
mod inspect;
mod invariants;
mod mutations;
mod real;
mod safetensors;
