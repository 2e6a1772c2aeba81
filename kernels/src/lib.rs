//! Tensor maths for Janus, on the CPU now: the only crate that may say `unsafe`.
//!
//! Model code sees [`Device`] and the plain types around it ([`Tensor`], [`Vector`], [`Table`],
//! [`Linear`], [`KvCache`]); it never names an instruction set. What an op means is
//! [`Isa::Scalar`]'s way to do it, and every instruction set gives the same bits: products have a file each
//! (`matmul/scalar.rs` is the meaning), all other ops one body that is compiled for each of them (`simd`).
//!
//! | room | what is in it |
//! |---|---|
//! | [`mapping`] | read-only memory maps of weight files |
//! | `memory` | the memory of packed weights |
//! | [`quant`] | block formats of GGUF: sizes, structs, scalar dequantisation |
//! | [`isa`] | which instruction set this process uses |
//! | [`host`] | advice to the operating system |
//! | `cores`, [`pool`] | which CPUs to use; pinned worker threads |
//! | [`tensor`], [`kv`], [`rope`] | activations, paged keys and values, rotary angles |
//! | `matmul` | packed weights and the products with them |
//! | `ops` | attention, norms, activations, what a draw needs of a softmax |
//! | `simd` | one body, compiled for every instruction set |
//! | [`roofline`] | this machine's limits |
//! | [`device`] | every op, as a method |

pub mod allocations;
mod cores;
pub mod device;
pub mod error;
pub mod host;
pub mod isa;
pub mod kv;
pub mod mapping;
mod matmul;
mod memory;
pub mod ops;
pub mod pool;
pub mod quant;
pub mod roofline;
pub mod rope;
mod simd;
pub mod tensor;
#[cfg(test)]
mod testing;

pub use device::{CpuOptions, Device};
pub use error::KernelError;
pub use isa::Isa;
pub use kv::{KvCache, KvFormat, KvLayout, PAGE_TOKENS, PagedRows};
pub use mapping::{MappedBytes, Mapping};
pub use matmul::{Addend, Input, Linear, Precision};
pub use memory::{SharedBytes, WeakBytes};
pub use ops::{
    Activation, AttentionParams, AttentionSpan, HEAD_DIM_MAX, HeadTurn, MASS_PIECE, MAXIMA_PIECE, Softmax,
};
pub use quant::Format;
pub use rope::{RopeStyle, RopeTable};
pub use tensor::{Table, Tensor, Vector, WeightView};
