//! NEON: [`LANES`] values are four registers.

use std::arch::aarch64::*;

use super::{LANES, Lanes, Pairs, Simd, portable_floats};

/// Only [`per_isa!`] names this type, inside a function that may use NEON.
pub struct Neon;

portable_floats!(Neon);

impl Simd for Neon {
    type Sums = [int32x4_t; 4];

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        #[inline]
        #[target_feature(enable = "neon")]
        fn convert(halves: &[u16; LANES]) -> Lanes {
            let mut lanes = [0.0; LANES];
            for (four, halves) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(halves.as_chunks::<4>().0) {
                // SAFETY: 4 values of 2 bytes are read and 4 of 4 bytes written.
                unsafe {
                    let halves = vreinterpret_f16_u16(vld1_u16(halves.as_ptr()));
                    vst1q_f32(four.as_mut_ptr(), vcvt_f32_f16(halves));
                }
            }
            lanes
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(halves) }
    }

    #[inline(always)]
    fn zero_sums() -> Self::Sums {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums {
        let source: *const i16 = row.as_ptr().cast();
        // SAFETY: a row is 32 integers, and 16 are read twice, lower and upper halves of words apart; this
        // type is named only where the feature is enabled.
        unsafe {
            let pair = vcreate_s16(u64::from(pair));
            let (first, second) = (vld2q_s16(source), vld2q_s16(source.add(16)));
            let add = |sum, low, high| vmlal_lane_s16::<1>(vmlal_lane_s16::<0>(sum, low, pair), high, pair);
            [
                add(sums[0], vget_low_s16(first.0), vget_low_s16(first.1)),
                add(sums[1], vget_high_s16(first.0), vget_high_s16(first.1)),
                add(sums[2], vget_low_s16(second.0), vget_low_s16(second.1)),
                add(sums[3], vget_high_s16(second.0), vget_high_s16(second.1)),
            ]
        }
    }

    #[inline(always)]
    fn sums_to_floats(sums: Self::Sums) -> Lanes {
        let mut lanes = [0.0; LANES];
        for (four, sum) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            // SAFETY: 4 values are written; this type is named only where the feature is enabled.
            unsafe {
                vst1q_f32(four.as_mut_ptr(), vcvtq_f32_s32(sum));
            }
        }
        lanes
    }
}
