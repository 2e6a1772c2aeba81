//! The inner loop: a few queries over a run of pages.

use std::ops::Range;

use super::HEAD_DIM_MAX;
use crate::Isa;
use crate::kv::PAGE_TOKENS;
use crate::simd::{LANES, Lanes, Simd, exp, per_isa, sum};

/// Queries one call takes together, descending: six leave room for a key in AVX2's registers.
pub const WIDTHS: &[usize] = &[6, 4, 3, 2, 1];
/// Most queries of a tile.
pub const WIDTH_MAX: usize = 6;

/// Registers in a page's row of scores.
const PARTS: usize = PAGE_TOKENS / LANES;

/// One query, and the positions it sees.
#[derive(Clone, Copy, Default)]
pub struct Query<'a> {
    pub values: &'a [f32],
    pub first: usize,
    pub end: usize,
}

/// Where keys and values of a head are, page by page: keys `[head_dim][PAGE_TOKENS]`, then values
/// `[PAGE_TOKENS][head_dim, padded]`.
#[derive(Clone, Copy)]
pub struct Pages<'a, E> {
    pub store: &'a [E],
    pub page_stride: usize,
    pub head_offset: usize,
    pub pages: &'a [u32],
    pub head_dim: usize,
    pub padded_dim: usize,
}

impl<'a, E> Pages<'a, E> {
    /// (keys, values) of the `index`-th page.
    #[inline(always)]
    fn at(&self, index: usize) -> (&'a [E], &'a [E]) {
        let start = self.pages[index] as usize * self.page_stride + self.head_offset;
        let page = &self.store[start..][..PAGE_TOKENS * (self.head_dim + self.padded_dim)];
        page.split_at(PAGE_TOKENS * self.head_dim)
    }
}

/// A stored value that becomes f32 in a register.
pub trait Element: Copy {
    fn widen<S: Simd>(values: &[Self; LANES]) -> Lanes;
}

impl Element for u16 {
    #[inline(always)]
    fn widen<S: Simd>(values: &[u16; LANES]) -> Lanes {
        S::widen(values)
    }
}

impl Element for f32 {
    #[inline(always)]
    fn widen<S: Simd>(values: &[f32; LANES]) -> Lanes {
        *values
    }
}

/// Attends with `queries` (a count out of [`WIDTHS`]) and writes each result to its `out`.
pub fn attend_f16(
    isa: Isa,
    queries: &[Query<'_>],
    pages: &Pages<'_, u16>,
    scale: f32,
    out: &mut [&mut [f32]],
) {
    match queries.len() {
        6 => f16_tile::<6>(isa, queries, pages, scale, out),
        4 => f16_tile::<4>(isa, queries, pages, scale, out),
        3 => f16_tile::<3>(isa, queries, pages, scale, out),
        2 => f16_tile::<2>(isa, queries, pages, scale, out),
        _ => f16_tile::<1>(isa, queries, pages, scale, out),
    }
}

/// [`attend_f16`] over f32 pages.
pub fn attend_f32(
    isa: Isa,
    queries: &[Query<'_>],
    pages: &Pages<'_, f32>,
    scale: f32,
    out: &mut [&mut [f32]],
) {
    match queries.len() {
        6 => f32_tile::<6>(isa, queries, pages, scale, out),
        4 => f32_tile::<4>(isa, queries, pages, scale, out),
        3 => f32_tile::<3>(isa, queries, pages, scale, out),
        2 => f32_tile::<2>(isa, queries, pages, scale, out),
        _ => f32_tile::<1>(isa, queries, pages, scale, out),
    }
}

per_isa!(fn f16_tile<const N: usize> = f16_body<N>(
    queries: &[Query<'_>], pages: &Pages<'_, u16>, scale: f32, out: &mut [&mut [f32]]
));
per_isa!(fn f32_tile<const N: usize> = f32_body<N>(
    queries: &[Query<'_>], pages: &Pages<'_, f32>, scale: f32, out: &mut [&mut [f32]]
));

#[inline(always)]
fn f16_body<S: Simd, const N: usize>(
    queries: &[Query<'_>],
    pages: &Pages<'_, u16>,
    scale: f32,
    out: &mut [&mut [f32]],
) {
    body::<S, u16, N>(queries, pages, scale, out);
}

#[inline(always)]
fn f32_body<S: Simd, const N: usize>(
    queries: &[Query<'_>],
    pages: &Pages<'_, f32>,
    scale: f32,
    out: &mut [&mut [f32]],
) {
    body::<S, f32, N>(queries, pages, scale, out);
}

/// Running softmax of one query.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

#[inline(always)]
fn body<S: Simd, E: Element, const N: usize>(
    queries: &[Query<'_>],
    pages: &Pages<'_, E>,
    scale: f32,
    out: &mut [&mut [f32]],
) {
    let queries: [Query<'_>; N] = std::array::from_fn(|n| queries[n]);
    let mut running = [Running { max: f32::NEG_INFINITY, sum: 0.0 }; N];
    let mut sums = [[[0.0; LANES]; HEAD_DIM_MAX / LANES]; N];
    let first = queries.iter().map(|query| query.first).min().unwrap_or(0);
    let end = queries.iter().map(|query| query.end).max().unwrap_or(0);
    for index in first / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS) {
        let (keys, values) = pages.at(index);
        let start = index * PAGE_TOKENS;
        let mut weights = score::<S, E, N>(&queries, keys, scale);
        for n in 0..N {
            let seen = clip(queries[n].first, start)..clip(queries[n].end, start);
            let shrink = soften(&mut weights[n], seen, &mut running[n]);
            if shrink != 1.0 {
                for part in &mut sums[n][..pages.padded_dim / LANES] {
                    part.iter_mut().for_each(|value| *value *= shrink);
                }
            }
        }
        let tokens = clip(end, start);
        gather::<S, E, N>(&weights, &values[..tokens * pages.padded_dim], pages.padded_dim, &mut sums);
    }
    for n in 0..N {
        let inverse = 1.0 / running[n].sum;
        for (value, sum) in out[n].iter_mut().zip(sums[n].as_flattened()) {
            *value = sum * inverse;
        }
    }
}

/// `position` relative to the page at `start`, within 0..=PAGE_TOKENS.
#[inline(always)]
fn clip(position: usize, start: usize) -> usize {
    position.saturating_sub(start).min(PAGE_TOKENS)
}

/// Scaled scores of each query with each token of a page.
#[inline(always)]
fn score<S: Simd, E: Element, const N: usize>(
    queries: &[Query<'_>; N],
    keys: &[E],
    scale: f32,
) -> [[Lanes; PARTS]; N] {
    let mut scores = [[[0.0; LANES]; PARTS]; N];
    let (keys, _) = keys.as_chunks::<LANES>();
    let dims = keys.len() / PARTS;
    let inputs: [&[f32]; N] = std::array::from_fn(|n| &queries[n].values[..dims]);
    for part in 0..PARTS {
        let mut dots = [[0.0; LANES]; N];
        for d in 0..dims {
            let key = E::widen::<S>(&keys[d * PARTS + part]);
            for n in 0..N {
                let input = inputs[n][d];
                for lane in 0..LANES {
                    dots[n][lane] = key[lane].mul_add(input, dots[n][lane]);
                }
            }
        }
        for n in 0..N {
            for lane in 0..LANES {
                scores[n][part][lane] = dots[n][lane] * scale;
            }
        }
    }
    scores
}

/// Turns a page's scores into weights relative to the running maximum, 0 outside `seen`; returns the
/// factor by which what was summed before must shrink.
#[inline(always)]
fn soften(scores: &mut [Lanes; PARTS], seen: Range<usize>, running: &mut Running) -> f32 {
    if seen.len() < PAGE_TOKENS {
        for (token, score) in scores.as_flattened_mut().iter_mut().enumerate() {
            if !seen.contains(&token) {
                *score = f32::NEG_INFINITY;
            }
        }
    }
    let mut largest = [f32::NEG_INFINITY; LANES];
    for part in scores.iter() {
        for lane in 0..LANES {
            largest[lane] = largest[lane].max(part[lane]);
        }
    }
    let max = largest.iter().copied().fold(running.max, f32::max);
    if max == f32::NEG_INFINITY {
        *scores = [[0.0; LANES]; PARTS];
        return 1.0;
    }
    let shrink = if running.max == max { 1.0 } else { (running.max - max).exp() };
    let mut total = [0.0; LANES];
    for part in scores.iter_mut() {
        part.iter_mut().for_each(|score| *score -= max);
        *part = exp(*part);
        for lane in 0..LANES {
            total[lane] += part[lane];
        }
    }
    *running = Running { max, sum: running.sum.mul_add(shrink, sum(total)) };
    shrink
}

/// sums += weights · values, tokens in order.
#[inline(always)]
fn gather<S: Simd, E: Element, const N: usize>(
    weights: &[[Lanes; PARTS]; N],
    values: &[E],
    padded_dim: usize,
    sums: &mut [[Lanes; HEAD_DIM_MAX / LANES]; N],
) {
    let (values, _) = values.as_chunks::<LANES>();
    let parts = padded_dim / LANES;
    for part in 0..parts {
        let mut totals: [Lanes; N] = std::array::from_fn(|n| sums[n][part]);
        for (token, row) in values.chunks_exact(parts).enumerate() {
            let value = E::widen::<S>(&row[part]);
            for n in 0..N {
                let weight = weights[n][token / LANES][token % LANES];
                for lane in 0..LANES {
                    totals[n][lane] = value[lane].mul_add(weight, totals[n][lane]);
                }
            }
        }
        for n in 0..N {
            sums[n][part] = totals[n];
        }
    }
}
