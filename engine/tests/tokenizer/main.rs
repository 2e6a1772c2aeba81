//! Tokenizers against other implementations, and what this one adds.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod goldens;
mod real;
#[path = "../support/real_models.rs"]
mod real_models;
mod robust;
mod stream;
