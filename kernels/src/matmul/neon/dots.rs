//! Integer dot products of eight rows, in the three ways there are.
//!
//! Their loops are always inlined into the kernel that names the features: a function with features of
//! its own could become a call for each block. `sdot` and `smmla` are assembly, as their intrinsics are
//! not stable.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::super::layout::BLOCK;
use super::codes::{Group, Load};

/// One integer for each of eight rows.
pub type Sums = [int32x4_t; 2];

/// A way to integer dot products.
pub trait Dots {
    /// Of eight rows with `N` columns, over inputs `16 · halves` of a block.
    ///
    /// # Safety
    /// `codes` as for [`Load::pair`], `x` has `N` times 32 readable bytes, `halves` lies in 0..2; the CPU
    /// has the features that the implementation names.
    unsafe fn dots<C: Load, const N: usize>(
        codes: *const u8,
        x: *const i8,
        halves: Range<usize>,
    ) -> [Sums; N];
}

#[inline]
#[target_feature(enable = "neon")]
fn zeros<const N: usize>() -> [Sums; N] {
    [[vdupq_n_s32(0); 2]; N]
}

/// Products in 16 bits, with `neon`.
pub struct Widening;

/// Products of a group's two registers, eight rows' four each, in 16 bits.
type Narrow = [[int16x8_t; 2]; 2];

impl Dots for Widening {
    #[inline(always)]
    unsafe fn dots<C: Load, const N: usize>(
        codes: *const u8,
        x: *const i8,
        halves: Range<usize>,
    ) -> [Sums; N] {
        // SAFETY: the caller's promise; z < 4, and a column has 32 bytes.
        unsafe {
            let mut sums = zeros::<N>();
            for first in (2 * halves.start..2 * halves.end).step_by(C::PAIRS.clamp(1, 2 * halves.len())) {
                let mut narrow = no_products::<N>();
                for z in first..first + C::PAIRS.clamp(1, 2 * halves.len()) {
                    let [even, odd] = C::pair(codes, z);
                    add_products(even, x.add(z * 8), &mut narrow);
                    if C::PAIRS == 0 {
                        widen(&narrow, &mut sums);
                        narrow = no_products::<N>();
                    }
                    add_products(odd, x.add(z * 8 + 4), &mut narrow);
                }
                widen(&narrow, &mut sums);
            }
            sums
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn no_products<const N: usize>() -> [Narrow; N] {
    [[[vdupq_n_s16(0); 2]; 2]; N]
}

/// narrow\[column] += the group's products with the column's four inputs.
///
/// # Safety
/// `x` has 4 readable bytes in each of `N` columns.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_products<const N: usize>(group: Group, x: *const i8, narrow: &mut [Narrow; N]) {
    for (column, narrow) in narrow.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let four = unsafe { x.add(column * BLOCK).cast::<i32>().read_unaligned() };
        let input = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (sums, weights) in narrow.iter_mut().zip(group) {
            sums[0] = vmlal_s8(sums[0], vget_low_s8(weights), vget_low_s8(input));
            sums[1] = vmlal_high_s8(sums[1], weights, input);
        }
    }
}

/// Adds each row's four products of 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn widen<const N: usize>(narrow: &[Narrow; N], sums: &mut [Sums; N]) {
    for (sums, narrow) in sums.iter_mut().zip(narrow) {
        for (sum, [low, high]) in sums.iter_mut().zip(narrow) {
            *sum = vpadalq_s16(*sum, vpaddq_s16(*low, *high));
        }
    }
}

/// `sdot`, with `neon` and `dotprod`.
pub struct Dotprod;

impl Dots for Dotprod {
    #[inline(always)]
    unsafe fn dots<C: Load, const N: usize>(
        codes: *const u8,
        x: *const i8,
        halves: Range<usize>,
    ) -> [Sums; N] {
        // SAFETY: the caller's promise; 2 · half + 1 < 4, and a column has 32 bytes.
        unsafe {
            let mut sums = zeros::<N>();
            for half in halves {
                let mut inputs = [vdupq_n_s8(0); N];
                for (column, input) in inputs.iter_mut().enumerate() {
                    *input = vld1q_s8(x.add(column * BLOCK + half * 16));
                }
                let [a, b] = C::pair(codes, 2 * half);
                add_lane::<0, N>(a, &inputs, &mut sums);
                add_lane::<1, N>(b, &inputs, &mut sums);
                let [c, d] = C::pair(codes, 2 * half + 1);
                add_lane::<2, N>(c, &inputs, &mut sums);
                add_lane::<3, N>(d, &inputs, &mut sums);
            }
            sums
        }
    }
}

/// sums += group · the four inputs in `LANE` of each column.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_lane<const LANE: i32, const N: usize>(group: Group, inputs: &[int8x16_t; N], sums: &mut [Sums; N]) {
    for (sums, input) in sums.iter_mut().zip(inputs) {
        for (sum, weights) in sums.iter_mut().zip(group) {
            sdot::<LANE>(sum, weights, *input);
        }
    }
}

/// sums += weights (4 rows x 4 inputs) · the four inputs in `LANE`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub fn sdot<const LANE: i32>(sums: &mut int32x4_t, weights: int8x16_t, inputs: int8x16_t) {
    // SAFETY: reads and writes registers only; this function may use `dotprod`.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {inputs:v}.4b[{lane}]",
            sums = inout(vreg) *sums,
            weights = in(vreg) weights,
            inputs = in(vreg) inputs,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// `smmla` for even counts of columns and `sdot` for odd ones, with `neon`, `dotprod` and `i8mm`.
pub struct I8mm;

impl Dots for I8mm {
    #[inline(always)]
    unsafe fn dots<C: Load, const N: usize>(
        codes: *const u8,
        x: *const i8,
        halves: Range<usize>,
    ) -> [Sums; N] {
        // SAFETY: the caller's promise; z < 4, and a column has 32 bytes.
        unsafe {
            if N % 2 == 1 {
                return Dotprod::dots::<C, N>(codes, x, halves);
            }
            // Of columns c and c + 1: `tiles[c]` has rows 0 to 3, `tiles[c + 1]` rows 4 to 7, two by two.
            let mut tiles = zeros::<N>();
            for z in 2 * halves.start..2 * halves.end {
                let [a, b] = C::pair(codes, z);
                let rows = [join_rows(a[0], b[0]), join_rows(a[1], b[1])];
                for (pair, tiles) in tiles.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let at = x.add(pair * 2 * BLOCK + z * 8);
                    let inputs = vcombine_s8(vld1_s8(at), vld1_s8(at.add(BLOCK)));
                    multiply_rows(rows, inputs, tiles);
                }
            }
            separate_columns(&mut tiles);
            tiles
        }
    }
}

/// Four rows' inputs 0-3 and 4-7 as two pairs of rows, eight inputs each.
#[inline]
#[target_feature(enable = "neon")]
fn join_rows(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
    [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))]
}

/// tiles (2 rows x 2 columns each) += rows (2 x 8 inputs each) · columns (2 x 8 inputs).
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn multiply_rows(rows: [[int8x16_t; 2]; 2], columns: int8x16_t, tiles: &mut [Sums; 2]) {
    for (tile, rows) in tiles.as_flattened_mut().iter_mut().zip(rows.as_flattened()) {
        smmla(tile, *rows, columns);
    }
}

/// tile (2 rows x 2 columns) += rows (2 x 8 inputs) · columns (2 x 8 inputs).
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub fn smmla(tile: &mut int32x4_t, rows: int8x16_t, columns: int8x16_t) {
    // SAFETY: reads and writes registers only; this function may use `i8mm`.
    unsafe {
        asm!(
            "smmla {tile:v}.4s, {rows:v}.16b, {columns:v}.16b",
            tile = inout(vreg) *tile,
            rows = in(vreg) rows,
            columns = in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

/// From sums of two rows and two columns to sums of eight rows a column.
#[inline]
#[target_feature(enable = "neon")]
fn separate_columns<const N: usize>(tiles: &mut [Sums; N]) {
    for tiles in tiles.as_chunks_mut::<2>().0 {
        let [[a, b], [c, d]] = *tiles;
        *tiles = [[vuzp1q_s32(a, b), vuzp1q_s32(c, d)], [vuzp2q_s32(a, b), vuzp2q_s32(c, d)]];
    }
}
