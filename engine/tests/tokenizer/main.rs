//! Tokenizers against other implementations, and what this one adds.

mod goldens;
mod real;
mod robust;
mod stream;
