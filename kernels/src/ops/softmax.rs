//! Passes over one row of logits, for who chooses a token: the greatest of it, and what each token weighs
//! beside that one, e^((logit - max) · factor). NaN is less than all else and weighs nothing.
//!
//! A row is a whole vocabulary, so each pass is one over memory, and what it leaves is a number for a piece
//! of the row: who chooses looks into few pieces again. Sums run in 16 lanes, lanes one after another.

use crate::Isa;
use crate::simd::{Floats, LANES, Simd, per_isa};

/// Logits that [`Softmax::maxima`] has one number for.
pub const MAXIMA_PIECE: usize = 64;
/// Logits that [`Softmax::masses`] has one number for.
pub const MASS_PIECE: usize = 256;

/// The passes, on the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    pub(crate) isa: Isa,
}

impl Softmax {
    /// Index of the greatest, of equals the first; 0 where there is nothing but NaN.
    pub fn most_likely(self, row: &[f32]) -> usize {
        most_likely(self.isa, row)
    }

    /// The greatest; -inf for none.
    pub fn maximum(self, row: &[f32]) -> f32 {
        maximum(self.isa, row)
    }

    /// The greatest of every [`MAXIMA_PIECE`] in `out`, and the greatest of all.
    pub fn maxima(self, row: &[f32], out: &mut Vec<f32>) -> f32 {
        out.resize(row.len().div_ceil(MAXIMA_PIECE), 0.0);
        maxima(self.isa, row, out);
        self.maximum(out)
    }

    /// What each weighs: 1 for `max`, at most 1e-5 of it beside the truth.
    pub fn weights(self, row: &[f32], max: f32, factor: f32, out: &mut [f32]) {
        weights(self.isa, row, max, factor, out);
    }

    /// What they weigh together.
    pub fn mass(self, row: &[f32], max: f32, factor: f32) -> f32 {
        mass(self.isa, row, max, factor)
    }

    /// What every [`MASS_PIECE`] weigh together, in `out`.
    pub fn masses(self, row: &[f32], max: f32, factor: f32, out: &mut Vec<f32>) {
        out.resize(row.len().div_ceil(MASS_PIECE), 0.0);
        masses(self.isa, row, max, factor, out);
    }
}

per_isa!(fn most_likely = most_likely_body(row: &[f32]) -> usize);

#[inline(always)]
fn most_likely_body<S: Simd>(row: &[f32]) -> usize {
    const PIECE: usize = 256;
    let (mut greatest, mut start) = (f32::NEG_INFINITY, 0);
    for (index, piece) in row.chunks(PIECE).enumerate() {
        let max = maximum_body::<S>(piece);
        if max > greatest {
            (greatest, start) = (max, index * PIECE);
        }
    }
    row[start..].iter().position(|&logit| logit == greatest).map_or(0, |index| start + index)
}

per_isa!(fn maxima = maxima_body(row: &[f32], out: &mut [f32]));

#[inline(always)]
fn maxima_body<S: Simd>(row: &[f32], out: &mut [f32]) {
    for (piece, max) in row.chunks(MAXIMA_PIECE).zip(out) {
        *max = maximum_body::<S>(piece);
    }
}

per_isa!(fn maximum = maximum_body(values: &[f32]) -> f32);

#[inline(always)]
fn maximum_body<S: Simd>(values: &[f32]) -> f32 {
    // Several at a time, as each waits for the one before it.
    const CHAINS: usize = 4;
    let mut chains = [S::splat(f32::NEG_INFINITY); CHAINS];
    let (blocks, rest) = values.as_chunks::<{ CHAINS * LANES }>();
    for block in blocks {
        for (chain, chunk) in chains.iter_mut().zip(block.as_chunks::<LANES>().0) {
            *chain = S::larger(S::load(chunk), *chain);
        }
    }
    let (chunks, rest) = rest.as_chunks::<LANES>();
    for chunk in chunks {
        chains[0] = S::larger(S::load(chunk), chains[0]);
    }
    chains[0] = S::larger(S::load(&padded(rest)), chains[0]);
    S::largest(S::larger(S::larger(chains[0], chains[1]), S::larger(chains[2], chains[3])))
}

per_isa!(fn masses = masses_body(row: &[f32], max: f32, factor: f32, out: &mut [f32]));

#[inline(always)]
fn masses_body<S: Simd>(row: &[f32], max: f32, factor: f32, out: &mut [f32]) {
    for (piece, sum) in row.chunks(MASS_PIECE).zip(out) {
        *sum = mass_body::<S>(piece, max, factor);
    }
}

per_isa!(fn mass = mass_body(values: &[f32], max: f32, factor: f32) -> f32);

#[inline(always)]
fn mass_body<S: Simd>(values: &[f32], max: f32, factor: f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = S::splat(0.0);
    for chunk in chunks {
        sums = S::add(sums, weigh::<S>(S::load(chunk), max, factor));
    }
    let (mut lanes, mut last) = ([0.0; LANES], [0.0; LANES]);
    S::store(sums, &mut lanes);
    S::store(weigh::<S>(S::load(&padded(rest)), max, factor), &mut last);
    lanes.iter().sum::<f32>() + last.iter().sum::<f32>()
}

per_isa!(fn weights = weights_body(row: &[f32], max: f32, factor: f32, out: &mut [f32]));

#[inline(always)]
fn weights_body<S: Simd>(row: &[f32], max: f32, factor: f32, out: &mut [f32]) {
    assert_eq!(row.len(), out.len());
    let (chunks, rest) = row.as_chunks::<LANES>();
    let (outs, out_rest) = out.as_chunks_mut::<LANES>();
    for (chunk, out) in chunks.iter().zip(outs) {
        S::store(weigh::<S>(S::load(chunk), max, factor), out);
    }
    let mut last = [0.0; LANES];
    S::store(weigh::<S>(S::load(&padded(rest)), max, factor), &mut last);
    out_rest.copy_from_slice(&last[..rest.len()]);
}

/// The end of a row, and beside it what is less than all and weighs nothing.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

#[inline(always)]
fn weigh<S: Floats>(logits: S::F, max: f32, factor: f32) -> S::F {
    exp_nonpositive::<S>(S::mul(S::sub(logits, S::splat(max)), S::splat(factor)))
}

/// e^x for x <= 0, relative error below 1.5e-6 down to -20 and 1e-5 down to -87; 0 below that, and for NaN.
///
/// 2^(x·log2 e) with the fraction's power from its Taylor series; the first term left out is 1.2e-7. Products
/// are rounded before they are added: where a processor has no instruction for both, it takes a call, and
/// every drawn token needs this for the whole vocabulary.
#[inline(always)]
fn exp_nonpositive<S: Floats>(x: S::F) -> S::F {
    const LOWEST: f32 = -87.0;
    /// Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let power = S::mul(S::larger(x, S::splat(LOWEST)), S::splat(std::f32::consts::LOG2_E));
    let shifted = S::add(power, S::splat(ROUND));
    let whole = S::sub(shifted, S::splat(ROUND));
    let y = S::mul(S::sub(power, whole), S::splat(std::f32::consts::LN_2));
    let mut series = S::splat(1.0 / 720.0);
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = S::add(S::mul(series, y), S::splat(coefficient));
    }
    // Said so that it is not true of NaN.
    S::where_less(S::splat(LOWEST.next_down()), x, S::times_power(series, shifted), S::splat(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, for_each_isa};

    const SCALAR: Softmax = Softmax { isa: Isa::Scalar };
    const LENGTHS: [usize; 14] = [0, 1, 15, 16, 17, 63, 64, 65, 127, 255, 256, 257, 300, 1000];

    /// Rows of every length, plain and with values that are none.
    fn rows() -> Vec<Vec<f32>> {
        let mut random = Seeded::new(29);
        let special = [0.0, -0.0, f32::NAN, f32::NEG_INFINITY, -1e30, 7.5];
        let mut rows = Vec::new();
        for length in LENGTHS {
            for specials in [0, 1, length / 2, length] {
                let mut row = vec![0.0; length];
                random.fill(&mut row, -90.0, 8.0);
                for _ in 0..specials.min(length) {
                    row[random.next() as usize % length] = special[random.next() as usize % special.len()];
                }
                rows.push(row);
            }
            rows.push(vec![f32::NAN; length]);
            rows.push(vec![f32::NEG_INFINITY; length]);
            rows.push(vec![f32::INFINITY; length]);
        }
        rows
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn the_greatest_is_found_at_every_length_and_the_first_of_equals() {
        for row in rows() {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = row.iter().position(|&value| value == max).unwrap_or(0);
            let of_pieces: Vec<f32> = row
                .chunks(MAXIMA_PIECE)
                .map(|piece| piece.iter().copied().fold(f32::NEG_INFINITY, f32::max))
                .collect();
            for_each_isa(|isa| {
                let softmax = Softmax { isa };
                assert_eq!(softmax.most_likely(&row), first, "{row:?} on {isa}");
                assert_eq!(softmax.maximum(&row), max, "{row:?} on {isa}");
                let mut maxima = vec![1.0; 3];
                assert_eq!(softmax.maxima(&row, &mut maxima), max, "{row:?} on {isa}");
                assert_eq!(maxima, of_pieces, "{row:?} on {isa}");
            });
        }
        let mut long = vec![0.0; 50_000];
        (long[777], long[40_000]) = (1.0, 1.0);
        for_each_isa(|isa| assert_eq!(Softmax { isa }.most_likely(&long), 777, "{isa}"));
    }

    #[test]
    fn every_instruction_set_weighs_with_the_bits_of_the_specification() {
        for row in rows() {
            let max = SCALAR.maximum(&row);
            if !max.is_finite() {
                continue;
            }
            for factor in [1.0, 1.25, 1e4] {
                let all = |softmax: Softmax| {
                    let (mut weights, mut masses) = (vec![9.0; row.len()], vec![9.0; 5]);
                    softmax.weights(&row, max, factor, &mut weights);
                    softmax.masses(&row, max, factor, &mut masses);
                    (bits(&weights), bits(&masses), softmax.mass(&row, max, factor).to_bits())
                };
                let expected = all(SCALAR);
                for_each_isa(|isa| assert_eq!(all(Softmax { isa }), expected, "{row:?} on {isa}"));
            }
        }
    }

    #[test]
    fn masses_are_sums_of_weights() {
        for row in rows() {
            let max = SCALAR.maximum(&row);
            if !max.is_finite() {
                continue;
            }
            let (mut weights, mut masses) = (vec![0.0; row.len()], Vec::new());
            SCALAR.weights(&row, max, 0.7, &mut weights);
            SCALAR.masses(&row, max, 0.7, &mut masses);
            assert!(weights.contains(&1.0), "the greatest weighs 1");
            let is_near = |found: f32, values: &[f32]| {
                let truth: f64 = values.iter().map(|&value| f64::from(value)).sum();
                (f64::from(found) - truth).abs() <= 1e-6 * truth
            };
            assert_eq!(masses.len(), weights.len().div_ceil(MASS_PIECE));
            assert!(masses.iter().zip(weights.chunks(MASS_PIECE)).all(|(&mass, of)| is_near(mass, of)));
            assert!(is_near(SCALAR.mass(&row, max, 0.7), &weights));
        }
    }

    #[test]
    fn weights_are_close_to_the_exponential() {
        let row: Vec<f32> = (0..200_000).map(|i| -(i as f32) * 86.9 / 200_000.0).collect();
        let mut weights = vec![0.0; row.len()];
        SCALAR.weights(&row, 0.0, 1.0, &mut weights);
        assert_eq!(weights[0], 1.0);
        for (x, weight) in row.into_iter().zip(weights) {
            let truth = f64::from(x).exp();
            let error = ((f64::from(weight) - truth) / truth).abs();
            let bound = if x > -20.0 { 1.5e-6 } else { 1e-5 };
            assert!(error < bound, "e^{x}: relative error {error:e}");
        }
    }

    #[test]
    fn what_is_too_little_or_no_number_weighs_nothing() {
        let row = [-87.1, -1e30, f32::NEG_INFINITY, f32::NAN];
        for_each_isa(|isa| {
            let mut weights = [1.0; 4];
            Softmax { isa }.weights(&row, 0.0, 1.0, &mut weights);
            assert_eq!(weights, [0.0; 4], "{isa}");
        });
    }
}
