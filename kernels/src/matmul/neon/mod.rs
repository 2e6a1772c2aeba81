//! The quantised product with NEON, eight rows of a panel at a time: two registers hold their group.
//!
//! Every code fits into a signed byte once it is unpacked, so all layouts share three ways to the same
//! integers: [`Widening`] multiplies to 16 bits and adds there as long as nothing can overflow (every
//! aarch64), [`Dotprod`] uses `sdot`, and [`I8mm`] uses `smmla`, which takes eight inputs of two rows
//! and two columns.

mod codes;
mod dots;
mod scales;

use std::arch::aarch64::*;

use codes::Load;
use dots::{Dotprod, Dots, I8mm, Sums, Widening};
pub use dots::{sdot, smmla};
use scales::{Lanes, LoadScales, SuperBlock};

use super::activations::{HALF_OFFSET, Headers, OFFSET};
use super::kernel::{PanelArgs, UnsafePanelKernel};
use super::layout::*;
use crate::Isa;

/// Column counts with a kernel of their own, descending. Sums of eight rows are two registers a column:
/// eight columns of them, their inputs and the weights just fit into 32.
pub fn widths(isa: Isa) -> &'static [usize] {
    match isa {
        // Sums in 16 bits take twice the registers.
        Isa::Neon => &[4, 3, 2, 1],
        _ => &[8, 4, 3, 2, 1],
    }
}

/// Which loop goes with which scales.
trait Panel: Scales {
    /// One panel times `N` columns. Always inlined into a function that names the features.
    ///
    /// # Safety
    /// `args` were checked by `PanelArgs::of_group` and `PanelArgs::set_panel`, and the CPU
    /// has what `D` names.
    unsafe fn panel<C: Load, D: Dots, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]);
}

/// Eight rows' codes of a group are 32 bytes.
const CODES_OF_EIGHT: usize = 32;

macro_rules! panel_with_float_scales {
    ($scales:ty $(, $minimum:ident)?) => {
        impl $(<const $minimum: bool>)? Panel for $scales {
            #[inline(always)]
            unsafe fn panel<C: Load, D: Dots, const N: usize>(
                args: &PanelArgs<'_>,
                tile: &mut [[f32; PANEL_ROWS]],
            ) {
                for rows in 0..2 {
                    // SAFETY: `PanelArgs` holds `blocks` blocks of codes and scales, and `blocks * N` rows
                    // of inputs and headers, so every offset below `block < blocks` is inside.
                    unsafe {
                        let mut sums = [zeros(); N];
                        for block in 0..args.blocks {
                            let (codes, x) = block_of::<C, N>(args, block, rows);
                            let dots = D::dots::<C, N>(codes, x, 0..2);
                            let scales = <$scales>::load(args.scales.as_ptr(), block, rows * 8);
                            scale::<C, Self, N>(scales, &args.headers, block, dots, &mut sums);
                        }
                        store(tile, rows, sums);
                    }
                }
            }
        }
    };
}
panel_with_float_scales!(Direct<MINIMUM>, MINIMUM);
panel_with_float_scales!(Exponent);

impl<const HALVES: usize, const MINIMUM: bool> Panel for Super<HALVES, MINIMUM> {
    #[inline(always)]
    unsafe fn panel<C: Load, D: Dots, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        for rows in 0..2 {
            // SAFETY: as with float scales; blocks are whole super-blocks.
            unsafe {
                let mut sums = [zeros(); N];
                for index in 0..args.blocks / SUPER_BLOCKS {
                    let scales = SuperBlock::<HALVES, MINIMUM>::new(args.scales.as_ptr(), index, rows * 8);
                    let mut parts = [zeros(); N];
                    for block in 0..SUPER_BLOCKS {
                        let at = index * SUPER_BLOCKS + block;
                        let (codes, x) = block_of::<C, N>(args, at, rows);
                        let mut scaled = [[vdupq_n_s32(0); 2]; N];
                        for half in 0..HALVES {
                            let halves = if HALVES == 1 { 0..2 } else { half..half + 1 };
                            let dots = D::dots::<C, N>(codes, x, halves);
                            let scale = scales.scales(block, half);
                            for (column, (scaled, dots)) in scaled.iter_mut().zip(dots).enumerate() {
                                let dots = match HALVES {
                                    1 => without_offset::<C>(dots, &args.headers, at * N + column),
                                    _ => half_without_offset::<C>(dots, &args.headers, at * N + column, half),
                                };
                                *scaled = [0, 1].map(|four| vmlaq_s32(scaled[four], dots[four], scale[four]));
                            }
                        }
                        for (column, (part, scaled)) in parts.iter_mut().zip(scaled).enumerate() {
                            let input_scale = *args.headers.scales.as_ptr().add(at * N + column);
                            add_multiplied(part, scaled.map(|four| vcvtq_f32_s32(four)), input_scale);
                        }
                    }
                    finish_super_block(&scales, &args.headers, index, parts, &mut sums);
                }
                store(tile, rows, sums);
            }
        }
    }
}

/// Adds a super-block's products and minima, each times their factor.
///
/// # Safety
/// `headers` has entries of more than `index` super-blocks of `N` columns; the CPU has NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn finish_super_block<const HALVES: usize, const MINIMUM: bool, const N: usize>(
    scales: &SuperBlock<HALVES, MINIMUM>,
    headers: &Headers<'_>,
    index: usize,
    parts: [Lanes; N],
    sums: &mut [Lanes; N],
) {
    let add = |sums: &mut [Lanes; N], parts: [Lanes; N], factor: Lanes| {
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = [0, 1].map(|four| vfmaq_f32(sum[four], part[four], factor[four]));
        }
    };
    add(sums, parts, scales.factor());
    if !MINIMUM {
        return;
    }
    let mut parts = [zeros(); N];
    for block in 0..SUPER_BLOCKS {
        for half in 0..HALVES {
            let minima = scales.minima(block, half);
            for (column, part) in parts.iter_mut().enumerate() {
                let at = (index * SUPER_BLOCKS + block) * N + column;
                // SAFETY: the caller's promise.
                let weighted = unsafe {
                    match HALVES {
                        1 => *headers.weighted.as_ptr().add(at),
                        _ => weighted_half(headers, at, half),
                    }
                };
                add_multiplied(part, minima, weighted);
            }
        }
    }
    add(sums, parts, scales.minimum_factor());
}

#[inline]
#[target_feature(enable = "neon")]
fn zeros() -> Lanes {
    [vdupq_n_f32(0.0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn add_multiplied(sum: &mut Lanes, values: Lanes, factor: f32) {
    *sum = [0, 1].map(|four| vfmaq_n_f32(sum[four], values[four], factor));
}

/// scale · sum of the codes of half a block.
///
/// # Safety
/// `headers` has more than `at` entries.
#[inline(always)]
unsafe fn weighted_half(headers: &Headers<'_>, at: usize, half: usize) -> f32 {
    // SAFETY: the caller's promise.
    let (scale, offset) =
        unsafe { (*headers.scales.as_ptr().add(at), (*headers.half_offsets.as_ptr().add(at))[half]) };
    (offset / -HALF_OFFSET) as f32 * scale
}

/// Codes of eight rows, and inputs of a block.
///
/// # Safety
/// `block < args.blocks`, `rows` is 0 or 1.
#[inline(always)]
unsafe fn block_of<C: Load, const N: usize>(
    args: &PanelArgs<'_>,
    block: usize,
    rows: usize,
) -> (*const u8, *const i8) {
    // SAFETY: the caller's promise; `PanelArgs` holds that many bytes.
    unsafe {
        (
            args.codes.as_ptr().add(block * C::BYTES + rows * CODES_OF_EIGHT),
            args.x.as_ptr().add(block * N * BLOCK),
        )
    }
}

/// Writes eight rows of each column.
///
/// # Safety
/// The CPU has NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const N: usize>(tile: &mut [[f32; PANEL_ROWS]], rows: usize, sums: [Lanes; N]) {
    for (row, sums) in tile.iter_mut().zip(sums) {
        for (four, sum) in row[rows * 8..][..8].as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            // SAFETY: `four` has room for four values.
            unsafe { vst1q_f32(four.as_mut_ptr(), sum) };
        }
    }
}

/// The sums over a block without the offset of its codes.
///
/// # Safety
/// `headers` has more than `at` entries.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn without_offset<C: Load>(dots: Sums, headers: &Headers<'_>, at: usize) -> Sums {
    if C::OFFSET == 0 {
        return dots;
    }
    // SAFETY: the caller's promise.
    let offset = unsafe { *headers.offsets.as_ptr().add(at) };
    let correction = vdupq_n_s32(offset / (OFFSET / C::OFFSET));
    dots.map(|four| vaddq_s32(four, correction))
}

/// As [`without_offset`], of sums over one half.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn half_without_offset<C: Load>(dots: Sums, headers: &Headers<'_>, at: usize, half: usize) -> Sums {
    debug_assert!(C::OFFSET == 0 || C::OFFSET == HALF_OFFSET);
    if C::OFFSET == 0 {
        return dots;
    }
    // SAFETY: the caller's promise.
    let correction = vdupq_n_s32(unsafe { (*headers.half_offsets.as_ptr().add(at))[half] });
    dots.map(|four| vaddq_s32(four, correction))
}

/// sums\[column\] += dots · scales, and the minima's part.
///
/// # Safety
/// `headers` has entries of more than `block` blocks of `N` columns.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scale<C: Load, S: Scales, const N: usize>(
    (scale, minimum): (Lanes, Lanes),
    headers: &Headers<'_>,
    block: usize,
    dots: [Sums; N],
    sums: &mut [Lanes; N],
) {
    for (column, (sum, dots)) in sums.iter_mut().zip(dots).enumerate() {
        let at = block * N + column;
        // SAFETY: the caller's promise.
        let (dots, input_scale) =
            unsafe { (without_offset::<C>(dots, headers, at), *headers.scales.as_ptr().add(at)) };
        for four in 0..2 {
            let factor = vmulq_n_f32(scale[four], input_scale);
            sum[four] = vfmaq_f32(sum[four], vcvtq_f32_s32(dots[four]), factor);
        }
        if S::MINIMUM {
            // SAFETY: as above.
            add_multiplied(sum, minimum, unsafe { *headers.weighted.as_ptr().add(at) });
        }
    }
}

macro_rules! compile_for {
    ($name:ident, $dots:ty, $features:literal) => {
        /// # Safety
        /// As [`Panel::panel`].
        #[target_feature(enable = $features)]
        unsafe fn $name<C: Load, S: Panel, const N: usize>(
            args: &PanelArgs<'_>,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            // SAFETY: the caller's promise.
            unsafe { S::panel::<C, $dots, N>(args, tile) }
        }
    };
}
compile_for!(widening, Widening, "neon");
compile_for!(dotprod, Dotprod, "neon,dotprod");
compile_for!(i8mm, I8mm, "neon,dotprod,i8mm");

/// The kernel of a layout for a column count out of [`widths`].
pub fn kernel(isa: Isa, packing: Packing, width: usize) -> UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => of_layout::<$codes, $scales>(isa, width),)*
            }
        };
    }
    for_each_packing!(pick)
}

fn of_layout<C: Load, S: Panel>(isa: Isa, width: usize) -> UnsafePanelKernel {
    macro_rules! width {
        ($kernel:ident: $($n:literal)*) => {
            match width { $($n => $kernel::<C, S, $n>,)* _ => $kernel::<C, S, 1> }
        };
    }
    match isa {
        Isa::Neon => width!(widening: 4 3 2),
        Isa::NeonDotprod => width!(dotprod: 8 4 3 2),
        _ => width!(i8mm: 8 4 3 2),
    }
}
