//! AVX-512: [`LANES`] values are one register.

use std::arch::x86_64::*;

use super::{Floats, LANES, Lanes, Pairs, Simd};

/// Only [`per_isa!`] names this type, inside a function that may use AVX-512.
pub struct Avx512;

impl Simd for Avx512 {
    const MANY_REGISTERS: bool = true;
    type Sums = __m512i;

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn convert(halves: &[u16; LANES]) -> Lanes {
            let mut lanes = [0.0; LANES];
            // SAFETY: 16 values of 2 bytes are read and 16 of 4 bytes written.
            unsafe {
                let wide = _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
                _mm512_storeu_ps(lanes.as_mut_ptr(), wide);
            }
            lanes
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(halves) }
    }

    #[inline(always)]
    fn zero_sums() -> Self::Sums {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums {
        // SAFETY: a row is one register; this type is named only where the features are enabled.
        unsafe {
            let row = _mm512_loadu_si512(row.as_ptr().cast());
            _mm512_dpwssd_epi32(sums, row, _mm512_set1_epi32(pair as i32))
        }
    }

    #[inline(always)]
    fn sums_to_floats(sums: __m512i) -> __m512 {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn widen_pairs(bytes: &[u32; LANES / 2]) -> Pairs {
        #[inline]
        #[target_feature(enable = "avx512bw")]
        fn convert(bytes: &[u32; LANES / 2]) -> Pairs {
            // SAFETY: 32 bytes are read; the result is 64 bytes of integers.
            unsafe { std::mem::transmute(_mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast()))) }
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(bytes) }
    }
}

/// Functions of registers that are one instruction.
macro_rules! instructions {
    ($(fn $name:ident($($argument:ident),*) = $instruction:ident;)*) => {
        $(#[inline(always)]
        fn $name($($argument: __m512),*) -> __m512 {
            // SAFETY: this type is named only where the features are enabled.
            unsafe { $instruction($($argument),*) }
        })*
    };
}

/// A bit for each of the first `count` lanes.
#[inline(always)]
fn first_lanes(count: usize) -> u32 {
    (1 << count.min(LANES)) - 1
}

impl Floats for Avx512 {
    type F = __m512;

    instructions! {
        fn add(a, b) = _mm512_add_ps;
        fn sub(a, b) = _mm512_sub_ps;
        fn mul(a, b) = _mm512_mul_ps;
        fn div(a, b) = _mm512_div_ps;
        fn mul_add(a, b, c) = _mm512_fmadd_ps;
        fn larger(a, b) = _mm512_max_ps;
        fn smaller(a, b) = _mm512_min_ps;
        fn abs(a) = _mm512_abs_ps;
    }

    #[inline(always)]
    fn load(values: &Lanes) -> __m512 {
        // SAFETY: 16 values are read; this type is named only where the features are enabled.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(values: __m512, target: &mut Lanes) {
        // SAFETY: 16 values are written; this type is named only where the features are enabled.
        unsafe { _mm512_storeu_ps(target.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn where_less(a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then) }
    }

    #[inline(always)]
    fn within(a: __m512, first: usize, end: usize, otherwise: __m512) -> __m512 {
        let kept = first_lanes(end) & !first_lanes(first);
        // SAFETY: this type is named only where the features are enabled.
        unsafe { _mm512_mask_blend_ps(kept as u16, otherwise, a) }
    }

    #[inline(always)]
    fn times_power(a: __m512, shifted: __m512) -> __m512 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), power))
        }
    }

    #[inline(always)]
    fn pack(low: __m512, high: __m512) -> Pairs {
        // SAFETY: both types are 64 bytes of plain numbers; this type is named only where the features are
        // enabled.
        unsafe {
            let low = _mm512_and_si512(_mm512_castps_si512(low), _mm512_set1_epi32(0xFFFF));
            let high = _mm512_slli_epi32::<16>(_mm512_castps_si512(high));
            std::mem::transmute(_mm512_or_si512(low, high))
        }
    }

    #[inline(always)]
    fn sum(a: __m512) -> f32 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::sum_of_8(eight)
        }
    }

    #[inline(always)]
    fn largest(a: __m512) -> f32 {
        // SAFETY: this type is named only where the features are enabled.
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            super::avx2::largest_of_8(eight)
        }
    }
}
