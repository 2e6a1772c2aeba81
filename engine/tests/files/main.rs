//! Model files: hostile ones are refused at little cost, sound ones read as other tools read them.

// Helpers of an integration test are tests too, which clippy does not see.
#![allow(clippy::unwrap_used)]

mod corpus;
mod draft;
mod gguf;
mod inspect;
mod invariants;
mod mutations;
mod real;
#[path = "../support/real_models.rs"]
mod real_models;
mod safetensors;
