//! Block formats of GGUF: names, sizes, and what their bytes mean.
//!
//! [`formats`] is the table; each format's folder holds its block struct (with a size assert) and its
//! scalar dequantiser, which is the specification of that format here. A new format is a folder, a
//! variant of [`Format`] and a row.
//! Source: `ggml/src/ggml-common.h` (layouts) and the `gguf` Python package (reference values; see
//! `kernels/tests/quant_golden.rs`).

// Formats are written as GGUF writes them.
#![allow(non_camel_case_types)]

pub mod block;
pub mod formats;

pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
mod plain;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;

pub use block::Block;
pub use formats::{Format, dequantize};
