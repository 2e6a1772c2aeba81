//! Attention against its formula in f64, over pages handed out in shuffled order.

use super::*;
use crate::Isa;
use crate::kv::{KvCache, KvFormat, KvLayout, PAGE_TOKENS, PagedRows};
use crate::pool::WorkerPool;
use crate::tensor::Tensor;
use crate::testing::{Seeded, for_each_isa, relative_error};

/// Relative to the largest result. Results here are averages of noise, which show the rounding of weights and
/// values in full.
fn error_max(format: KvFormat) -> f32 {
    match format {
        KvFormat::Int16 => 5e-4,
        KvFormat::Int8 => 1e-2,
    }
}

fn random_tensor(rows: usize, columns: usize, random: &mut Seeded) -> Tensor {
    let mut tensor = Tensor::zeros(rows, columns);
    random.fill(tensor.values_mut(), -1.0, 1.0);
    tensor
}

/// softmax(q·k · scale)·v of one query over the given rows.
fn exact(query: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let weights: Vec<f64> = keys.iter().map(|key| (dot(query, key) * f64::from(scale)).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..query.len())
        .map(|d| {
            let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * f64::from(v[d])).sum();
            (sum / total) as f32
        })
        .collect()
}

struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    format: KvFormat,
    /// (past, rows) of each sequence.
    sequences: &'static [(usize, usize)],
}

fn check(case: &Case) {
    let Case { heads, kv_heads, head_dim, window, format, sequences } = *case;
    let mut random = Seeded::new((heads * head_dim) as u64);
    let params = AttentionParams { heads, kv_heads, head_dim, scale: 0.3, window };
    let pages_each = |&(past, rows): &(usize, usize)| (past + rows).div_ceil(PAGE_TOKENS);
    let total_pages: usize = sequences.iter().map(pages_each).sum();
    let mut free: Vec<u32> = (0..total_pages as u32).rev().collect();
    let (mut rows, mut stored, mut first_row, mut expected) = (Vec::new(), Vec::new(), 0, Vec::new());
    let query_rows: usize = sequences.iter().map(|(_, rows)| rows).sum();
    let q = random_tensor(query_rows, heads * head_dim, &mut random);
    for sequence in sequences {
        let (past, count) = *sequence;
        let pages: Vec<u32> = (0..pages_each(sequence)).map(|_| free.pop().unwrap()).collect();
        let k = random_tensor(past + count, kv_heads * head_dim, &mut random);
        let v = random_tensor(past + count, kv_heads * head_dim, &mut random);
        for row in 0..count {
            for head in 0..heads {
                let shared = head / (heads / kv_heads) * head_dim;
                let end = past + row + 1;
                let seen = window.map_or(0, |window| end.saturating_sub(window))..end;
                let keys: Vec<&[f32]> = seen.clone().map(|p| &k.row(p)[shared..][..head_dim]).collect();
                let values: Vec<&[f32]> = seen.map(|p| &v.row(p)[shared..][..head_dim]).collect();
                let query = &q.row(first_row + row)[head * head_dim..][..head_dim];
                expected.extend(exact(query, &keys, &values, params.scale));
            }
        }
        let all = PagedRows { first_row: 0, rows: past + count, past: 0, pages: pages.clone() };
        stored.push((k, v, all));
        rows.push(PagedRows { first_row, rows: count, past, pages });
        first_row += count;
    }
    let mut kv = KvCache::new(KvLayout { layers: 2, kv_heads, head_dim, format }, total_pages);
    let mut reference: Option<Vec<f32>> = None;
    for_each_isa(|isa| {
        // Stale contents that must never be read: NaN would spread.
        kv.fill(0x7FC0_7FC0);
        for (k, v, all) in &stored {
            all.pages.iter().for_each(|&page| kv.zero_page(page));
            kv.write_rows(isa, &WorkerPool::new(2), 1, [k, v], None, std::slice::from_ref(all));
        }
        for threads in [1, 3] {
            let mut out = Tensor::default();
            paged(isa, &WorkerPool::new(threads), &q, None, &kv, 1, &rows, &params, &mut out);
            let error = relative_error(out.values(), &expected);
            assert!(error < error_max(format), "{heads}/{kv_heads}x{head_dim} on {isa}: {error:e}");
            let reference = reference.get_or_insert_with(|| out.values().to_vec());
            assert_eq!(out.values(), reference, "{isa} with {threads} threads");
        }
    });
}

#[test]
fn paged_attention_matches_the_formula() {
    let plain = |heads, kv_heads, head_dim, sequences| Case {
        heads,
        kv_heads,
        head_dim,
        window: None,
        format: KvFormat::Int16,
        sequences,
    };
    check(&plain(1, 1, 16, &[(0, 1)]));
    check(&plain(9, 3, 64, &[(0, 40), (70, 1), (31, 1), (32, 1), (5, 33)]));
    check(&plain(4, 4, 80, &[(100, 3)]));
    check(&plain(14, 2, 24, &[(64, 2), (0, 5)]));
    check(&plain(8, 1, 256, &[(33, 7)]));
    check(&plain(3, 1, 17, &[(30, 5)]));
    // Beyond one segment, with whole tiles and with few rows that are cut by segments.
    check(&plain(6, 2, 32, &[(490, 40), (1100, 1), (511, 1), (512, 2), (1030, 30)]));
    for window in [1, 5, 32, 50] {
        check(&Case { window: Some(window), ..plain(6, 2, 32, &[(0, 70), (90, 1)]) });
    }
    check(&Case { window: Some(600), ..plain(2, 1, 16, &[(1300, 1), (1000, 60)]) });
    for head_dim in [17, 64] {
        let sequences = &[(0, 40), (70, 1), (600, 3)];
        check(&Case { format: KvFormat::Int8, ..plain(6, 2, head_dim, sequences) });
    }
}

/// A row's result has the same bits, whichever rows of its sequence are computed with it.
#[test]
fn chunks_do_not_change_a_bit() {
    const ROWS: usize = 700;
    let params = AttentionParams { heads: 6, kv_heads: 2, head_dim: 32, scale: 0.3, window: None };
    let mut random = Seeded::new(11);
    let q = random_tensor(ROWS, 6 * 32, &mut random);
    let [k, v] = [(); 2].map(|()| random_tensor(ROWS, 2 * 32, &mut random));
    let pool = WorkerPool::new(2);
    let pages: Vec<u32> = (0..ROWS.div_ceil(PAGE_TOKENS) as u32).collect();
    let whole = PagedRows { first_row: 0, rows: ROWS, past: 0, pages: pages.clone() };
    for_each_isa(|isa| {
        for format in KvFormat::ALL {
            let layout = KvLayout { layers: 1, kv_heads: 2, head_dim: 32, format };
            let mut kv = KvCache::new(layout, pages.len());
            kv.write_rows(isa, &pool, 0, [&k, &v], None, std::slice::from_ref(&whole));
            let mut expected = Tensor::default();
            paged(isa, &pool, &q, None, &kv, 0, std::slice::from_ref(&whole), &params, &mut expected);
            for (past, rows) in [(0, 1), (5, 3), (100, 17), (511, 1), (512, 50), (699, 1)] {
                let mut part = Tensor::zeros(rows, q.columns());
                part.values_mut().copy_from_slice(&q.values()[past * q.columns()..][..rows * q.columns()]);
                let chunk = PagedRows { first_row: 0, rows, past, pages: pages.clone() };
                let mut out = Tensor::default();
                paged(isa, &pool, &part, None, &kv, 0, &[chunk], &params, &mut out);
                let same = &expected.values()[past * q.columns()..][..rows * q.columns()];
                assert!(out.values() == same, "{rows} rows after {past}, {} on {isa}", format.name());
            }
        }
    });
}

/// A query of zeros weighs all that it sees alike, and nothing else.
#[test]
fn a_query_of_zeros_gets_the_average() {
    const ROWS: usize = 150;
    let params = AttentionParams { heads: 2, kv_heads: 2, head_dim: 16, scale: 0.3, window: None };
    let mut random = Seeded::new(5);
    let pool = WorkerPool::new(1);
    let [k, v] = [(); 2].map(|()| random_tensor(ROWS, 32, &mut random));
    for (value, format) in [0.0, 1e-40].into_iter().flat_map(|value| KvFormat::ALL.map(|f| (value, f))) {
        let mut q = Tensor::zeros(ROWS, 32);
        q.values_mut().fill(value);
        let layout = KvLayout { layers: 1, kv_heads: 2, head_dim: 16, format };
        let pages: Vec<u32> = (0..ROWS.div_ceil(PAGE_TOKENS) as u32).collect();
        let rows = PagedRows { first_row: 0, rows: ROWS, past: 0, pages };
        let mut kv = KvCache::new(layout, rows.pages.len());
        kv.write_rows(Isa::best(), &pool, 0, [&k, &v], None, std::slice::from_ref(&rows));
        let column = |row: usize, column: usize| (0..=row).map(|r| v.row(r)[column]).sum::<f32>();
        let expected: Vec<f32> =
            (0..ROWS * 32).map(|i| column(i / 32, i % 32) / (i / 32 + 1) as f32).collect();
        for_each_isa(|isa| {
            let mut out = Tensor::default();
            paged(isa, &pool, &q, None, &kv, 0, std::slice::from_ref(&rows), &params, &mut out);
            let error = relative_error(out.values(), &expected);
            assert!(error < error_max(format), "{value:e} on {isa}: {error:e}");
            let all = AttentionSpan { queries: 0..ROWS, keys: 0..ROWS };
            bidirectional(isa, &pool, [&q, &k, &v], &[all], &params, &mut out);
            assert!(out.values().iter().all(|value| value.is_finite()), "{value:e} on {isa}");
        });
    }
}

#[test]
fn bidirectional_attention_matches_the_formula() {
    let params = AttentionParams { heads: 4, kv_heads: 2, head_dim: 24, scale: 0.2, window: None };
    let mut random = Seeded::new(3);
    let segments = [0..1, 1..40, 40..104, 104..137];
    let q = random_tensor(137, 4 * 24, &mut random);
    let k = random_tensor(137, 2 * 24, &mut random);
    let v = random_tensor(137, 2 * 24, &mut random);
    let mut expected = Vec::new();
    for segment in &segments {
        for row in segment.clone() {
            for head in 0..4 {
                let shared = head / 2 * 24;
                let keys: Vec<&[f32]> = segment.clone().map(|p| &k.row(p)[shared..][..24]).collect();
                let values: Vec<&[f32]> = segment.clone().map(|p| &v.row(p)[shared..][..24]).collect();
                expected.extend(exact(&q.row(row)[head * 24..][..24], &keys, &values, 0.2));
            }
        }
    }
    let whole = segments.map(|segment| AttentionSpan { queries: segment.clone(), keys: segment });
    for_each_isa(|isa| {
        let mut out = Tensor::default();
        bidirectional(isa, &WorkerPool::new(2), [&q, &k, &v], &whole, &params, &mut out);
        let error = relative_error(out.values(), &expected);
        assert!(error < error_max(KvFormat::Int16), "{isa}: {error:e}");
        // Rows 45 to 110 alone: parts of two segments.
        let mut part = random_tensor(65, 4 * 24, &mut Seeded::new(4));
        part.values_mut().copy_from_slice(&q.values()[45 * 4 * 24..110 * 4 * 24]);
        let spans = [(0..59, 40..104), (59..65, 104..137)];
        let spans = spans.map(|(queries, keys)| AttentionSpan { queries, keys });
        let mut rows = Tensor::default();
        bidirectional(isa, &WorkerPool::new(2), [&part, &k, &v], &spans, &params, &mut rows);
        assert_eq!(rows.values(), &out.values()[45 * 4 * 24..110 * 4 * 24], "{isa}: the same bits");
    });
}
