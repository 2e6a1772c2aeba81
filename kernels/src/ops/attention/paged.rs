//! Causal attention of a step's rows over their sequences' f16 pages.

use super::AttentionParams;
use super::tile::{Pages, Query, WIDTH_MAX, WIDTHS, attend_f16};
use crate::Isa;
use crate::kv::{KvCache, PagedRows, padded};
use crate::matmul::SendPtr;
use crate::pool::WorkerPool;
use crate::tensor::Tensor;

/// Queries of one work item: enough to amortise its hand-out, few enough to balance.
const ITEM_QUERIES: usize = 4 * WIDTH_MAX;

/// Queries `first..end` (row-major over rows and the heads of a group) of one sequence and key head.
struct Item {
    sequence: usize,
    kv_head: usize,
    first: usize,
    end: usize,
}

/// See [`crate::Device::attention`].
pub fn paged(
    isa: Isa,
    pool: &WorkerPool,
    q: &Tensor,
    kv: &KvCache,
    layer: usize,
    sequences: &[PagedRows],
    params: &AttentionParams,
    out: &mut Tensor,
) {
    out.reshape(q.rows(), params.heads * params.head_dim);
    assert_eq!(q.columns(), out.columns());
    let apart = |pair: &[PagedRows]| pair[0].first_row + pair[0].rows <= pair[1].first_row;
    assert!(sequences.windows(2).all(apart), "sequences share no row");
    let group = params.group();
    let items_of = |sequence: &PagedRows| (sequence.rows * group).div_ceil(ITEM_QUERIES) * params.kv_heads;
    let total: usize = sequences.iter().map(items_of).sum();
    let target = SendPtr(out.values_mut().as_mut_ptr());
    pool.dynamic(total, &|mut index| {
        let mut sequence = 0;
        while index >= items_of(&sequences[sequence]) {
            index -= items_of(&sequences[sequence]);
            sequence += 1;
        }
        let queries = sequences[sequence].rows * group;
        let first = index / params.kv_heads * ITEM_QUERIES;
        let end = (first + ITEM_QUERIES).min(queries);
        let item = Item { sequence, kv_head: index % params.kv_heads, first, end };
        attend_item(isa, q, kv, layer, sequences, params, &item, &target);
    });
}

fn attend_item(
    isa: Isa,
    q: &Tensor,
    kv: &KvCache,
    layer: usize,
    sequences: &[PagedRows],
    params: &AttentionParams,
    item: &Item,
    target: &SendPtr<f32>,
) {
    let AttentionParams { head_dim, scale, window, .. } = *params;
    let sequence = &sequences[item.sequence];
    let group = params.group();
    let pages = Pages {
        store: &kv.bits,
        page_stride: kv.page_stride(),
        head_offset: kv.head_offset(layer, item.kv_head),
        pages: &sequence.pages,
        head_dim,
        padded_dim: padded(head_dim),
    };
    let mut at = item.first;
    while at < item.end {
        let width = WIDTHS.iter().copied().find(|&width| width <= item.end - at).unwrap_or(1);
        let mut queries = [Query::default(); WIDTH_MAX];
        let mut results: [&mut [f32]; WIDTH_MAX] = Default::default();
        for n in 0..width {
            let (row, head) = ((at + n) / group, item.kv_head * group + (at + n) % group);
            let end = sequence.past + row + 1;
            let start = (sequence.first_row + row) * q.columns() + head * head_dim;
            queries[n] = Query {
                values: &q.values()[start..][..head_dim],
                first: window.map_or(0, |window| end.saturating_sub(window)),
                end,
            };
            assert!(start + head_dim <= q.values().len());
            // SAFETY: `out` has q's shape and `start + head_dim` lies within it; each (row, head) is in
            // exactly one item, as sequences share no row, so no other reference to these values exists.
            results[n] = unsafe { std::slice::from_raw_parts_mut(target.get().add(start), head_dim) };
        }
        attend_f16(isa, &queries[..width], &pages, scale, &mut results[..width]);
        at += width;
    }
}
