//! Attention with online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): pages are visited in
//! order and no row of scores is ever stored whole.
//!
//! out = softmax(q Kᵀ · scale) V. A *tile* is a handful of queries that read the same keys: the query
//! heads that share a key head, of one row or of neighbouring rows. Decoders read f16 pages
//! ([`paged`]); encoders copy their keys and values into f32 pages first ([`bidirectional`]).

mod bidirectional;
mod paged;
#[cfg(test)]
mod tests;
mod tile;

pub use bidirectional::bidirectional;
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
}
