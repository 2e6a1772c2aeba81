//! Attention with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): pages are visited in
//! order and no row of scores is ever stored whole.
//!
//! out = softmax(q Kᵀ · scale) V. Keys, values, queries and weights are 16-bit integers with a scale
//! each ([`crate::kv`]), so that both products run at twice the speed of f32 and are exact; the softmax
//! between them is f32. A [`tile`] of queries that read the same keys (neighbouring rows, and the heads
//! that share a key head) goes over pages [`block`] by block. Decoders read the cache's pages
//! ([`paged`]); encoders put their keys and values into pages first ([`bidirectional`]).

mod bidirectional;
mod block;
mod paged;
#[cfg(test)]
mod tests;
mod tile;

pub use bidirectional::{AttentionSpan, bidirectional};
pub use paged::paged;

/// Largest head this crate computes with.
pub const HEAD_DIM_MAX: usize = 512;

/// Shape and scaling of one attention call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Factor on q·k, usually 1/√head_dim.
    pub scale: f32,
    /// Sliding window: position p sees only positions > p - window.
    pub window: Option<usize>,
}

impl AttentionParams {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        assert!(self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads), "{self:?}");
        assert!(self.head_dim <= HEAD_DIM_MAX, "{self:?}");
        self.heads / self.kv_heads
    }

    /// Positions that the token at `position` sees.
    fn seen(&self, position: usize) -> std::ops::Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }
}
