//! Keys and values in fixed-size pages, in f16.
//!
//! A page holds [`PAGE_TOKENS`] tokens of every layer. Which page belongs to whom is the engine's
//! business; here a page is only a number.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::matmul::SendPtr;
use crate::ops::attention::HEAD_DIM_MAX;
use crate::pool::WorkerPool;
use crate::simd::LANES;
use crate::tensor::Tensor;

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
        self.layers * self.kv_heads * self.head_values() * size_of::<f16>()
    }

    /// Values of one head in one page: its keys, then its values.
    pub(crate) fn head_values(&self) -> usize {
        PAGE_TOKENS * (self.head_dim + padded(self.head_dim))
    }
}

/// Length of a row of values: whole registers, zeros at the end.
pub(crate) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
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

/// One model's pages. Inside a page: layer, then head, then keys `[head_dim][PAGE_TOKENS]` and values
/// `[PAGE_TOKENS][head_dim, padded]`. Keys lie with their tokens side by side, so that one register
/// scores 16 tokens and no dot product needs a horizontal sum.
pub struct KvCache {
    /// f16 bits. (A vector of zero integers takes untouched pages from the system.)
    pub(crate) bits: Vec<u16>,
    layout: KvLayout,
    pages: usize,
}

impl KvCache {
    /// `pages` pages of zeros. Memory is touched only as pages are written.
    pub fn new(layout: KvLayout, pages: usize) -> KvCache {
        KvCache { bits: vec![0; pages * layout.page_bytes() / size_of::<f16>()], layout, pages }
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
        self.bits[page as usize * length..][..length].fill(0);
    }

    /// Whether a page holds nothing but zeros.
    pub fn is_zeroed(&self, page: u32) -> bool {
        let length = self.layout.page_bytes() / size_of::<f16>();
        self.bits[page as usize * length..][..length].iter().all(|&bits| bits == 0)
    }

    /// Overwrites every page that holds anything, before the memory goes back to the system. Pages never
    /// used stay untouched.
    pub fn wipe(&mut self) {
        for page in 0..self.pages as u32 {
            if !self.is_zeroed(page) {
                self.zero_page(page);
            }
        }
        // Writes to memory that is freed next would otherwise be left out by the compiler.
        std::hint::black_box(&mut self.bits);
    }

    /// Offset of (`layer`, `head`) inside a page.
    pub(crate) fn head_offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.layout.kv_heads + head) * self.layout.head_values()
    }

    /// Values from one page to the next.
    pub(crate) fn page_stride(&self) -> usize {
        self.layout.layers * self.layout.kv_heads * self.layout.head_values()
    }

    /// Stores a step's keys and values (`rows` x `kv_heads * head_dim`), heads in parallel.
    pub(crate) fn write_rows(
        &mut self,
        pool: &WorkerPool,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        sequences: &[PagedRows],
    ) {
        let KvLayout { kv_heads, head_dim, layers } = self.layout;
        assert!(layer < layers && k.columns() == kv_heads * head_dim && v.columns() == k.columns());
        for sequence in sequences {
            assert!(sequence.pages.iter().all(|&page| (page as usize) < self.pages));
        }
        let (stride, values) = (self.page_stride(), self.layout.head_values());
        let bits = SendPtr(self.bits.as_mut_ptr());
        let write_head = |head: usize| {
            let offset = (layer * kv_heads + head) * values;
            for (sequence, row) in sequences.iter().flat_map(|s| (0..s.rows).map(move |row| (s, row))) {
                let position = sequence.past + row;
                let start = sequence.pages[position / PAGE_TOKENS] as usize * stride + offset;
                // SAFETY: the page is below `pages` and (layer, head) inside it, both checked above; each
                // head's part of a page is written by one thread.
                let stored = unsafe { std::slice::from_raw_parts_mut(bits.get().add(start), values) };
                let part = |tensor: &'_ Tensor| -> std::ops::Range<usize> {
                    let start = (sequence.first_row + row) * tensor.columns() + head * head_dim;
                    start..start + head_dim
                };
                put(stored, position % PAGE_TOKENS, &k.values()[part(k)], &v.values()[part(v)]);
            }
        };
        let rows: usize = sequences.iter().map(|sequence| sequence.rows).sum();
        // Few rows are written sooner than handed out.
        if rows * head_dim * kv_heads < 8192 {
            (0..kv_heads).for_each(write_head);
        } else {
            pool.dynamic(kv_heads, &write_head);
        }
    }
}

/// Stores one token's key and value (`head_dim` each) in a head's part of a page.
fn put(stored: &mut [u16], slot: usize, key: &[f32], value: &[f32]) {
    let (keys, values) = stored.split_at_mut(PAGE_TOKENS * key.len());
    let mut halves = [f16::ZERO; HEAD_DIM_MAX];
    let halves = &mut halves[..key.len()];
    halves.convert_from_f32_slice(key);
    for (column, half) in keys.chunks_exact_mut(PAGE_TOKENS).zip(&*halves) {
        column[slot] = half.to_bits();
    }
    halves.convert_from_f32_slice(value);
    values[slot * padded(value.len())..][..value.len()].copy_from_slice(halves.reinterpret_cast());
}
