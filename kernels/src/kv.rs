//! Keys and values in fixed-size pages, in f16.
//!
//! A page holds [`PAGE_TOKENS`] tokens of every layer. Which page belongs to whom is the engine's
//! business; here a page is only a number.

use half::f16;

/// Tokens in one page. A multiple of 32, as paged flash attention on GPUs asks for.
pub const PAGE_TOKENS: usize = 32;

/// Shape of one model's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl KvLayout {
    /// Bytes of one page: keys and values of all layers.
    pub fn page_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * PAGE_TOKENS * size_of::<f16>()
    }
}

/// Rows of a step that belong to one sequence, and where that sequence's keys and values live.
///
/// Row `i` of `rows` is the token at position `past + i`; it sees positions `0..=past + i`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PagedRows {
    /// First row of this sequence in the step's tensors.
    pub first_row: usize,
    /// How many rows it has.
    pub rows: usize,
    /// Tokens already in the cache before this step.
    pub past: usize,
    /// Pages in position order; they must hold `past + rows` tokens.
    pub pages: Vec<u32>,
}

/// One model's pages. Inside a page: layer, then head, then keys `[PAGE_TOKENS][head_dim]` and values
/// `[PAGE_TOKENS][head_dim]`.
pub struct KvCache {
    pub(crate) values: Vec<f16>,
    layout: KvLayout,
    pages: usize,
}

impl KvCache {
    /// `pages` pages of zeros. Memory is touched only as pages are written.
    pub fn new(layout: KvLayout, pages: usize) -> KvCache {
        KvCache { values: vec![f16::ZERO; pages * layout.page_bytes() / size_of::<f16>()], layout, pages }
    }

    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Overwrites a page with zeros, so that its next owner can read nothing of the last one's.
    pub fn zero_page(&mut self, page: u32) {
        let length = self.layout.page_bytes() / size_of::<f16>();
        self.values[page as usize * length..][..length].fill(f16::ZERO);
    }

    /// Offset of the keys of (`page`, `layer`, `head`); the values follow after
    /// `PAGE_TOKENS * head_dim`.
    pub(crate) fn offset(&self, page: u32, layer: usize, head: usize) -> usize {
        let head_values = 2 * PAGE_TOKENS * self.layout.head_dim;
        ((page as usize * self.layout.layers + layer) * self.layout.kv_heads + head) * head_values
    }
}
