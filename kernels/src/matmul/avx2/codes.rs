//! Codes of each layout from a panel to registers, packed or expanded to a byte each.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::PREFETCH_BYTES;
use super::super::layout::*;

/// The two registers of one group.
pub type Group = [__m256i; 2];

/// How products with AVX2 are summed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// In 16 bits over that many groups, which fit there together.
    Plain(usize),
    /// The same of codes that are larger than their values, but a sum begins with what that makes it too
    /// large by. It may wrap around on its way; at its end it is that of the values, which fits where one of
    /// the codes would not.
    Shifted(usize),
    /// Of signed codes that leave no room for a second sum in 16 bits, group by group.
    Signed,
}

pub trait Load: Codes {
    /// Rows of inputs from which on expanding codes is faster than unpacking them for every few, with AVX2.
    const EXPAND_ROWS: usize;
    const PRODUCTS: Products;
    /// What codes as loaded are larger by than their values; 0 for signed ones.
    const SHIFT: i32;
    /// Groups `2z` and `2z + 1` of the block at `codes`.
    ///
    /// # Safety
    /// `codes` has `Self::BYTES` readable bytes, z < 4; the CPU has AVX2.
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2];
}

/// # Safety
/// `at` has 64 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> Group {
    // SAFETY: the caller's promise.
    unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn low_and_high(nibbles: Group) -> [Group; 2] {
    let mask = _mm256_set1_epi8(0x0F);
    let low = |v| _mm256_and_si256(v, mask);
    let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
    [[low(nibbles[0]), low(nibbles[1])], [high(nibbles[0]), high(nibbles[1])]]
}

/// `group` with bit(s) at `from` of each byte of `bits` moved to bit 4 and added.
#[inline]
#[target_feature(enable = "avx2")]
fn with_bits(group: Group, bits: Group, from: usize, mask: i8) -> Group {
    let mask = _mm256_set1_epi8(mask);
    let join = |codes, bits| {
        let moved = if from <= 4 {
            _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - from as i32))
        } else {
            _mm256_srl_epi16(bits, _mm_cvtsi32_si128(from as i32 - 4))
        };
        _mm256_or_si256(codes, _mm256_and_si256(moved, mask))
    };
    [join(group[0], bits[0]), join(group[1], bits[1])]
}

impl<const OFFSET: i32> Load for Four<OFFSET> {
    const EXPAND_ROWS: usize = 32;
    // 15 · 127 · 2 · 8 = 30,480.
    const PRODUCTS: Products = Products::Plain(8);
    const SHIFT: i32 = OFFSET;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        low_and_high(unsafe { load(codes.add(z * 64)) })
    }
}

impl<const OFFSET: i32> Load for Five<OFFSET> {
    const EXPAND_ROWS: usize = 16;
    // 31 · 127 · 2 · 4 = 31,496.
    const PRODUCTS: Products = Products::Plain(4);
    const SHIFT: i32 = OFFSET;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 64 bytes of fifth bits.
        let (nibbles, bits) = unsafe { (load(codes.add(z * 64)), load(codes.add(256))) };
        let [low, high] = low_and_high(nibbles);
        [with_bits(low, bits, 2 * z, 0x10), with_bits(high, bits, 2 * z + 1, 0x10)]
    }
}

impl Load for Six {
    const EXPAND_ROWS: usize = 12;
    // 32 · 127 · 2 · 4 = 32,512.
    const PRODUCTS: Products = Products::Shifted(4);
    const SHIFT: i32 = Self::OFFSET;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 2 x 64 bytes of bit pairs.
        let (nibbles, bits) = unsafe { (load(codes.add(z * 64)), load(codes.add(256 + z / 2 * 64))) };
        let [low, high] = low_and_high(nibbles);
        let first = 2 * (2 * z % 4);
        [with_bits(low, bits, first, 0x30), with_bits(high, bits, first + 2, 0x30)]
    }
}

impl Load for Byte {
    /// They are expanded already, and have no expander.
    const EXPAND_ROWS: usize = usize::MAX;
    // 128 · 127 · 2 = 32,512.
    const PRODUCTS: Products = Products::Signed;
    const SHIFT: i32 = 0;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 8 x 64 bytes.
        unsafe { [load(codes.add(z * 128)), load(codes.add(z * 128 + 64))] }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn look_up(table: &[i8; 16], codes: [Group; 2]) -> [Group; 2] {
    // SAFETY: the table has 16 bytes.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let find = |codes| _mm256_shuffle_epi8(table, codes);
    [[find(codes[0][0]), find(codes[0][1])], [find(codes[1][0]), find(codes[1][1])]]
}

impl Load for FourNonLinear {
    const EXPAND_ROWS: usize = 32;
    const PRODUCTS: Products = Products::Signed;
    const SHIFT: i32 = 0;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        look_up(&NON_LINEAR, low_and_high(unsafe { load(codes.add(z * 64)) }))
    }
}

impl Load for FourFloat {
    const EXPAND_ROWS: usize = 24;
    // 12 · 127 · 2 · 8 = 24,384.
    const PRODUCTS: Products = Products::Shifted(8);
    const SHIFT: i32 = 16;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        const TABLE: [i8; 16] = {
            let mut table = FLOAT4;
            let mut code = 0;
            while code < table.len() {
                table[code] += <FourFloat as Load>::SHIFT as i8;
                code += 1;
            }
            table
        };
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        look_up(&TABLE, low_and_high(unsafe { load(codes.add(z * 64)) }))
    }
}

/// Codes of `C` expanded to a byte each, in the order of [`Byte`].
pub struct Expanded<C>(PhantomData<C>);

impl<C: Codes> Codes for Expanded<C> {
    const BYTES: usize = Byte::BYTES;
    const OFFSET: i32 = C::OFFSET;
}

impl<C: Load> Load for Expanded<C> {
    const EXPAND_ROWS: usize = C::EXPAND_ROWS;
    const PRODUCTS: Products = C::PRODUCTS;
    const SHIFT: i32 = C::SHIFT;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 8 x 64 bytes.
        unsafe { [load(codes.add(z * 128)), load(codes.add(z * 128 + 64))] }
    }
}

/// Asks for the `bytes` that come a while after `codes`, which has no effect but on caches.
#[inline]
#[target_feature(enable = "avx2")]
pub fn prefetch(codes: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH_BYTES + line).cast());
    }
}

/// Expands the codes of a panel.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn expand<C: Load>(codes: &[u8], expanded: &mut [u8]) {
    let blocks = codes.chunks_exact(C::BYTES).zip(expanded.as_chunks_mut::<{ Byte::BYTES }>().0);
    for (codes, expanded) in blocks {
        prefetch(codes.as_ptr(), C::BYTES);
        for z in 0..4 {
            // SAFETY: the source is one block of `C`, the target has 8 x 64 bytes.
            unsafe {
                let groups = C::pair(codes.as_ptr(), z);
                let target: *mut __m256i = expanded.as_mut_ptr().add(z * 128).cast();
                for (at, register) in groups.as_flattened().iter().enumerate() {
                    _mm256_storeu_si256(target.add(at), *register);
                }
            }
        }
    }
}
