//! Scales and minima of eight rows.

use std::arch::aarch64::*;

use super::super::layout::*;

/// A float for each of eight rows.
pub type Lanes = [float32x4_t; 2];

/// Float scales, one for each block.
pub trait LoadScales: Scales {
    /// (scale, minimum) of rows `first_row..first_row + 8` of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; `first_row` is 0 or 8.
    unsafe fn load(panel: *const u8, block: usize, first_row: usize) -> (Lanes, Lanes);
}

/// # Safety
/// `at` has 16 readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_halves(at: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    let halves = vreinterpretq_f16_u8(unsafe { vld1q_u8(at) });
    [vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)]
}

/// # Safety
/// `at` has 8 readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_bytes(at: *const u8) -> [int32x4_t; 2] {
    // SAFETY: the caller's promise.
    let wide = vmovl_s8(unsafe { vld1_s8(at.cast()) });
    [vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)]
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(panel: *const u8, block: usize, first_row: usize) -> (Lanes, Lanes) {
        // SAFETY: a block has 32 bytes of scales and, with minima, 32 more.
        unsafe {
            let at = panel.add(block * if MINIMUM { 64 } else { 32 } + first_row * 2);
            (load_halves(at), if MINIMUM { load_halves(at.add(32)) } else { [vdupq_n_f32(0.0); 2] })
        }
    }
}

impl LoadScales for Exponent {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(panel: *const u8, block: usize, first_row: usize) -> (Lanes, Lanes) {
        // SAFETY: a block has 16 bytes.
        let wide = vmovl_u8(unsafe { vld1_u8(panel.add(block * 16 + first_row)) });
        let power = |exponents| {
            let normal = vshlq_n_u32::<23>(vsubq_u32(exponents, vdupq_n_u32(1)));
            // Exponents 0 and 1 are subnormal halves.
            let small = vshlq_u32(vdupq_n_u32(0x0020_0000), vreinterpretq_s32_u32(exponents));
            let is_small = vcltq_u32(exponents, vdupq_n_u32(2));
            vreinterpretq_f32_u32(vbslq_u32(is_small, small, normal))
        };
        ([power(vmovl_u16(vget_low_u16(wide))), power(vmovl_high_u16(wide))], [vdupq_n_f32(0.0); 2])
    }
}

/// Factors and integer scales of eight rows in a super-block of k-quants.
pub struct SuperBlock<const HALVES: usize, const MINIMUM: bool> {
    start: *const u8,
    first_row: usize,
}

impl<const HALVES: usize, const MINIMUM: bool> SuperBlock<HALVES, MINIMUM> {
    /// # Safety
    /// `panel` has the bytes of more than `index` super-blocks for as long as the result is used;
    /// `first_row` is 0 or 8.
    pub unsafe fn new(panel: *const u8, index: usize, first_row: usize) -> Self {
        // SAFETY: the caller's promise.
        let start = unsafe { panel.add(index * Super::<HALVES, MINIMUM>::STRIDE) };
        SuperBlock { start, first_row }
    }

    /// What a sum of scaled products is worth.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn factor(&self) -> Lanes {
        // SAFETY: 32 bytes of factors begin a super-block.
        unsafe { load_halves(self.start.add(self.first_row * 2)) }
    }

    /// What a sum of scaled minima is worth; only where there are minima.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn minimum_factor(&self) -> Lanes {
        // SAFETY: with minima, 32 bytes of their factors follow the first 32.
        unsafe { load_halves(self.start.add(32 + self.first_row * 2)) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub fn scales(&self, block: usize, half: usize) -> [int32x4_t; 2] {
        let at = Super::<HALVES, MINIMUM>::scales_at(block, half) + self.first_row;
        // SAFETY: a half has 16 bytes of scales.
        unsafe { load_bytes(self.start.add(at)) }
    }

    /// Only where there are minima.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn minima(&self, block: usize, half: usize) -> Lanes {
        let at = Super::<HALVES, MINIMUM>::scales_at(block, half) + PANEL_ROWS + self.first_row;
        // SAFETY: 16 bytes of minima follow those of scales.
        unsafe { load_bytes(self.start.add(at)) }.map(|four| vcvtq_f32_s32(four))
    }
}
