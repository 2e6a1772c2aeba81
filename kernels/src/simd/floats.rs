//! Arithmetic on [`LANES`](super::LANES) floats that stay in registers.
//!
//! The compiler finds whole registers in short loops over [`Lanes`] by itself. In longer bodies it takes
//! values apart, so those are written with these.

use super::{Lanes, Pairs};

/// What each instruction set says in its own words, with the same bits.
pub trait Floats {
    /// [`LANES`](super::LANES) floats.
    type F: Copy;

    fn load(values: &Lanes) -> Self::F;
    fn store(values: Self::F, target: &mut Lanes);
    fn splat(value: f32) -> Self::F;
    fn add(a: Self::F, b: Self::F) -> Self::F;
    fn sub(a: Self::F, b: Self::F) -> Self::F;
    fn mul(a: Self::F, b: Self::F) -> Self::F;
    fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once.
    fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a > b ? a : b
    fn larger(a: Self::F, b: Self::F) -> Self::F;
    /// a < b ? a : b
    fn smaller(a: Self::F, b: Self::F) -> Self::F;
    fn abs(a: Self::F) -> Self::F;
    /// a < b ? then : otherwise
    fn where_less(a: Self::F, b: Self::F, then: Self::F, otherwise: Self::F) -> Self::F;
    /// Lanes `first..end` of `a`, others of `otherwise`.
    fn within(a: Self::F, first: usize, end: usize, otherwise: Self::F) -> Self::F;
    /// a · 2^n, n being in the low bits of `shifted`; both a and the result are normal.
    fn times_power(a: Self::F, shifted: Self::F) -> Self::F;
    /// The low halves of the bits of `low`, beside those of `high`.
    fn pack(low: Self::F, high: Self::F) -> Pairs;
    /// Sum of all lanes, in a fixed tree: lanes 8 apart, 4 apart, 2 apart, neighbours.
    fn sum(a: Self::F) -> f32;
    /// The greatest lane, by the same tree; none is NaN.
    fn largest(a: Self::F) -> f32;
}

/// Implements [`Floats`] for a type by loops over [`Lanes`]: the specification.
macro_rules! portable_floats {
    ($type:ty) => {
        impl $crate::simd::Floats for $type {
            type F = Lanes;

            #[inline(always)]
            fn load(values: &Lanes) -> Lanes {
                *values
            }

            #[inline(always)]
            fn store(values: Lanes, target: &mut Lanes) {
                *target = values;
            }

            #[inline(always)]
            fn splat(value: f32) -> Lanes {
                [value; LANES]
            }

            #[inline(always)]
            fn add(a: Lanes, b: Lanes) -> Lanes {
                std::array::from_fn(|i| a[i] + b[i])
            }

            #[inline(always)]
            fn sub(a: Lanes, b: Lanes) -> Lanes {
                std::array::from_fn(|i| a[i] - b[i])
            }

            #[inline(always)]
            fn mul(a: Lanes, b: Lanes) -> Lanes {
                std::array::from_fn(|i| a[i] * b[i])
            }

            #[inline(always)]
            fn div(a: Lanes, b: Lanes) -> Lanes {
                std::array::from_fn(|i| a[i] / b[i])
            }

            #[inline(always)]
            fn mul_add(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
                std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
            }

            #[inline(always)]
            fn larger(a: Lanes, b: Lanes) -> Lanes {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }

            #[inline(always)]
            fn smaller(a: Lanes, b: Lanes) -> Lanes {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }

            #[inline(always)]
            fn abs(a: Lanes) -> Lanes {
                a.map(f32::abs)
            }

            #[inline(always)]
            fn where_less(a: Lanes, b: Lanes, then: Lanes, otherwise: Lanes) -> Lanes {
                std::array::from_fn(|i| if a[i] < b[i] { then[i] } else { otherwise[i] })
            }

            #[inline(always)]
            fn within(a: Lanes, first: usize, end: usize, otherwise: Lanes) -> Lanes {
                std::array::from_fn(|i| if i >= first && i < end { a[i] } else { otherwise[i] })
            }

            #[inline(always)]
            fn times_power(a: Lanes, shifted: Lanes) -> Lanes {
                let power = |i: usize| shifted[i].to_bits() << 23;
                std::array::from_fn(|i| f32::from_bits(a[i].to_bits().wrapping_add(power(i))))
            }

            #[inline(always)]
            fn pack(low: Lanes, high: Lanes) -> Pairs {
                std::array::from_fn(|i| low[i].to_bits() & 0xFFFF | high[i].to_bits() << 16)
            }

            #[inline(always)]
            fn sum(a: Lanes) -> f32 {
                let eight: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
                let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
                (four[0] + four[2]) + (four[1] + four[3])
            }

            #[inline(always)]
            fn largest(a: Lanes) -> f32 {
                let larger = |a: f32, b: f32| if a > b { a } else { b };
                let eight: [f32; 8] = std::array::from_fn(|i| larger(a[i], a[i + 8]));
                let four: [f32; 4] = std::array::from_fn(|i| larger(eight[i], eight[i + 4]));
                larger(larger(four[0], four[2]), larger(four[1], four[3]))
            }
        }
    };
}
pub(super) use portable_floats;

/// Adding 1.5·2^23 rounds to the nearest integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e^x for all lanes; within 2 ULP for |x| < 87, 0 below -87.3, f32::MAX-ish above 88.
///
/// Cody-Waite reduction to |r| <= ln2/2 and a degree-6 polynomial (coefficients: Cephes `expf`).
#[inline(always)]
pub fn exp<S: Floats>(x: S::F) -> S::F {
    const LOWEST: f32 = -87.3;
    // What is no number stays it: it is neither larger nor smaller.
    let clamped = S::smaller(S::splat(88.0), S::larger(S::splat(LOWEST), x));
    let shifted = S::mul_add(clamped, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
    let n = S::sub(shifted, S::splat(ROUND));
    let r = S::mul_add(n, S::splat(-0.693_359_4), clamped);
    let r = S::mul_add(n, S::splat(2.121_944_4e-4), r);
    let mut p = S::splat(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = S::mul_add(p, r, S::splat(coefficient));
    }
    let value = S::add(S::mul_add(p, S::mul(r, r), r), S::splat(1.0));
    S::where_less(x, S::splat(LOWEST), S::splat(0.0), S::times_power(value, shifted))
}

/// 2^x for all lanes, x <= 0: within 4 ULP, and 2^-126 below -126. 2^0 is exactly 1.
///
/// Degree 5 on |r| <= 1/2, of least relative error among those with p(0) = 1.
#[inline(always)]
pub fn exp2<S: Floats>(x: S::F) -> S::F {
    // What is no number stays it.
    let x = S::larger(S::splat(-126.0), x);
    let shifted = S::add(x, S::splat(ROUND));
    let r = S::sub(x, S::sub(shifted, S::splat(ROUND)));
    let mut p = S::splat(1.326_472_7e-3);
    for coefficient in [9.671_513e-3, 5.550_733_7e-2, 2.402_224_2e-1, std::f32::consts::LN_2, 1.0] {
        p = S::mul_add(p, r, S::splat(coefficient));
    }
    S::times_power(p, shifted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{LANES, Scalar, Simd, per_isa};
    use crate::testing::{Seeded, for_each_isa};

    per_isa!(fn everything = everything_body(a: &Lanes, b: &Lanes, c: &Lanes, range: (usize, usize)) -> Vec<u32>);

    /// Bits of every operation's result.
    #[inline(always)]
    fn everything_body<S: Simd>(a: &Lanes, b: &Lanes, c: &Lanes, range: (usize, usize)) -> Vec<u32> {
        let [x, y, z] = [a, b, c].map(|values| S::load(values));
        let mut bits = Vec::new();
        let results = [
            x,
            S::splat(a[3]),
            S::add(x, y),
            S::sub(x, y),
            S::mul(x, y),
            S::div(x, y),
            S::mul_add(x, y, z),
            S::larger(x, y),
            S::smaller(x, y),
            S::abs(x),
            S::where_less(x, y, z, x),
            S::within(x, range.0, range.1, y),
            S::times_power(x, z),
            exp::<S>(x),
            exp2::<S>(S::smaller(x, S::splat(0.0))),
        ];
        for result in results {
            let mut lanes = [0.0; LANES];
            S::store(result, &mut lanes);
            // The sign and payload of what is no number are anybody's.
            bits.extend(lanes.map(|lane| if lane.is_nan() { f32::NAN } else { lane }.to_bits()));
        }
        bits.extend(S::pack(x, y));
        let sum = S::sum(z);
        bits.push(if sum.is_nan() { f32::NAN } else { sum }.to_bits());
        bits.push(S::largest(z).to_bits());
        bits
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_specification() {
        let mut random = Seeded::new(17);
        let special =
            [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX, -87.3, -126.5, 88.1];
        for round in 0..300 {
            let mut lanes = [[0.0; LANES]; 3];
            for values in &mut lanes {
                let range = [1.0, 90.0][round % 2];
                random.fill(values, -range, range);
            }
            for values in &mut lanes[..2] {
                values[random.next() as usize % LANES] = special[random.next() as usize % special.len()];
            }
            let [a, b, c] = &lanes;
            for range in [(0, 16), (0, 0), (3, 9), (0, 16), (8, 12), (5, 16), (16, 16)] {
                let expected = everything_body::<Scalar>(a, b, c, range);
                for_each_isa(|isa| assert_eq!(everything(isa, a, b, c, range), expected, "{isa} {lanes:?}"));
            }
        }
    }

    per_isa!(fn exponentials = exponentials_body(x: &Lanes) -> [Lanes; 2]);

    /// [`exp`] and [`exp2`].
    #[inline(always)]
    fn exponentials_body<S: Simd>(x: &Lanes) -> [Lanes; 2] {
        let x = S::load(x);
        let mut results = [[0.0; LANES]; 2];
        S::store(exp::<S>(x), &mut results[0]);
        S::store(exp2::<S>(x), &mut results[1]);
        results
    }

    /// Distance in units of the last place of the nearest float.
    fn ulps(found: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        (f64::from(found) - exact).abs() / f64::from(nearest.next_up() - nearest)
    }

    #[test]
    fn exponentials_are_within_their_ulps() {
        const STEPS: usize = 1 << 18;
        for_each_isa(|isa| {
            let mut worst = [0.0_f64; 2];
            for start in (0..STEPS).step_by(LANES) {
                let at = |low: f32, high: f32| -> Lanes {
                    std::array::from_fn(|i| low + (high - low) * ((start + i) as f32 / STEPS as f32))
                };
                let (for_exp, for_exp2) = (at(-87.0, 87.0), at(-126.0, 0.0));
                let found = [exponentials(isa, &for_exp)[0], exponentials(isa, &for_exp2)[1]];
                for i in 0..LANES {
                    worst[0] = worst[0].max(ulps(found[0][i], f64::from(for_exp[i]).exp()));
                    worst[1] = worst[1].max(ulps(found[1][i], f64::from(for_exp2[i]).exp2()));
                }
            }
            assert!(worst[0] <= 2.0 && worst[1] <= 4.0, "{worst:?} on {isa}");
        });
    }

    #[test]
    fn exponentials_end_where_they_say() {
        let least = f32::MIN_POSITIVE;
        // x, e^x, and 2^x where x is in its range.
        let table = [
            (0.0, 1.0, Some(1.0)),
            (-0.0, 1.0, Some(1.0)),
            (-87.4, 0.0, None),
            (-1e30, 0.0, Some(least)),
            (f32::NEG_INFINITY, 0.0, Some(least)),
            (-126.0, 0.0, Some(least)),
            (-127.0, 0.0, Some(least)),
        ];
        for_each_isa(|isa| {
            for (x, e, two) in table {
                let [found_e, found_two] = exponentials(isa, &[x; LANES]).map(|lanes| lanes[5]);
                assert_eq!((found_e, two.map(|_| found_two)), (e, two), "{x} on {isa}");
            }
            let largest = exponentials(isa, &[f32::INFINITY; LANES])[0][0];
            assert!(largest.is_finite() && largest == exponentials(isa, &[88.0; LANES])[0][0]);
        });
    }
}
