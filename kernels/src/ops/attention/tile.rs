//! A tile: queries of neighbouring rows and of the heads that share a key head, over a run of pages.
//!
//! Positions are cut into segments of [`SEGMENT_TOKENS`], whose softmaxes are merged in order. That is
//! so whether one thread goes through them all or each segment has a thread of its own, and so the
//! result is the same.

use std::cell::RefCell;
use std::ops::Range;

use super::HEAD_DIM_MAX;
use super::block::{BLOCK_PAGES, BLOCK_TOKENS, Block, Running, Strip, Weights, attend, strip_width};
use crate::Isa;
use crate::kv::head::to_pairs;
use crate::kv::{AlignedWords, HeadLayout, KvFormat, PAGE_TOKENS};
use crate::simd::{LANES, Simd, per_isa};

/// Most queries of a tile: they share each block's trip from memory.
pub const TILE_QUERIES: usize = 48;

/// Positions whose softmax is computed apart.
pub const SEGMENT_TOKENS: usize = 4 * BLOCK_TOKENS;

/// Where keys and values of a head are, page by page.
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    pub words: &'a [u32],
    /// Words from one page to the next.
    pub page_stride: usize,
    pub head_offset: usize,
    /// Pages in position order.
    pub pages: &'a [u32],
    pub layout: HeadLayout,
}

/// A softmax of each of a tile's queries over some positions.
#[derive(Default)]
pub struct Partial {
    pub running: Vec<Running>,
    /// Weighted sums, `[queries][padded_dim]`.
    pub values: Vec<f32>,
}

impl Partial {
    fn clear(&mut self, queries: usize, padded_dim: usize) {
        self.running.clear();
        self.running.resize(queries, Running::EMPTY);
        self.values.clear();
        self.values.resize(queries * padded_dim, 0.0);
    }
}

/// One thread's room for a tile.
#[derive(Default)]
pub struct Tile {
    layout: Option<HeadLayout>,
    /// Strip by strip, `[pairs][queries of the strip]`.
    words: Vec<u32>,
    factors: Vec<f32>,
    seen: Vec<Range<usize>>,
    /// Of the segment at hand, and of those before it.
    segment: Partial,
    total: Partial,
    weights: Box<Weights>,
    widened: AlignedWords,
}

thread_local! {
    static TILE: RefCell<Tile> = RefCell::default();
}

/// Gives `work` this thread's tile.
pub fn with_tile<R>(work: impl FnOnce(&mut Tile) -> R) -> R {
    TILE.with_borrow_mut(work)
}

impl Tile {
    /// Makes room for the largest tile, so that later ones allocate nothing.
    pub fn reserve(&mut self, layout: &HeadLayout) {
        fn grow<T>(values: &mut Vec<T>, length: usize) {
            values.reserve(length.saturating_sub(values.len()));
        }
        grow(&mut self.words, TILE_QUERIES * layout.pairs());
        grow(&mut self.factors, TILE_QUERIES);
        grow(&mut self.seen, TILE_QUERIES);
        for partial in [&mut self.segment, &mut self.total] {
            grow(&mut partial.running, TILE_QUERIES);
            grow(&mut partial.values, TILE_QUERIES * layout.padded_dim());
        }
        if layout.format != KvFormat::Int16 {
            self.widened.reserve(BLOCK_PAGES * layout.widened().words());
        }
    }

    /// Takes up queries, at most [`TILE_QUERIES`]: `query(n, values)` writes the values of the n-th and
    /// returns the positions it sees.
    pub fn load(
        &mut self,
        isa: Isa,
        layout: HeadLayout,
        scale: f32,
        count: usize,
        query: impl Fn(usize, &mut [f32]) -> Range<usize>,
    ) {
        assert!(count <= TILE_QUERIES);
        let pairs = layout.pairs();
        self.layout = Some(layout);
        self.words.resize(count * pairs, 0);
        self.factors.clear();
        self.seen.clear();
        let mut room = [0.0; HEAD_DIM_MAX];
        let values = &mut room[..layout.head_dim];
        let mut at = 0;
        while at < count {
            let width = strip_width(isa, count - at);
            let words = &mut self.words[at * pairs..][..width * pairs];
            for n in 0..width {
                self.seen.push(query(at + n, values));
                let unit = load_query(isa, values, &mut words[n..], width);
                self.factors.push(unit * scale * std::f32::consts::LOG2_E);
            }
            at += width;
        }
    }

    /// Segments of which some query sees something.
    pub fn segments(&self) -> Range<usize> {
        let first = self.seen.iter().map(|seen| seen.start).min().unwrap_or(0);
        let end = self.seen.iter().map(|seen| seen.end).max().unwrap_or(0);
        first / SEGMENT_TOKENS..end.div_ceil(SEGMENT_TOKENS)
    }

    /// Attends to some segments, in order.
    pub fn attend(&mut self, isa: Isa, pages: &Pages<'_>, segments: Range<usize>) -> &Partial {
        let layout = pages.layout;
        assert_eq!(self.layout, Some(layout));
        let (count, padded_dim) = (self.factors.len(), layout.padded_dim());
        self.total.clear(count, padded_dim);
        for segment in segments {
            self.segment.clear(count, padded_dim);
            for start in (segment * SEGMENT_TOKENS..(segment + 1) * SEGMENT_TOKENS).step_by(BLOCK_TOKENS) {
                self.attend_block(isa, pages, start);
            }
            let Partial { running, values } = &self.segment;
            merge(isa, &mut self.total.running, &mut self.total.values, running, values);
        }
        &self.total
    }

    fn attend_block(&mut self, isa: Isa, pages: &Pages<'_>, start: usize) {
        let Tile { words, factors, seen, segment, weights, widened, .. } = self;
        let (pairs, padded_dim) = (pages.layout.pairs(), pages.layout.padded_dim());
        let needed = pages_seen(seen, start);
        if needed == 0 {
            return;
        }
        let block = pages.block(isa, start, needed, widened);
        let mut at = 0;
        while at < factors.len() {
            let width = strip_width(isa, factors.len() - at);
            let queries = at..at + width;
            let needed = pages_seen(&seen[queries.clone()], start);
            if needed > 0 {
                let mut strip = Strip {
                    words: &words[at * pairs..][..width * pairs],
                    factors: &factors[queries.clone()],
                    seen: &seen[queries.clone()],
                    running: &mut segment.running[queries],
                    values: &mut segment.values[at * padded_dim..][..width * padded_dim],
                    padded_dim,
                };
                attend(isa, &block, needed, &mut strip, weights);
            }
            at += width;
        }
    }
}

/// How many pages of the block at `start` queries with these views need.
fn pages_seen(seen: &[Range<usize>], start: usize) -> usize {
    let visible = |seen: &&Range<usize>| seen.start < start + BLOCK_TOKENS && seen.end > start;
    let end = seen.iter().filter(visible).map(|seen| seen.end).max().unwrap_or(start);
    (end - start).div_ceil(PAGE_TOKENS).min(BLOCK_PAGES)
}

impl<'a> Pages<'a> {
    /// The first `count` pages of the block at position `start`.
    fn block<'b>(&self, isa: Isa, start: usize, count: usize, widened: &'b mut AlignedWords) -> Block<'b>
    where
        'a: 'b,
    {
        let mut block = Block { start, ..Block::default() };
        let pages = &self.pages[start / PAGE_TOKENS..][..count];
        let page = |page: u32| &self.words[page as usize * self.page_stride + self.head_offset..];
        match self.layout.format {
            KvFormat::Int16 => {
                for (target, index) in block.pages.iter_mut().zip(pages) {
                    *target = self.layout.view(page(*index));
                }
            }
            KvFormat::Int8 => {
                let wide = self.layout.widened();
                widened.reserve(BLOCK_PAGES * wide.words());
                let parts = widened.chunks_exact_mut(wide.words());
                for ((target, part), index) in block.pages.iter_mut().zip(parts).zip(pages) {
                    widen_page(isa, &self.layout, page(*index), part);
                    *target = wide.view(part);
                }
            }
        }
        block
    }
}

per_isa!(fn load_query = load_query_body(query: &[f32], words: &mut [u32], stride: usize) -> f32);

/// Writes a query's integers to every `stride`-th word; returns what a unit of them is worth.
#[inline(always)]
fn load_query_body<S: Simd>(query: &[f32], words: &mut [u32], stride: usize) -> f32 {
    let mut codes = [0; HEAD_DIM_MAX / 2];
    let codes = &mut codes[..query.len().div_ceil(2)];
    let unit = to_pairs::<S>(query, codes);
    for (word, code) in words.iter_mut().step_by(stride).zip(codes) {
        *word = *code;
    }
    unit
}

per_isa!(fn widen_page = widen_page_body(layout: &HeadLayout, narrow: &[u32], wide: &mut [u32]));

/// A page of 8-bit integers as one of 16-bit ones.
#[inline(always)]
fn widen_page_body<S: Simd>(layout: &HeadLayout, narrow: &[u32], wide: &mut [u32]) {
    let page = layout.view(narrow);
    let (keys, rest) = wide.split_at_mut(2 * page.keys.len());
    let (key_scales, rest) = rest.split_at_mut(PAGE_TOKENS);
    let (values, value_scales) = rest.split_at_mut(2 * page.values.len());
    for (narrow, wide) in [(page.keys, keys), (page.values, values)] {
        for (bytes, pairs) in narrow.as_chunks().0.iter().zip(wide.as_chunks_mut().0) {
            *pairs = S::widen_pairs(bytes);
        }
    }
    key_scales.copy_from_slice(page.key_scales);
    value_scales[..PAGE_TOKENS].copy_from_slice(page.value_scales);
}

per_isa!(
    /// Adds the softmaxes of a later segment to those of the segments before.
    pub fn merge = merge_body(
        running: &mut [Running], values: &mut [f32], later: &[Running], later_values: &[f32]
    )
);

#[inline(always)]
fn merge_body<S: Simd>(running: &mut [Running], values: &mut [f32], later: &[Running], later_values: &[f32]) {
    let padded_dim = values.len() / running.len();
    let rows = values.chunks_exact_mut(padded_dim).zip(later_values.chunks_exact(padded_dim));
    for ((running, later), (values, later_values)) in running.iter_mut().zip(later).zip(rows) {
        if later.sum == 0.0 {
            continue;
        }
        if running.sum == 0.0 {
            *running = *later;
            values.copy_from_slice(later_values);
            continue;
        }
        let (shrink, grow) = running.join::<S>(*later);
        for (value, later) in values.iter_mut().zip(later_values) {
            *value = later.mul_add(grow, *value * shrink);
        }
    }
}

per_isa!(
    /// Writes the result of one query.
    pub fn finish = finish_body(partial: &Running, values: &[f32], out: &mut [f32])
);

#[inline(always)]
fn finish_body<S: Simd>(partial: &Running, values: &[f32], out: &mut [f32]) {
    let inverse = 1.0 / partial.sum;
    for (out, value) in out.iter_mut().zip(values) {
        *out = value * inverse;
    }
}

const _: () = assert!(SEGMENT_TOKENS.is_multiple_of(BLOCK_TOKENS) && BLOCK_TOKENS.is_multiple_of(LANES));
