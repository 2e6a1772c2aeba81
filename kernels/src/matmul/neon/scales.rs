//! Scales and minima of eight rows.

use std::arch::aarch64::*;

use super::super::layout::*;

/// A float for each of eight rows.
pub type Lanes = [float32x4_t; 2];

pub trait LoadScales: Scales {
    /// (scale, minimum) of rows `first_row..first_row + 8` in `half` of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; `first_row` is 0 or 8.
    unsafe fn load(panel: *const u8, block: usize, half: usize, first_row: usize) -> (Lanes, Lanes);
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
unsafe fn load_bytes(at: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    let wide = vmovl_s8(unsafe { vld1_s8(at.cast()) });
    [vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))]
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply(a: Lanes, b: Lanes) -> Lanes {
    [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])]
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(panel: *const u8, block: usize, _half: usize, first_row: usize) -> (Lanes, Lanes) {
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
    unsafe fn load(panel: *const u8, block: usize, _half: usize, first_row: usize) -> (Lanes, Lanes) {
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

impl<const HALVES: usize, const MINIMUM: bool> LoadScales for Super<HALVES, MINIMUM> {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(panel: *const u8, block: usize, half: usize, first_row: usize) -> (Lanes, Lanes) {
        let kinds = if MINIMUM { 2 } else { 1 };
        // SAFETY: the super-block of `block` lies within the panel, and every offset within its STRIDE.
        unsafe {
            let start = panel.add(block / SUPER_BLOCKS * Self::STRIDE);
            let at = start.add(Self::FACTORS + block % SUPER_BLOCKS * Self::BLOCK_BYTES + half * 16 * kinds);
            let (start, at) = (start.add(first_row * 2), at.add(first_row));
            let scale = multiply(load_halves(start), load_bytes(at));
            let minimum = match MINIMUM {
                true => multiply(load_halves(start.add(32)), load_bytes(at.add(16))),
                false => [vdupq_n_f32(0.0); 2],
            };
            (scale, minimum)
        }
    }
}
