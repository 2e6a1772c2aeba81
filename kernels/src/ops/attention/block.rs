//! The inner loop: a strip of queries over a block of pages, on one instruction set.
//!
//! Scores and weighted sums are exact sums of 16-bit products; what lies between them is f32. So a
//! query's result does not depend on which queries share its strip.

use std::ops::Range;

use crate::kv::PAGE_TOKENS;
use crate::kv::head::{HeadPage, ROUND, VALUE_ROWS, VALUE_UNITS};
use crate::simd::{LANES, Lanes, Pairs, Simd, exp2, per_isa};

/// Pages that share one softmax step.
pub const BLOCK_PAGES: usize = 4;
pub const BLOCK_TOKENS: usize = BLOCK_PAGES * PAGE_TOKENS;
/// Most queries of a strip: with two registers of tokens each they fill AVX-512's 32.
pub const STRIP_MAX: usize = 12;

/// Registers in a page's row of scores.
const PAGE_PARTS: usize = PAGE_TOKENS / LANES;
const PARTS: usize = BLOCK_PAGES * PAGE_PARTS;

/// What the integer weights of a block sum to at most: times values of 14 bits, any partial sum fits 32, with
/// half a unit of rounding for each token. Even weights are good to 2^-11 each then.
const WEIGHTS_SUM: f32 = 131_000.0;
/// The largest of them.
const WEIGHT_MAX: f32 = 32_767.0;
const _: () = assert!((WEIGHTS_SUM as i64 + BLOCK_TOKENS as i64 / 2) * VALUE_UNITS as i64 <= i32::MAX as i64);

/// Up to [`BLOCK_PAGES`] pages of a head, integers as words of two, and the position they begin at.
#[derive(Clone, Copy, Default)]
pub struct Block<'a> {
    pub pages: [HeadPage<'a>; BLOCK_PAGES],
    pub start: usize,
}

/// Queries that are computed together, and their running softmax.
pub struct Strip<'a> {
    /// Integers, `[pairs][queries]`.
    pub words: &'a [u32],
    /// What a unit of each query's integers is worth, times scale · log2(e).
    pub factors: &'a [f32],
    /// Positions that each query sees.
    pub seen: &'a [Range<usize>],
    pub running: &'a mut [Running],
    /// Weighted sums, `[queries][padded_dim]`.
    pub values: &'a mut [f32],
    pub padded_dim: usize,
}

/// Running softmax of one query, in powers of two.
#[derive(Clone, Copy)]
pub struct Running {
    pub max: f32,
    pub sum: f32,
}

impl Running {
    pub const EMPTY: Running = Running { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Factors on what was summed before and on what is now, when something with `other`'s maximum joins.
    #[inline(always)]
    pub fn join<S: Simd>(&mut self, other: Running) -> (f32, f32) {
        let max = if other.max > self.max { other.max } else { self.max };
        let mut powers = [0.0; LANES];
        (powers[0], powers[1]) = (self.max - max, other.max - max);
        S::store(exp2::<S>(S::load(&powers)), &mut powers);
        *self = Running { max, sum: self.sum.mul_add(powers[0], other.sum * powers[1]) };
        (powers[0], powers[1])
    }
}

/// Scores and weights of a strip in a block; kept between calls, never cleared.
#[derive(Clone)]
#[repr(align(64))]
pub struct Weights {
    scores: [[Lanes; PARTS]; STRIP_MAX],
    /// Words of tokens `t` and `t + 16` of a page.
    words: [[Pairs; BLOCK_PAGES]; STRIP_MAX],
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { scores: [[[0.0; LANES]; PARTS]; STRIP_MAX], words: [[[0; LANES]; BLOCK_PAGES]; STRIP_MAX] }
    }
}

/// Adds what `strip`'s queries see in the first `pages` pages of `block`.
pub fn attend(
    isa: crate::Isa,
    block: &Block<'_>,
    pages: usize,
    strip: &mut Strip<'_>,
    weights: &mut Weights,
) {
    match strip.factors.len() {
        12 => attend_width::<12>(isa, block, pages, strip, weights),
        6 => attend_width::<6>(isa, block, pages, strip, weights),
        4 => attend_width::<4>(isa, block, pages, strip, weights),
        3 => attend_width::<3>(isa, block, pages, strip, weights),
        2 => attend_width::<2>(isa, block, pages, strip, weights),
        1 => attend_width::<1>(isa, block, pages, strip, weights),
        other => unreachable!("strips of {other} queries"),
    }
}

/// Queries of the next strip when `left` are to come.
pub fn strip_width(isa: crate::Isa, left: usize) -> usize {
    let many_registers = isa == crate::Isa::Avx512Vnni;
    match left {
        12.. if many_registers => 12,
        6.. => 6,
        5 => 4,
        left => left,
    }
}

per_isa!(fn attend_width<const N: usize> = attend_body<N>(
    block: &Block<'_>, pages: usize, strip: &mut Strip<'_>, weights: &mut Weights
));

#[inline(always)]
fn attend_body<S: Simd, const N: usize>(
    block: &Block<'_>,
    pages: usize,
    strip: &mut Strip<'_>,
    weights: &mut Weights,
) {
    score::<S, N>(block, pages, strip.words, &mut weights.scores);
    let mut scales = [[0.0; LANES]; PARTS];
    for (scales, page) in scales.as_chunks_mut::<PAGE_PARTS>().0.iter_mut().zip(&block.pages[..pages]) {
        *scales = read_scales(page.value_scales);
    }
    let parts = pages * PAGE_PARTS;
    let mut steps = [None; N];
    for (n, step) in steps.iter_mut().enumerate() {
        let clip = |position: usize| position.saturating_sub(block.start).min(pages * PAGE_TOKENS);
        let seen = clip(strip.seen[n].start)..clip(strip.seen[n].end);
        let (scores, words) = (&mut weights.scores[n], &mut weights.words[n]);
        let found = match seen.len() {
            0 => {
                *words = [[0; LANES]; BLOCK_PAGES];
                continue;
            }
            len if len < pages * PAGE_TOKENS => {
                let mut scales = scales;
                mask::<S>(&mut scores[..parts], f32::NEG_INFINITY, &seen);
                mask::<S>(&mut scales[..parts], 0.0, &seen);
                soften::<S>(&mut scores[..parts], &scales[..parts], strip.factors[n])
            }
            _ => soften::<S>(&mut scores[..parts], &scales[..parts], strip.factors[n]),
        };
        quantize::<S>(&scores[..parts], found.inverse, words);
        let (shrink, grow) = strip.running[n].join::<S>(found.running);
        *step = Some((shrink, grow * found.unit));
    }
    gather::<S, N>(block, pages, &weights.words, &steps, strip);
}

/// Rows of words of two integers, and how far it is from one to the next.
#[derive(Clone, Copy)]
struct Rows<'a> {
    words: &'a [u32],
    stride: usize,
    /// Of the first register used.
    column: usize,
}

/// Words that multiply rows: of row `r` and query `n` at `r · row_stride + n · query_stride`.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    words: &'a [u32],
    row_stride: usize,
    query_stride: usize,
}

/// sums[n] += Σ rows[r] · inputs[r][n] over `count` rows, `P` registers of each.
#[allow(clippy::needless_range_loop, reason = "n and p index the inputs and rows too")]
#[inline(always)]
fn multiply<S: Simd, const N: usize, const P: usize>(
    mut sums: [[S::Sums; P]; N],
    count: usize,
    rows: Rows<'_>,
    inputs: Inputs<'_>,
) -> [[S::Sums; P]; N] {
    assert!(count == 0 || rows.words.len() >= (count - 1) * rows.stride + rows.column + P * LANES);
    assert!(
        count == 0 || inputs.words.len() > (count - 1) * inputs.row_stride + (N - 1) * inputs.query_stride
    );
    for r in 0..count {
        for n in 0..N {
            // SAFETY: r < count and n < N: the second assertion.
            let pair =
                unsafe { *inputs.words.get_unchecked(r * inputs.row_stride + n * inputs.query_stride) };
            for p in 0..P {
                // SAFETY: r < count and p < P: the first assertion.
                let row = unsafe {
                    &*rows.words.as_ptr().add(r * rows.stride + rows.column + p * LANES).cast::<Pairs>()
                };
                sums[n][p] = S::dot_pairs(sums[n][p], row, pair);
            }
        }
    }
    sums
}

/// Scores of each query with each token, in units of the query.
#[inline(always)]
fn score<S: Simd, const N: usize>(
    block: &Block<'_>,
    pages: usize,
    queries: &[u32],
    scores: &mut [[Lanes; PARTS]; STRIP_MAX],
) {
    let (pairs, inputs) = (queries.len() / N, Inputs { words: queries, row_stride: N, query_stride: 1 });
    for (index, page) in block.pages[..pages].iter().enumerate() {
        let rows = Rows { words: page.keys, stride: PAGE_TOKENS, column: 0 };
        let scales = read_scales(page.key_scales);
        if S::MANY_REGISTERS {
            let zero = [[S::zero_sums(); PAGE_PARTS]; N];
            let dots = multiply::<S, N, PAGE_PARTS>(zero, pairs, rows, inputs);
            for n in 0..N {
                for part in 0..PAGE_PARTS {
                    let products = S::sums_to_floats(dots[n][part]);
                    let scaled = S::mul(products, S::load(&scales[part]));
                    S::store(scaled, &mut scores[n][index * PAGE_PARTS + part]);
                }
            }
        } else {
            for part in 0..PAGE_PARTS {
                let rows = Rows { column: part * LANES, ..rows };
                let dots = multiply::<S, N, 1>([[S::zero_sums(); 1]; N], pairs, rows, inputs);
                for n in 0..N {
                    let scaled = S::mul(S::sums_to_floats(dots[n][0]), S::load(&scales[part]));
                    S::store(scaled, &mut scores[n][index * PAGE_PARTS + part]);
                }
            }
        }
    }
}

#[inline(always)]
fn read_scales(words: &[u32]) -> [Lanes; PAGE_PARTS] {
    let (parts, _) = words.as_chunks::<LANES>();
    std::array::from_fn(|part| parts[part].map(f32::from_bits))
}

/// Sets what lies outside `seen` to `value`.
#[inline(always)]
fn mask<S: Simd>(parts: &mut [Lanes], value: f32, seen: &Range<usize>) {
    for (part, lanes) in parts.iter_mut().enumerate() {
        let lane = |token: usize| token.saturating_sub(part * LANES);
        let kept = S::within(S::load(lanes), lane(seen.start), lane(seen.end), S::splat(value));
        S::store(kept, lanes);
    }
}

/// A block's softmax by itself.
struct Found {
    running: Running,
    /// From weights to integers, and back.
    inverse: f32,
    unit: f32,
}

/// Turns scores into weights: powers relative to the block's largest score, times the value's scale.
#[inline(always)]
fn soften<S: Simd>(scores: &mut [Lanes], scales: &[Lanes], factor: f32) -> Found {
    let mut largest = S::splat(f32::NEG_INFINITY);
    for part in scores.iter() {
        largest = S::larger(S::load(part), largest);
    }
    let max = S::largest(largest);
    // A query of zeros is worth nothing, and what it does not see would weigh -inf · 0.
    let factor = if factor == 0.0 { f32::MIN_POSITIVE } else { factor };
    let (mut total, mut weighted, mut heaviest) = (S::splat(0.0), S::splat(0.0), S::splat(0.0));
    for (part, scale) in scores.iter_mut().zip(scales) {
        let exponents = S::mul(S::sub(S::load(part), S::splat(max)), S::splat(factor));
        let powers = exp2::<S>(exponents);
        let weights = S::mul(powers, S::load(scale));
        total = S::add(total, powers);
        weighted = S::add(weighted, weights);
        heaviest = S::larger(weights, heaviest);
        S::store(weights, part);
    }
    let (weight, heaviest) = (S::sum(weighted), S::largest(heaviest));
    let units = (WEIGHTS_SUM / weight).min(WEIGHT_MAX / heaviest);
    // What is not finite, or too small to matter, has no integers and stays in the unit.
    let has_integers = weight > 1e-30 && units > 0.0;
    Found {
        running: Running { max: max * factor, sum: S::sum(total) },
        inverse: if has_integers { units } else { 0.0 },
        unit: if has_integers { 1.0 / units } else { weight },
    }
}

#[inline(always)]
fn quantize<S: Simd>(weights: &[Lanes], inverse: f32, words: &mut [Pairs; BLOCK_PAGES]) {
    for ([low, high], words) in weights.as_chunks::<PAGE_PARTS>().0.iter().zip(words) {
        let rounded = |weights| S::mul_add(S::load(weights), S::splat(inverse), S::splat(ROUND));
        *words = S::pack(rounded(low), rounded(high));
    }
}

/// values = values · shrink + (weights · page values) · grow, for each query that sees something.
#[inline(always)]
fn gather<S: Simd, const N: usize>(
    block: &Block<'_>,
    pages: usize,
    weights: &[[Pairs; BLOCK_PAGES]; STRIP_MAX],
    steps: &[Option<(f32, f32)>; N],
    strip: &mut Strip<'_>,
) {
    let parts = strip.padded_dim / LANES;
    let mut part = 0;
    while S::MANY_REGISTERS && part + 2 <= parts {
        gather_parts::<S, N, 2>(block, pages, weights, steps, strip, part);
        part += 2;
    }
    while part < parts {
        gather_parts::<S, N, 1>(block, pages, weights, steps, strip, part);
        part += 1;
    }
}

#[inline(always)]
fn gather_parts<S: Simd, const N: usize, const P: usize>(
    block: &Block<'_>,
    pages: usize,
    weights: &[[Pairs; BLOCK_PAGES]; STRIP_MAX],
    steps: &[Option<(f32, f32)>; N],
    strip: &mut Strip<'_>,
    part: usize,
) {
    let mut sums = [[S::zero_sums(); P]; N];
    for (index, page) in block.pages[..pages].iter().enumerate() {
        let rows = Rows { words: page.values, stride: strip.padded_dim, column: part * LANES };
        let words = &weights.as_flattened().as_flattened()[index * VALUE_ROWS..];
        let inputs = Inputs { words, row_stride: 1, query_stride: BLOCK_PAGES * VALUE_ROWS };
        sums = multiply::<S, N, P>(sums, VALUE_ROWS, rows, inputs);
    }
    for (n, values) in strip.values.chunks_exact_mut(strip.padded_dim).enumerate().take(N) {
        let Some((shrink, grow)) = steps[n] else { continue };
        let values = &mut values.as_chunks_mut::<LANES>().0[part..][..P];
        for (values, sums) in values.iter_mut().zip(&sums[n]) {
            let before = S::mul(S::load(values), S::splat(shrink));
            S::store(S::mul_add(S::sums_to_floats(*sums), S::splat(grow), before), values);
        }
    }
}
