//! Attention of encoders: every row of a segment sees every other.

use std::cell::RefCell;
use std::ops::Range;

use super::AttentionParams;
use super::tile::{Pages, Query, WIDTH_MAX, WIDTHS, attend_f32};
use crate::Isa;
use crate::kv::{PAGE_TOKENS, padded};
use crate::matmul::SendPtr;
use crate::pool::WorkerPool;
use crate::tensor::Tensor;

thread_local! {
    /// Keys and values of the head at hand, as pages.
    static HEAD: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// See [`crate::Device::attention_bidirectional`].
pub fn bidirectional(
    isa: Isa,
    pool: &WorkerPool,
    [q, k, v]: [&Tensor; 3],
    segments: &[Range<usize>],
    params: &AttentionParams,
    out: &mut Tensor,
) {
    out.reshape(q.rows(), params.heads * params.head_dim);
    assert_eq!(q.columns(), out.columns());
    assert!(segments.windows(2).all(|pair| pair[0].end <= pair[1].start), "segments share no row");
    let group = params.group();
    let longest = segments.iter().map(Range::len).max().unwrap_or(0);
    let order: Vec<u32> = (0..longest.div_ceil(PAGE_TOKENS) as u32).collect();
    let target = SendPtr(out.values_mut().as_mut_ptr());
    pool.dynamic(segments.len() * params.kv_heads, &|item| {
        let (segment, kv_head) = (&segments[item / params.kv_heads], item % params.kv_heads);
        HEAD.with_borrow_mut(|store| {
            copy_head(k, v, segment, kv_head, params.head_dim, store);
            let pages = Pages {
                store,
                page_stride: PAGE_TOKENS * (params.head_dim + padded(params.head_dim)),
                head_offset: 0,
                pages: &order,
                head_dim: params.head_dim,
                padded_dim: padded(params.head_dim),
            };
            for head in kv_head * group..(kv_head + 1) * group {
                attend_head(isa, q, segment, head, params, &pages, &target);
            }
        });
    });
}

/// Copies a head's keys (tokens side by side) and values into pages.
fn copy_head(
    k: &Tensor,
    v: &Tensor,
    rows: &Range<usize>,
    head: usize,
    head_dim: usize,
    store: &mut Vec<f32>,
) {
    let stride = PAGE_TOKENS * (head_dim + padded(head_dim));
    store.clear();
    store.resize(rows.len().div_ceil(PAGE_TOKENS) * stride, 0.0);
    for (token, row) in rows.clone().enumerate() {
        let page = &mut store[token / PAGE_TOKENS * stride..][..stride];
        let (keys, values) = page.split_at_mut(PAGE_TOKENS * head_dim);
        let slot = token % PAGE_TOKENS;
        for (d, key) in k.row(row)[head * head_dim..][..head_dim].iter().enumerate() {
            keys[d * PAGE_TOKENS + slot] = *key;
        }
        values[slot * padded(head_dim)..][..head_dim]
            .copy_from_slice(&v.row(row)[head * head_dim..][..head_dim]);
    }
}

fn attend_head(
    isa: Isa,
    q: &Tensor,
    segment: &Range<usize>,
    head: usize,
    params: &AttentionParams,
    pages: &Pages<'_, f32>,
    target: &SendPtr<f32>,
) {
    let head_dim = params.head_dim;
    let mut at = segment.start;
    while at < segment.end {
        let width = WIDTHS.iter().copied().find(|&width| width <= segment.end - at).unwrap_or(1);
        let mut queries = [Query::default(); WIDTH_MAX];
        let mut results: [&mut [f32]; WIDTH_MAX] = Default::default();
        for n in 0..width {
            let start = (at + n) * q.columns() + head * head_dim;
            queries[n] = Query { values: &q.values()[start..][..head_dim], first: 0, end: segment.len() };
            // SAFETY: `out` has q's shape and `start + head_dim` lies within it (q was just sliced so);
            // each (row, head) is in exactly one work item.
            results[n] = unsafe { std::slice::from_raw_parts_mut(target.get().add(start), head_dim) };
        }
        attend_f32(isa, &queries[..width], pages, params.scale, &mut results[..width]);
        at += width;
    }
}
