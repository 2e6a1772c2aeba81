//! A block of 32 floats to int8: the largest magnitude, and the codes with their sums.
//!
//! Written out for x86-64, where the compiler takes the portable form apart into single values. The
//! portable form is the specification, and the others give the same bits.

use super::layout::BLOCK;
use crate::simd::LANES;

/// Codes are at most this.
pub const CODE_MAX: f32 = 127.0;
/// What rounds to more is no number to be coded.
const SCALED_MAX: f32 = CODE_MAX + 0.5;

/// How an instruction set rounds a block.
pub trait Rounding {
    /// max |x|; what is no number does not count.
    #[inline(always)]
    fn largest_magnitude(values: &[f32; BLOCK]) -> f32 {
        values.iter().fold(0.0, |max, value| if value.abs() > max { value.abs() } else { max })
    }

    /// [`Rounding::largest_magnitude`] of each block.
    #[inline(always)]
    fn largest_magnitudes<const N: usize>(blocks: &[[f32; BLOCK]; N]) -> [f32; N] {
        let mut largest = [0.0; N];
        for (largest, block) in largest.iter_mut().zip(blocks) {
            *largest = Self::largest_magnitude(block);
        }
        largest
    }

    /// codes = round(x · inverse), ties to even, 0 for what is no number; returns the sums of the codes of
    /// both halves. No |x · inverse| that is a number exceeds [`CODE_MAX`] by more than rounding.
    #[inline(always)]
    fn round(values: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2] {
        let mut sums = [0; 2];
        let halves = values.as_chunks::<LANES>().0.iter().zip(codes.as_chunks_mut::<LANES>().0);
        for ((values, codes), sum) in halves.zip(&mut sums) {
            for (value, code) in values.iter().zip(codes) {
                let scaled = value * inverse;
                let scaled = if scaled.abs() <= SCALED_MAX { scaled } else { 0.0 };
                // Adding 1.5·2^23 leaves the rounded value in the low bits.
                let rounded = (scaled + 12_582_912.0).to_bits().wrapping_sub(0x4B40_0000) as i32;
                *code = rounded as i8;
                *sum += rounded;
            }
        }
        sums
    }
}

impl Rounding for crate::simd::Scalar {}

#[cfg(target_arch = "aarch64")]
impl Rounding for crate::simd::Neon {}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, Rounding, SCALED_MAX};
    use crate::simd::{Avx2, Avx512, largest_of_8};

    /// Sums of the first and the last 16 codes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn sums(codes: __m256i) -> [i32; 2] {
        // Unsigned bytes can be summed: each is 128 more than its code.
        let unsigned = _mm256_xor_si256(codes, _mm256_set1_epi8(i8::MIN));
        let sums = _mm256_sad_epu8(unsigned, _mm256_setzero_si256());
        let sums = _mm256_add_epi64(sums, _mm256_shuffle_epi32::<0b0100_1110>(sums));
        [_mm256_extract_epi32::<0>(sums) - 16 * 128, _mm256_extract_epi32::<4>(sums) - 16 * 128]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(codes: __m256i, target: &mut [i8; BLOCK]) -> [i32; 2] {
        // SAFETY: 32 bytes are written.
        unsafe { _mm256_storeu_si256(target.as_mut_ptr().cast(), codes) };
        sums(codes)
    }

    impl Rounding for Avx2 {
        #[inline(always)]
        fn largest_magnitude(values: &[f32; BLOCK]) -> f32 {
            #[inline]
            #[target_feature(enable = "avx2")]
            fn largest_magnitude(values: &[f32; BLOCK]) -> f32 {
                let mut max = _mm256_setzero_ps();
                for eight in values.as_chunks::<8>().0 {
                    // SAFETY: 8 values of 4 bytes are read.
                    let magnitude =
                        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), _mm256_loadu_ps(eight.as_ptr())) };
                    // The second operand, where the first is no number.
                    max = _mm256_max_ps(magnitude, max);
                }
                largest_of_8(max)
            }
            // SAFETY: this type is named only where the feature is enabled.
            unsafe { largest_magnitude(values) }
        }

        #[inline(always)]
        fn round(values: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2] {
            #[inline]
            #[target_feature(enable = "avx2")]
            fn round(values: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2] {
                let rounded = |eight: usize| {
                    // SAFETY: 8 values of 4 bytes are read, of 4 times 8.
                    let values = unsafe { _mm256_loadu_ps(values.as_ptr().add(8 * eight)) };
                    let scaled = _mm256_mul_ps(values, _mm256_set1_ps(inverse));
                    let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), scaled);
                    let is_number = _mm256_cmp_ps::<_CMP_LE_OQ>(magnitude, _mm256_set1_ps(SCALED_MAX));
                    _mm256_cvtps_epi32(_mm256_and_ps(scaled, is_number))
                };
                // Packing works in halves of a register: fours of codes lie 0 2 4 6 1 3 5 7 after it.
                let low = _mm256_packs_epi32(rounded(0), rounded(1));
                let high = _mm256_packs_epi32(rounded(2), rounded(3));
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                store(_mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order), codes)
            }
            // SAFETY: this type is named only where the feature is enabled.
            unsafe { round(values, inverse, codes) }
        }
    }

    /// Largest magnitudes of every eighth value.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx2")]
    fn largest_lanes(values: &[f32; BLOCK]) -> __m256 {
        // SAFETY: 16 values of 4 bytes are read twice, of 32.
        let (low, high) =
            unsafe { (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(16))) };
        // The second operand, where the first is no number.
        let max = _mm512_max_ps(_mm512_abs_ps(low), _mm512_setzero_ps());
        let max = _mm512_max_ps(_mm512_abs_ps(high), max);
        _mm256_max_ps(_mm512_castps512_ps256(max), _mm512_extractf32x8_ps::<1>(max))
    }

    /// Largest lane of each of eight registers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn largest_of_each(eights: [__m256; 8]) -> [f32; 8] {
        let [a, b, c, d, e, f, g, h] = eights;
        // Two registers' lanes side by side, then four's, then all; each step halves how many there are.
        let pair = |a, b| _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let four = |ab, cd| {
            let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
            let (low, high) = (_mm256_unpacklo_pd(ab, cd), _mm256_unpackhi_pd(ab, cd));
            _mm256_max_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
        };
        let (abcd, efgh) = (four(pair(a, b), pair(c, d)), four(pair(e, f), pair(g, h)));
        let low = _mm256_permute2f128_ps::<0x20>(abcd, efgh);
        let largest = _mm256_max_ps(low, _mm256_permute2f128_ps::<0x31>(abcd, efgh));
        let mut values = [0.0; 8];
        // SAFETY: 8 values of 4 bytes are written.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), largest) };
        values
    }

    impl Rounding for Avx512 {
        #[inline(always)]
        fn largest_magnitudes<const N: usize>(blocks: &[[f32; BLOCK]; N]) -> [f32; N] {
            #[inline]
            #[target_feature(enable = "avx512f,avx512dq,avx2")]
            fn of_eight(blocks: &[[f32; BLOCK]; 8]) -> [f32; 8] {
                let mut lanes = [_mm256_setzero_ps(); 8];
                for (lanes, block) in lanes.iter_mut().zip(blocks) {
                    *lanes = largest_lanes(block);
                }
                largest_of_each(lanes)
            }
            let mut largest = [0.0; N];
            match (blocks.as_chunks::<8>(), largest.as_chunks_mut::<8>()) {
                // SAFETY: this type is named only where these features are enabled.
                (([blocks], []), ([largest], [])) => *largest = unsafe { of_eight(blocks) },
                _ => {
                    for (largest, block) in largest.iter_mut().zip(blocks) {
                        *largest = Self::largest_magnitude(block);
                    }
                }
            }
            largest
        }

        #[inline(always)]
        fn largest_magnitude(values: &[f32; BLOCK]) -> f32 {
            #[inline]
            #[target_feature(enable = "avx512f,avx512dq,avx2")]
            fn largest_magnitude(values: &[f32; BLOCK]) -> f32 {
                largest_of_8(largest_lanes(values))
            }
            // SAFETY: this type is named only where these features are enabled.
            unsafe { largest_magnitude(values) }
        }

        #[inline(always)]
        fn round(values: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2] {
            #[inline]
            #[target_feature(enable = "avx512f,avx2")]
            fn round(values: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2] {
                let rounded = |half: usize| {
                    // SAFETY: 16 values of 4 bytes are read, of twice 16.
                    let values = unsafe { _mm512_loadu_ps(values.as_ptr().add(16 * half)) };
                    let scaled = _mm512_mul_ps(values, _mm512_set1_ps(inverse));
                    let limit = _mm512_set1_ps(SCALED_MAX);
                    let is_number = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(_mm512_abs_ps(scaled), limit);
                    _mm512_cvtepi32_epi8(_mm512_maskz_cvtps_epi32(is_number, scaled))
                };
                store(_mm256_set_m128i(rounded(1), rounded(0)), codes)
            }
            // SAFETY: this type is named only where these features are enabled.
            unsafe { round(values, inverse, codes) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Scalar, Simd, per_isa};
    use crate::testing::{Seeded, for_each_isa};

    per_isa!(fn largest = largest_body(values: &[f32; BLOCK]) -> f32);
    #[inline(always)]
    fn largest_body<S: Simd + Rounding>(values: &[f32; BLOCK]) -> f32 {
        S::largest_magnitude(values)
    }

    per_isa!(fn largest_of_eight = largest_of_eight_body(blocks: &[[f32; BLOCK]; 8]) -> [f32; 8]);
    #[inline(always)]
    fn largest_of_eight_body<S: Simd + Rounding>(blocks: &[[f32; BLOCK]; 8]) -> [f32; 8] {
        S::largest_magnitudes(blocks)
    }

    #[test]
    fn blocks_together_have_the_largest_magnitudes_that_each_has() {
        let mut random = Seeded::new(6);
        for special in [0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut blocks = [[0.0; BLOCK]; 8];
            random.fill(blocks.as_flattened_mut(), -3.0, 3.0);
            blocks[random.next() as usize % 8][random.next() as usize % BLOCK] = special;
            let expected = blocks.map(|block| <Scalar as Rounding>::largest_magnitude(&block).to_bits());
            for_each_isa(|isa| {
                assert_eq!(largest_of_eight(isa, &blocks).map(f32::to_bits), expected, "{isa} {blocks:?}");
            });
        }
    }

    per_isa!(fn round = round_body(values: &[f32; BLOCK], inverse: f32, codes: &mut [i8; BLOCK]) -> [i32; 2]);
    #[inline(always)]
    fn round_body<S: Simd + Rounding>(
        values: &[f32; BLOCK],
        inverse: f32,
        codes: &mut [i8; BLOCK],
    ) -> [i32; 2] {
        S::round(values, inverse, codes)
    }

    #[test]
    fn every_instruction_set_rounds_like_the_specification() {
        let mut random = Seeded::new(5);
        let special = [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, f32::MAX];
        for round_of in 0..500 {
            let mut values = [0.0; BLOCK];
            random.fill(&mut values, -3.0, 3.0);
            if round_of % 2 == 1 {
                values[random.next() as usize % BLOCK] = special[random.next() as usize % special.len()];
                // Ties.
                values[random.next() as usize % BLOCK] = 1.5;
            }
            let expected_largest = <Scalar as Rounding>::largest_magnitude(&values);
            for inverse in [0.0, 1.0, CODE_MAX / 3.0, 1.0 / f32::MAX] {
                let mut expected = [0; BLOCK];
                let expected_sums = <Scalar as Rounding>::round(&values, inverse, &mut expected);
                for_each_isa(|isa| {
                    assert_eq!(largest(isa, &values).to_bits(), expected_largest.to_bits(), "{isa}");
                    let mut codes = [1; BLOCK];
                    assert_eq!(round(isa, &values, inverse, &mut codes), expected_sums, "{isa} {values:?}");
                    assert_eq!(codes, expected, "{isa} {values:?}");
                });
            }
        }
    }
}
