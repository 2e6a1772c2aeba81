//! Causal attention of a step's rows over their sequences' pages.
//!
//! Work is cut in items: a tile of queries of one sequence and key head. Where a sequence has too few
//! rows for that, as in decoding, its tile is cut again, by segments of positions: each item leaves a
//! partial softmax, and who is done last merges them, in order.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::AttentionParams;
use super::block::{Running, STRIP_MAX};
use super::tile::{Pages, SEGMENT_TOKENS, TILE_QUERIES, Tile, finish, merge, with_tile};
use crate::Isa;
use crate::kv::{KvCache, PagedRows};
use crate::matmul::SendPtr;
use crate::ops::HeadTurn;
use crate::pool::WorkerPool;
use crate::tensor::Tensor;

/// How one sequence's work is cut.
struct Plan {
    /// Items of the sequences before this one.
    first_item: usize,
    /// Of one key head: rows and the heads that share it.
    queries: usize,
    tiles: usize,
    /// Segments with an item each, when there is but one tile; otherwise empty.
    segments: Range<usize>,
    /// Where this sequence's partial softmaxes begin: queries in [`Scratch`]'s vectors.
    first_partial: usize,
    /// Where its counters of ended items begin, one for each key head.
    first_counter: usize,
}

/// What the caller's thread keeps between calls.
#[derive(Default)]
struct Scratch {
    plans: Vec<Plan>,
    running: Vec<Running>,
    /// `[partial queries][padded_dim]`
    values: Vec<f32>,
    ended: Vec<AtomicU32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Plan {
    /// Items of one key head.
    fn items(&self) -> usize {
        self.segments.len().max(self.tiles)
    }
}

impl Scratch {
    /// Cuts the work; returns the number of items.
    fn plan(&mut self, sequences: &[PagedRows], params: &AttentionParams, padded_dim: usize) -> usize {
        let (mut items, mut partials, mut counters) = (0, 0, 0);
        self.plans.clear();
        for sequence in sequences {
            let queries = sequence.rows * params.group();
            let seen = params.seen(sequence.past).start..sequence.past + sequence.rows;
            let segments = seen.start / SEGMENT_TOKENS..seen.end.div_ceil(SEGMENT_TOKENS);
            let is_cut = queries > 0 && queries <= STRIP_MAX && segments.len() > 1;
            let plan = Plan {
                first_item: items,
                queries,
                tiles: queries.div_ceil(TILE_QUERIES),
                segments: if is_cut { segments } else { 0..0 },
                first_partial: partials,
                first_counter: counters,
            };
            items += plan.items() * params.kv_heads;
            if is_cut {
                partials += plan.segments.len() * queries * params.kv_heads;
                counters += params.kv_heads;
            }
            self.plans.push(plan);
        }
        self.running.resize(partials, Running::EMPTY);
        self.values.resize(partials * padded_dim, 0.0);
        self.ended.resize_with(counters, AtomicU32::default);
        self.ended.iter_mut().for_each(|count| *count.get_mut() = 0);
        items
    }
}

/// See [`crate::Device::attention`].
pub fn paged(
    isa: Isa,
    pool: &WorkerPool,
    q: &Tensor,
    turn: Option<&HeadTurn<'_>>,
    kv: &KvCache,
    layer: usize,
    sequences: &[PagedRows],
    params: &AttentionParams,
    out: &mut Tensor,
) {
    if let Some(turn) = turn {
        turn.check(q.rows(), params.head_dim);
    }
    out.reshape(q.rows(), params.heads * params.head_dim);
    assert_eq!(q.columns(), out.columns());
    let apart = |pair: &[PagedRows]| pair[0].first_row + pair[0].rows <= pair[1].first_row;
    assert!(sequences.windows(2).all(apart), "sequences share no row");
    assert!(sequences.last().is_none_or(|last| last.first_row + last.rows <= q.rows()));
    SCRATCH.with_borrow_mut(|scratch| {
        let items = scratch.plan(sequences, params, kv.layout().head().padded_dim());
        let call = Call {
            isa,
            q,
            turn,
            kv,
            layer,
            sequences,
            params,
            plans: &scratch.plans,
            ended: &scratch.ended,
            running: SendPtr(scratch.running.as_mut_ptr()),
            values: SendPtr(scratch.values.as_mut_ptr()),
            out: SendPtr(out.values_mut().as_mut_ptr()),
        };
        let next = AtomicUsize::new(0);
        let work = |_| {
            with_tile(|tile| {
                // Also without work this time: a later step must find its room on every thread.
                tile.reserve(&kv.layout().head());
                loop {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= items {
                        return;
                    }
                    call.attend_item(tile, item);
                }
            });
        };
        if items > 1 { pool.run(&work) } else { work(0) }
    });
}

/// What all items of a call share.
struct Call<'a> {
    isa: Isa,
    q: &'a Tensor,
    turn: Option<&'a HeadTurn<'a>>,
    kv: &'a KvCache,
    layer: usize,
    sequences: &'a [PagedRows],
    params: &'a AttentionParams,
    plans: &'a [Plan],
    ended: &'a [AtomicU32],
    /// [`Scratch`]'s partial softmaxes.
    running: SendPtr<Running>,
    values: SendPtr<f32>,
    /// The result, of q's shape.
    out: SendPtr<f32>,
}

impl Call<'_> {
    fn attend_item(&self, tile: &mut Tile, item: usize) {
        let sequence = self.plans.partition_point(|plan| plan.first_item <= item) - 1;
        let plan = &self.plans[sequence];
        // A head's tiles follow each other, so that its pages stay in a core's cache. Late tiles see most
        // and come first: short ones even out the end.
        let (kv_head, index) =
            ((item - plan.first_item) / plan.items(), (item - plan.first_item) % plan.items());
        let pages = Pages {
            words: self.kv.words(),
            page_stride: self.kv.page_stride(),
            head_offset: self.kv.head_offset(self.layer, kv_head),
            pages: &self.sequences[sequence].pages,
            layout: self.kv.layout().head(),
        };
        if plan.segments.is_empty() {
            let first = (plan.tiles - 1 - index) * TILE_QUERIES;
            let queries = first..(first + TILE_QUERIES).min(plan.queries);
            self.load(tile, sequence, kv_head, queries.clone());
            let total = tile.attend(self.isa, &pages, tile.segments());
            self.finish(sequence, kv_head, queries, &total.running, &total.values);
        } else {
            self.load(tile, sequence, kv_head, 0..plan.queries);
            self.attend_segment(tile, &pages, sequence, kv_head, index);
        }
    }

    fn load(&self, tile: &mut Tile, sequence: usize, kv_head: usize, queries: Range<usize>) {
        let past = self.sequences[sequence].past;
        let query = |n, values: &mut [f32]| {
            let (row, column) = self.place(sequence, kv_head, queries.start + n);
            values.copy_from_slice(&self.q.row(row)[column..][..self.params.head_dim]);
            if let Some(turn) = self.turn {
                turn.apply(self.isa, row, values);
            }
            self.params.seen(past + row - self.sequences[sequence].first_row)
        };
        tile.load(self.isa, self.kv.layout().head(), self.params.scale, queries.len(), query);
    }

    /// (row, column) of a query's first value.
    fn place(&self, sequence: usize, kv_head: usize, query: usize) -> (usize, usize) {
        let group = self.params.group();
        let head = kv_head * group + query % group;
        (self.sequences[sequence].first_row + query / group, head * self.params.head_dim)
    }

    /// Leaves the partial softmax of one segment; whoever leaves a head's last one merges them.
    fn attend_segment(
        &self,
        tile: &mut Tile,
        pages: &Pages<'_>,
        sequence: usize,
        kv_head: usize,
        index: usize,
    ) {
        let plan = &self.plans[sequence];
        let padded_dim = pages.layout.padded_dim();
        let segment = plan.segments.start + index;
        let partial = tile.attend(self.isa, pages, segment..segment + 1);
        let first = plan.first_partial + kv_head * plan.segments.len() * plan.queries;
        // SAFETY: `plan` gave each (sequence, head, segment) queries of its own in both vectors, and they
        // are this item's alone until the counter says that all are done.
        let (running, values) = unsafe {
            let at = first + index * plan.queries;
            (
                std::slice::from_raw_parts_mut(self.running.get().add(at), plan.queries),
                std::slice::from_raw_parts_mut(
                    self.values.get().add(at * padded_dim),
                    plan.queries * padded_dim,
                ),
            )
        };
        running.copy_from_slice(&partial.running);
        values.copy_from_slice(&partial.values);
        let ended = self.ended[plan.first_counter + kv_head].fetch_add(1, Ordering::AcqRel) + 1;
        if ended as usize != plan.segments.len() {
            return;
        }
        let queries = plan.segments.len() * plan.queries;
        // SAFETY: the counter says that every item of this head has left its part and is done with it.
        let (running, values) = unsafe {
            (
                std::slice::from_raw_parts_mut(self.running.get().add(first), queries),
                std::slice::from_raw_parts_mut(
                    self.values.get().add(first * padded_dim),
                    queries * padded_dim,
                ),
            )
        };
        let (running, later) = running.split_at_mut(plan.queries);
        let (values, later_values) = values.split_at_mut(plan.queries * padded_dim);
        let later = later.chunks_exact(plan.queries);
        for (later, later_values) in later.zip(later_values.chunks_exact(plan.queries * padded_dim)) {
            merge(self.isa, running, values, later, later_values);
        }
        self.finish(sequence, kv_head, 0..plan.queries, running, values);
    }

    /// Writes the results of some queries.
    fn finish(
        &self,
        sequence: usize,
        kv_head: usize,
        queries: Range<usize>,
        running: &[Running],
        values: &[f32],
    ) {
        let padded_dim = self.kv.layout().head().padded_dim();
        for ((query, running), values) in queries.zip(running).zip(values.chunks_exact(padded_dim)) {
            let (row, column) = self.place(sequence, kv_head, query);
            let start = row * self.q.columns() + column;
            assert!(start + self.params.head_dim <= self.q.values().len());
            // SAFETY: `out` has q's shape and this range lies within it; each (row, head) is finished by
            // one item, as sequences share no row, so no other reference to these values exists.
            let out =
                unsafe { std::slice::from_raw_parts_mut(self.out.get().add(start), self.params.head_dim) };
            finish(self.isa, running, values, out);
        }
    }
}
