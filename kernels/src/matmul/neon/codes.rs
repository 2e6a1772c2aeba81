//! Packed codes to signed bytes, eight rows of a group in two registers.

use std::arch::aarch64::*;

use super::super::layout::*;

/// One group of eight rows: 4 codes of each.
pub type Group = [int8x16_t; 2];
pub trait Load: Codes {
    /// Pairs of groups whose products fit into 16 bits together; 0: not even two products of two groups.
    const PAIRS: usize;
    /// Groups `2z` and `2z + 1` of eight rows.
    ///
    /// # Safety
    /// `codes` points at those rows' codes in a block: `Self::BYTES - 32` bytes are readable; z < 4.
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2];
}

/// # Safety
/// `at` has 32 readable bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(at: *const u8) -> [uint8x16_t; 2] {
    // SAFETY: the caller's promise.
    unsafe { [vld1q_u8(at), vld1q_u8(at.add(16))] }
}

#[inline]
#[target_feature(enable = "neon")]
fn low_and_high(nibbles: [uint8x16_t; 2]) -> [[uint8x16_t; 2]; 2] {
    let mask = vdupq_n_u8(0x0F);
    [
        [vandq_u8(nibbles[0], mask), vandq_u8(nibbles[1], mask)],
        [vshrq_n_u8::<4>(nibbles[0]), vshrq_n_u8::<4>(nibbles[1])],
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn signed(codes: [uint8x16_t; 2]) -> Group {
    [vreinterpretq_s8_u8(codes[0]), vreinterpretq_s8_u8(codes[1])]
}

/// `codes` with the bit(s) at `from` of each byte of `bits` moved to bit 4 and added.
#[inline]
#[target_feature(enable = "neon")]
fn with_bits(codes: [uint8x16_t; 2], bits: [uint8x16_t; 2], from: usize, mask: u8) -> Group {
    // Negative amounts shift right.
    let amount = vdupq_n_s8(4 - from as i8);
    let mask = vdupq_n_u8(mask);
    let join = |codes, bits| vorrq_u8(codes, vandq_u8(vshlq_u8(bits, amount), mask));
    signed([join(codes[0], bits[0]), join(codes[1], bits[1])])
}

impl<const OFFSET: i32> Load for Four<OFFSET> {
    // 8 groups of pairs: 15 · 127 · 2 · 8 = 30,480.
    const PAIRS: usize = 4;
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        let [low, high] = low_and_high(unsafe { load(codes.add(z * 64)) });
        [signed(low), signed(high)]
    }
}

impl<const OFFSET: i32> Load for Five<OFFSET> {
    // 4 groups of pairs: 31 · 127 · 2 · 4 = 31,496.
    const PAIRS: usize = 2;
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 64 bytes of fifth bits.
        let (nibbles, bits) = unsafe { (load(codes.add(z * 64)), load(codes.add(256))) };
        let [low, high] = low_and_high(nibbles);
        [with_bits(low, bits, 2 * z, 0x10), with_bits(high, bits, 2 * z + 1, 0x10)]
    }
}

impl Load for Six {
    // 2 groups of pairs: 63 · 127 · 2 · 2 = 32,004.
    const PAIRS: usize = 1;
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 2 x 64 bytes of bit pairs.
        let (nibbles, bits) = unsafe { (load(codes.add(z * 64)), load(codes.add(256 + z / 2 * 64))) };
        let [low, high] = low_and_high(nibbles);
        let first = 2 * (2 * z % 4);
        [with_bits(low, bits, first, 0x30), with_bits(high, bits, first + 2, 0x30)]
    }
}

impl Load for Byte {
    // One group of pairs: 128 · 127 · 2 = 32,512.
    const PAIRS: usize = 0;
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 8 x 64 bytes.
        unsafe { [signed(load(codes.add(z * 128))), signed(load(codes.add(z * 128 + 64)))] }
    }
}

macro_rules! load_by_table {
    ($codes:ty, $table:expr, $pairs:expr) => {
        impl Load for $codes {
            const PAIRS: usize = $pairs;
            #[inline]
            #[target_feature(enable = "neon")]
            unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
                // SAFETY: the table has 16 bytes; z < 4 and a block has 4 x 64 bytes of nibbles.
                let (table, nibbles) = unsafe { (vld1q_s8($table.as_ptr()), load(codes.add(z * 64))) };
                let [low, high] = low_and_high(nibbles);
                let find = |codes| vqtbl1q_s8(table, codes);
                [[find(low[0]), find(low[1])], [find(high[0]), find(high[1])]]
            }
        }
    };
}
// One group of pairs: 127 · 127 · 2 = 32,258.
load_by_table!(FourNonLinear, NON_LINEAR, 0);
// 8 groups of pairs: 12 · 127 · 2 · 8 = 24,384.
load_by_table!(FourFloat, FLOAT4, 4);
