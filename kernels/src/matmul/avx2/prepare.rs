//! Inputs as some kernels want them, made once for all panels of a pass.

use std::arch::x86_64::*;

use super::super::kernel::{PanelArgs, PreparedInputs};
use super::super::layout::BLOCK;
use super::codes::{Load, Products};

/// Bytes that say where a block's sums begin: two of 16 bits for each half, or, where all groups are summed
/// together, for the block.
pub const STARTS: usize = 8;

/// What the kernels for codes `C` want.
pub fn of<C: Load>() -> Option<PreparedInputs> {
    match C::PRODUCTS {
        Products::Plain(_) | Products::Signed => None,
        Products::Shifted(_) => Some(PreparedInputs { bytes: STARTS, make: starts::<C> }),
    }
}

/// Bytes of that for a block.
pub const fn bytes<C: Load>() -> usize {
    match C::PRODUCTS {
        Products::Plain(_) | Products::Signed => 0,
        Products::Shifted(_) => STARTS,
    }
}

/// Checks what the kernels' unchecked reads of that rely on.
#[inline]
pub fn check<C: Load, const N: usize>(args: &PanelArgs<'_>) {
    assert!(args.prepared.len() >= args.blocks * N * bytes::<C>(), "inputs are prepared for these kernels");
}

/// For each block minus what `vpmaddubsw` gives too much, in each lane of 16 bits, with codes that are larger
/// than their values by `C::SHIFT`.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn starts<C: Load>(inputs: &[i8], starts: &mut [u8]) {
    let groups = if let Products::Shifted(groups) = C::PRODUCTS { groups } else { 0 };
    // Over so many groups it fits there, as do products of signed values of that size.
    const { assert!(C::SHIFT <= 32) };
    let shift = _mm256_set1_epi8(C::SHIFT as i8);
    let blocks = inputs.as_chunks::<BLOCK>().0.iter().zip(starts.as_chunks_mut::<STARTS>().0);
    for (inputs, starts) in blocks {
        // SAFETY: 32 bytes are read and 8 written.
        unsafe {
            let too_much = _mm256_maddubs_epi16(shift, _mm256_loadu_si256(inputs.as_ptr().cast()));
            let sums = _mm256_add_epi16(too_much, _mm256_shuffle_epi32::<0b0100_1110>(too_much));
            let sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32::<0b1011_0001>(sums));
            let sums = _mm256_sub_epi16(_mm256_setzero_si256(), sums);
            let other = _mm256_permute4x64_epi64::<0b0100_1110>(sums);
            let sums = if groups == 8 { _mm256_add_epi16(sums, other) } else { sums };
            let halves =
                _mm_unpacklo_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            _mm_storel_epi64(starts.as_mut_ptr().cast(), halves);
        }
    }
}
