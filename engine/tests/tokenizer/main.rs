//! Tokenizers against other implementations, and what this one adds.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod goldens;
mod real;
mod robust;
mod stream;
