//! AVX2 with FMA and F16C: [`LANES`] values are two registers.

use std::arch::x86_64::*;

use super::{Floats, LANES, Lanes, Pairs, Simd};

/// Only [`per_isa!`] names this type, inside a function that may use AVX2, FMA and F16C.
pub struct Avx2;

impl Simd for Avx2 {
    type Sums = [__m256i; 2];

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        fn convert(halves: &[u16; LANES]) -> Lanes {
            let mut lanes = [0.0; LANES];
            // SAFETY: 16 values of 2 bytes are read and 16 of 4 bytes written.
            unsafe {
                let source: *const __m128i = halves.as_ptr().cast();
                _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(source)));
                _mm256_storeu_ps(lanes.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(source.add(1))));
            }
            lanes
        }
        // SAFETY: this type is named only where these features are enabled.
        unsafe { convert(halves) }
    }

    #[inline(always)]
    fn zero_sums() -> Self::Sums {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums {
        let source: *const __m256i = row.as_ptr().cast();
        // SAFETY: a row is two registers; this type is named only where the feature is enabled.
        unsafe {
            let pair = _mm256_set1_epi32(pair as i32);
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(pair, _mm256_loadu_si256(source))),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(pair, _mm256_loadu_si256(source.add(1)))),
            ]
        }
    }

    #[inline(always)]
    fn sums_to_floats(sums: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: this type is named only where the feature is enabled.
        sums.map(|sums| unsafe { _mm256_cvtepi32_ps(sums) })
    }

    #[inline(always)]
    fn widen_pairs(bytes: &[u32; LANES / 2]) -> Pairs {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn convert(bytes: &[u32; LANES / 2]) -> Pairs {
            let source: *const __m128i = bytes.as_ptr().cast();
            // SAFETY: 32 bytes are read; the result is 64 bytes of integers.
            unsafe {
                std::mem::transmute([
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(source)),
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(source.add(1))),
                ])
            }
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(bytes) }
    }
}

/// Functions of registers that are one instruction for each half.
macro_rules! instructions {
    ($(fn $name:ident($($argument:ident),*) = $instruction:ident;)*) => {
        $(#[inline(always)]
        fn $name($($argument: [__m256; 2]),*) -> [__m256; 2] {
            // SAFETY: this type is named only where the features are enabled.
            unsafe { [$instruction($($argument[0]),*), $instruction($($argument[1]),*)] }
        })*
    };
}

impl Floats for Avx2 {
    type F = [__m256; 2];

    instructions! {
        fn add(a, b) = _mm256_add_ps;
        fn sub(a, b) = _mm256_sub_ps;
        fn mul(a, b) = _mm256_mul_ps;
        fn div(a, b) = _mm256_div_ps;
        fn mul_add(a, b, c) = _mm256_fmadd_ps;
        fn larger(a, b) = _mm256_max_ps;
        fn smaller(a, b) = _mm256_min_ps;
        fn abs(a) = magnitude;
        fn where_less(a, b, then, otherwise) = choose_less;
        fn times_power(a, shifted) = times_power;
    }

    #[inline(always)]
    fn load(values: &Lanes) -> [__m256; 2] {
        // SAFETY: 8 values are read twice, of 16; this type is named only where the features are enabled.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(values: [__m256; 2], target: &mut Lanes) {
        // SAFETY: 8 values are written twice, of 16; this type is named only where the features are enabled.
        unsafe {
            _mm256_storeu_ps(target.as_mut_ptr(), values[0]);
            _mm256_storeu_ps(target.as_mut_ptr().add(8), values[1]);
        }
    }

    #[inline(always)]
    fn splat(value: f32) -> [__m256; 2] {
        // SAFETY: this type is named only where the features are enabled.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn within(a: [__m256; 2], first: usize, end: usize, otherwise: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: this type is named only where the features are enabled.
        std::array::from_fn(|half| unsafe {
            let lane = _mm256_add_epi32(
                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                _mm256_set1_epi32(8 * half as i32),
            );
            let too_low = _mm256_cmpgt_epi32(_mm256_set1_epi32(first.min(LANES) as i32), lane);
            let low_enough = _mm256_cmpgt_epi32(_mm256_set1_epi32(end.min(LANES) as i32), lane);
            let kept = _mm256_andnot_si256(too_low, low_enough);
            _mm256_blendv_ps(otherwise[half], a[half], _mm256_castsi256_ps(kept))
        })
    }

    #[inline(always)]
    fn pack(low: [__m256; 2], high: [__m256; 2]) -> Pairs {
        // SAFETY: both types are 64 bytes of plain numbers; this type is named only where the features are
        // enabled.
        unsafe {
            std::mem::transmute::<[__m256i; 2], Pairs>(std::array::from_fn(|half| {
                let low = _mm256_and_si256(_mm256_castps_si256(low[half]), _mm256_set1_epi32(0xFFFF));
                let high = _mm256_slli_epi32::<16>(_mm256_castps_si256(high[half]));
                _mm256_or_si256(low, high)
            }))
        }
    }

    #[inline(always)]
    fn sum(a: [__m256; 2]) -> f32 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe { sum_of_8(_mm256_add_ps(a[0], a[1])) }
    }

    #[inline(always)]
    fn largest(a: [__m256; 2]) -> f32 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe { largest_of_8(_mm256_max_ps(a[0], a[1])) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn magnitude(a: __m256) -> __m256 {
    _mm256_andnot_ps(_mm256_set1_ps(-0.0), a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn choose_less(a: __m256, b: __m256, then: __m256, otherwise: __m256) -> __m256 {
    _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
fn times_power(a: __m256, shifted: __m256) -> __m256 {
    let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), power))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum_of_8(eight: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn largest_of_8(eight: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
}
