//! Block formats of GGUF: numbers, names, sizes, and what their bytes mean.
//!
//! [`formats`] is the table; each format's folder holds its block struct (with a size assert) and its
//! scalar dequantiser, which is the specification of that format here.
//! Source: `ggml/src/ggml-common.h` (layouts) and the `gguf` Python package (reference values).

pub mod formats;

pub use formats::{Format, dequantize};
