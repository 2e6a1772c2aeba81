//! Scales and minima of a panel's 16 rows.

use std::arch::x86_64::*;

use super::super::layout::*;

/// Float scales, one for each block, of all 16 rows.
pub trait LoadScales: Scales {
    /// (scale, minimum) of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; the CPU has AVX-512 F and F16C.
    unsafe fn load(panel: *const u8, block: usize) -> (__m512, __m512);
}

/// # Safety
/// `at` has 32 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn load_halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// # Safety
/// `at` has 16 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
pub unsafe fn load_bytes(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(at.cast()) }))
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(panel: *const u8, block: usize) -> (__m512, __m512) {
        // SAFETY: a block has 32 bytes of scales and, with minima, 32 more.
        unsafe {
            let at = panel.add(block * if MINIMUM { 64 } else { 32 });
            (load_halves(at), if MINIMUM { load_halves(at.add(32)) } else { _mm512_setzero_ps() })
        }
    }
}

impl LoadScales for Exponent {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(panel: *const u8, block: usize) -> (__m512, __m512) {
        // SAFETY: a block has 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(panel.add(block * 16).cast()) };
        let exponents = _mm512_cvtepu8_epi32(bytes);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponents, _mm512_set1_epi32(1)));
        // Exponents 0 and 1 are subnormal halves.
        let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), exponents);
        let is_small = _mm512_cmplt_epi32_mask(exponents, _mm512_set1_epi32(2));
        (_mm512_castsi512_ps(_mm512_mask_blend_epi32(is_small, normal, small)), _mm512_setzero_ps())
    }
}
