//! Scales and minima of a panel's 16 rows.

use std::arch::x86_64::*;

use super::super::layout::*;
use super::codes::Group;

/// Eight floats for each half of a panel.
pub type Lanes = [__m256; 2];

/// Float scales, one for each block.
pub trait LoadScales: Scales {
    /// (scale, minimum) of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; the CPU has AVX2 and F16C.
    unsafe fn load(panel: *const u8, block: usize) -> (Lanes, Lanes);
}

/// # Safety
/// `at` has 32 readable bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_halves(at: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    unsafe {
        [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))]
    }
}

/// # Safety
/// `at` has 16 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_bytes(at: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm_loadu_si128(at.cast()) };
    [
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
pub fn zeros() -> Lanes {
    [_mm256_setzero_ps(); 2]
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(panel: *const u8, block: usize) -> (Lanes, Lanes) {
        // SAFETY: a block has 32 bytes of scales and, with minima, 32 more.
        unsafe {
            let at = panel.add(block * if MINIMUM { 64 } else { 32 });
            (load_halves(at), if MINIMUM { load_halves(at.add(32)) } else { zeros() })
        }
    }
}

impl LoadScales for Exponent {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(panel: *const u8, block: usize) -> (Lanes, Lanes) {
        // SAFETY: a block has 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(panel.add(block * 16).cast()) };
        let widen = |bytes| {
            let exponents = _mm256_cvtepu8_epi32(bytes);
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)));
            // Exponents 0 and 1 are subnormal halves.
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
            let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
            _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small))
        };
        ([widen(bytes), widen(_mm_srli_si128::<8>(bytes))], zeros())
    }
}

/// Factors and integer scales of k-quants.
pub struct SuperBlock<const HALVES: usize, const MINIMUM: bool>(*const u8);

impl<const HALVES: usize, const MINIMUM: bool> SuperBlock<HALVES, MINIMUM> {
    const STRIDE: usize = Super::<HALVES, MINIMUM>::STRIDE;

    /// # Safety
    /// `panel` has the bytes of more than `index` super-blocks for as long as the result is used.
    pub unsafe fn new(panel: *const u8, index: usize) -> Self {
        // SAFETY: the caller's promise.
        SuperBlock(unsafe { panel.add(index * Self::STRIDE) })
    }

    /// What a sum of scaled products is worth, and what a sum of scaled minima is.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub fn factors(&self) -> (Lanes, Lanes) {
        // SAFETY: 32 bytes of factors begin a super-block and, with minima, 32 more.
        unsafe { (load_halves(self.0), if MINIMUM { load_halves(self.0.add(32)) } else { zeros() }) }
    }

    /// The scales of `half` of block `block` of this super-block.
    #[inline]
    fn scales_at(&self, block: usize, half: usize) -> *const u8 {
        // SAFETY: with the scales, and minima if any, that is still within STRIDE.
        unsafe { self.0.add(Super::<HALVES, MINIMUM>::scales_at(block, half)) }
    }

    /// Each row's scale twice in 16 bits, as `vpmaddwd` takes them.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn scale_pairs(&self, block: usize, half: usize) -> Group {
        // SAFETY: 16 bytes of scales.
        let bytes = unsafe { _mm_loadu_si128(self.scales_at(block, half).cast()) };
        let twice = |bytes| {
            let wide = _mm256_cvtepi8_epi32(bytes);
            _mm256_blend_epi16::<0xAA>(wide, _mm256_slli_epi32::<16>(wide))
        };
        [twice(bytes), twice(_mm_srli_si128::<8>(bytes))]
    }

    /// The same as floats.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn scales(&self, block: usize, half: usize) -> Lanes {
        // SAFETY: 16 bytes of scales.
        unsafe { load_bytes(self.scales_at(block, half)) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn minima(&self, block: usize, half: usize) -> Lanes {
        // SAFETY: 16 bytes of minima follow the scales; only called where there are minima.
        unsafe { load_bytes(self.scales_at(block, half).add(16)) }
    }
}
