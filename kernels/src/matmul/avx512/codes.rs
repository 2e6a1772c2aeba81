//! Codes of each layout from a panel to registers, packed or expanded to a byte each.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::layout::*;

/// Codes as unsigned bytes with a power-of-two offset.
pub trait Load: Codes {
    /// What the kernel's integer sums must subtract from each code (a power of two), or 0.
    const SHIFTED: u32;
    /// Whether codes come from memory, or from a cache.
    const STREAMED: bool = true;
    /// Groups `2z` and `2z + 1` of the block at `codes`.
    ///
    /// # Safety
    /// `codes` has `Self::BYTES` readable bytes; the CPU has AVX-512 F, BW.
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2];
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low_and_high(nibbles: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(0x0F);
    [_mm512_and_si512(nibbles, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(nibbles), mask)]
}

/// Moves bit(s) at `from` of each byte to bit 4 and masks them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn to_bit_4(bits: __m512i, from: usize, mask: i8) -> __m512i {
    let moved = if from <= 4 {
        _mm512_sll_epi16(bits, _mm_cvtsi32_si128(4 - from as i32))
    } else {
        _mm512_srl_epi16(bits, _mm_cvtsi32_si128(from as i32 - 4))
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(mask))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(table: &[i8; 16], codes: [__m512i; 2]) -> [__m512i; 2] {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    // Signed values become unsigned by adding 128, which the sums subtract again.
    let table = _mm512_broadcast_i32x4(_mm_xor_si128(table, _mm_set1_epi8(-128)));
    [_mm512_shuffle_epi8(table, codes[0]), _mm512_shuffle_epi8(table, codes[1])]
}

impl<const OFFSET: i32> Load for Four<OFFSET> {
    const SHIFTED: u32 = OFFSET as u32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        low_and_high(unsafe { _mm512_loadu_si512(codes.add(z * 64).cast()) })
    }
}

impl<const OFFSET: i32> Load for Five<OFFSET> {
    const SHIFTED: u32 = OFFSET as u32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 64 bytes of fifth bits.
        let (nibbles, bits) = unsafe {
            (_mm512_loadu_si512(codes.add(z * 64).cast()), _mm512_loadu_si512(codes.add(256).cast()))
        };
        let [low, high] = low_and_high(nibbles);
        [
            _mm512_or_si512(low, to_bit_4(bits, 2 * z, 0x10)),
            _mm512_or_si512(high, to_bit_4(bits, 2 * z + 1, 0x10)),
        ]
    }
}

impl Load for Six {
    const SHIFTED: u32 = Self::OFFSET as u32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 2 x 64 bytes of bit pairs.
        let (nibbles, bits) = unsafe {
            (
                _mm512_loadu_si512(codes.add(z * 64).cast()),
                _mm512_loadu_si512(codes.add(256 + z / 2 * 64).cast()),
            )
        };
        let [low, high] = low_and_high(nibbles);
        let first = 2 * (2 * z % 4);
        [
            _mm512_or_si512(low, to_bit_4(bits, first, 0x30)),
            _mm512_or_si512(high, to_bit_4(bits, first + 2, 0x30)),
        ]
    }
}

impl Load for Byte {
    const SHIFTED: u32 = 128;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        let flip = _mm512_set1_epi8(-128);
        // SAFETY: a block has 8 x 64 bytes.
        unsafe {
            [
                _mm512_xor_si512(_mm512_loadu_si512(codes.add(z * 128).cast()), flip),
                _mm512_xor_si512(_mm512_loadu_si512(codes.add(z * 128 + 64).cast()), flip),
            ]
        }
    }
}

macro_rules! load_by_table {
    ($codes:ty, $table:expr) => {
        impl Load for $codes {
            const SHIFTED: u32 = 128;
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw")]
            unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
                // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
                look_up(&$table, low_and_high(unsafe { _mm512_loadu_si512(codes.add(z * 64).cast()) }))
            }
        }
    };
}
load_by_table!(FourNonLinear, NON_LINEAR);
load_by_table!(FourFloat, FLOAT4);

/// Unsigned codes of `C` expanded to a byte each, in the order of [`Byte`].
pub struct Expanded<C>(PhantomData<C>);

impl<C: Codes> Codes for Expanded<C> {
    const BYTES: usize = Byte::BYTES;
    const OFFSET: i32 = C::OFFSET;
}

impl<C: Load> Load for Expanded<C> {
    const SHIFTED: u32 = C::SHIFTED;
    const STREAMED: bool = false;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: a block has 8 x 64 bytes.
        unsafe {
            [
                _mm512_loadu_si512(codes.add(z * 128).cast()),
                _mm512_loadu_si512(codes.add(z * 128 + 64).cast()),
            ]
        }
    }
}

/// Expands the codes of a panel.
///
/// # Safety
/// The CPU has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn expand<C: Load>(codes: &[u8], expanded: &mut [u8]) {
    let blocks = codes.chunks_exact(C::BYTES).zip(expanded.as_chunks_mut::<{ Byte::BYTES }>().0);
    for (codes, expanded) in blocks {
        for (z, target) in expanded.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            // SAFETY: the source is one block of `C`, the target has 2 x 64 bytes.
            unsafe {
                let [even, odd] = C::pair(codes.as_ptr(), z);
                _mm512_storeu_si512(target.as_mut_ptr().cast(), even);
                _mm512_storeu_si512(target.as_mut_ptr().add(64).cast(), odd);
            }
        }
    }
}
