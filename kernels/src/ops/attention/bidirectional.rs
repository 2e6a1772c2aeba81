//! Attention of encoders: every row of a segment sees every other. Queries may be some of a segment's rows
//! only, so that a long one can be computed in pieces; the bits are the same.

use std::cell::RefCell;
use std::ops::Range;

use super::AttentionParams;
use super::tile::{Pages, TILE_QUERIES, finish, with_tile};
use crate::Isa;
use crate::kv::head::store;
use crate::kv::{AlignedWords, HeadLayout, KvFormat, PAGE_TOKENS};
use crate::matmul::SendPtr;
use crate::pool::WorkerPool;
use crate::tensor::Tensor;

/// Queries and what they see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionSpan {
    /// Rows of q and of the result.
    pub queries: Range<usize>,
    /// Rows of k and v: all of the queries' segment.
    pub keys: Range<usize>,
}

thread_local! {
    /// Keys and values of the head at hand, as pages.
    static HEAD: RefCell<AlignedWords> = RefCell::default();
}

/// See [`crate::Device::attention_bidirectional`].
pub fn bidirectional(
    isa: Isa,
    pool: &WorkerPool,
    [q, k, v]: [&Tensor; 3],
    spans: &[AttentionSpan],
    params: &AttentionParams,
    out: &mut Tensor,
) {
    out.reshape(q.rows(), params.heads * params.head_dim);
    assert_eq!(q.columns(), out.columns());
    let apart = |pair: &[AttentionSpan]| pair[0].queries.end <= pair[1].queries.start;
    assert!(spans.windows(2).all(apart), "spans share no query");
    let longest = spans.iter().map(|span| span.keys.len()).max().unwrap_or(0);
    let order: Vec<u32> = (0..longest.div_ceil(PAGE_TOKENS) as u32).collect();
    let layout = HeadLayout { format: KvFormat::Int16, head_dim: params.head_dim };
    let target = SendPtr(out.values_mut().as_mut_ptr());
    pool.dynamic(spans.len() * params.kv_heads, &|item| {
        let (span, kv_head) = (&spans[item / params.kv_heads], item % params.kv_heads);
        HEAD.with_borrow_mut(|words| {
            words.reserve(order.len() * layout.words());
            store_head(isa, [k, v], &span.keys, kv_head, &layout, words);
            let pages = Pages { words, page_stride: layout.words(), head_offset: 0, pages: &order, layout };
            attend_head(isa, q, span, kv_head, params, &pages, &target);
        });
    });
}

/// Stores a head's keys and values in pages.
fn store_head(
    isa: Isa,
    [k, v]: [&Tensor; 2],
    rows: &Range<usize>,
    head: usize,
    layout: &HeadLayout,
    words: &mut [u32],
) {
    let columns = head * layout.head_dim..(head + 1) * layout.head_dim;
    for (token, row) in rows.clone().enumerate() {
        let page = &mut words[token / PAGE_TOKENS * layout.words()..][..layout.words()];
        let (key, value) = (&k.row(row)[columns.clone()], &v.row(row)[columns.clone()]);
        store(isa, page, layout, token % PAGE_TOKENS, key, value);
    }
}

/// Attends with the query heads that share a key head, tile by tile.
fn attend_head(
    isa: Isa,
    q: &Tensor,
    span: &AttentionSpan,
    kv_head: usize,
    params: &AttentionParams,
    pages: &Pages<'_>,
    target: &SendPtr<f32>,
) {
    let (group, head_dim) = (params.group(), params.head_dim);
    let queries = span.queries.len() * group;
    let start_of = |query: usize| {
        (span.queries.start + query / group) * q.columns() + (kv_head * group + query % group) * head_dim
    };
    for first in (0..queries).step_by(TILE_QUERIES) {
        let count = TILE_QUERIES.min(queries - first);
        with_tile(|tile| {
            let query = |n, values: &mut [f32]| {
                values.copy_from_slice(&q.values()[start_of(first + n)..][..head_dim]);
                0..span.keys.len()
            };
            tile.load(isa, pages.layout, params.scale, count, query);
            let total = tile.attend(isa, pages, tile.segments());
            let rows = total.running.iter().zip(total.values.chunks_exact(pages.layout.padded_dim()));
            for (n, (running, values)) in rows.enumerate() {
                let start = start_of(first + n);
                assert!(start + head_dim <= q.values().len());
                // SAFETY: `out` has q's shape and this range lies within it; each (row, head) is in exactly
                // one work item.
                let out = unsafe { std::slice::from_raw_parts_mut(target.get().add(start), head_dim) };
                finish(isa, running, values, out);
            }
        });
    }
}
