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
use scales::{Lanes, LoadScales};

use super::PanelArgs;
use super::activations::{BlockHeader, WHOLE};
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

/// One panel times `N` columns.
///
/// # Safety
/// `args` were checked by `PanelArgs::new`, and the CPU has what `D` names.
#[inline(always)]
unsafe fn panel<C: Load, S: LoadScales, D: Dots, const N: usize>(
    args: &PanelArgs<'_>,
    tile: &mut [[f32; PANEL_ROWS]],
) {
    let (codes, scales, x, headers) =
        (args.codes.as_ptr(), args.scales.as_ptr(), args.x.as_ptr(), args.headers.as_ptr());
    // SAFETY: the caller's promise of NEON.
    let mut sums = [[[unsafe { vdupq_n_f32(0.0) }; 2]; 2]; N];
    for block in 0..args.blocks {
        // SAFETY: `PanelArgs` holds `blocks` blocks of codes and scales, and `blocks * N` rows of inputs
        // and headers, so every offset below `block < blocks` is inside. Eight rows' codes of a group
        // are 32 bytes.
        unsafe {
            let codes = codes.add(block * C::BYTES);
            let x = x.add(block * N * BLOCK);
            let headers = headers.add(block * N);
            for half in 0..S::HALVES {
                let (part, halves) = if S::HALVES == 1 { (WHOLE, 0..2) } else { (half, half..half + 1) };
                for rows in 0..2 {
                    let dots = D::dots::<C, N>(codes.add(rows * 32), x, halves.clone());
                    let scales = S::load(scales, block, half, rows * 8);
                    scale::<C, S, N>(scales, headers, part, dots, rows, &mut sums);
                }
            }
        }
    }
    for (row, sums) in tile.iter_mut().zip(&sums) {
        for (four, sum) in row.as_chunks_mut::<4>().0.iter_mut().zip(sums.as_flattened()) {
            // SAFETY: `four` has room for four values.
            unsafe { vst1q_f32(four.as_mut_ptr(), *sum) };
        }
    }
}

/// sums\[column]\[rows] += dots · scales, and the minima's part.
///
/// # Safety
/// `headers` has `N` readable entries.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scale<C: Load, S: LoadScales, const N: usize>(
    (scale, minimum): (Lanes, Lanes),
    headers: *const BlockHeader,
    part: usize,
    dots: [Sums; N],
    rows: usize,
    sums: &mut [[Lanes; 2]; N],
) {
    for (column, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
        // SAFETY: column < N.
        let header = unsafe { &*headers.add(column) };
        let correction = vdupq_n_s32(header.negated[part] * C::OFFSET);
        for (four, sum) in sums[rows].iter_mut().enumerate() {
            let dot = if C::OFFSET == 0 { dots[four] } else { vaddq_s32(dots[four], correction) };
            *sum = vfmaq_f32(*sum, vcvtq_f32_s32(dot), vmulq_n_f32(scale[four], header.scale));
            if S::MINIMUM {
                *sum = vfmaq_n_f32(*sum, minimum[four], header.weighted[part]);
            }
        }
    }
}

macro_rules! compile_for {
    ($name:ident, $dots:ty, $features:literal) => {
        /// # Safety
        /// As [`panel`].
        #[target_feature(enable = $features)]
        unsafe fn $name<C: Load, S: LoadScales, const N: usize>(
            args: &PanelArgs<'_>,
            tile: &mut [[f32; PANEL_ROWS]],
        ) {
            // SAFETY: the caller's promise.
            unsafe { panel::<C, S, $dots, N>(args, tile) }
        }
    };
}
compile_for!(widening, Widening, "neon");
compile_for!(dotprod, Dotprod, "neon,dotprod");
compile_for!(i8mm, I8mm, "neon,dotprod,i8mm");

/// The kernel of a layout for a column count out of [`widths`].
pub fn kernel(isa: Isa, packing: Packing, width: usize) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => of_layout::<$codes, $scales>(isa, width),)*
            }
        };
    }
    for_each_packing!(pick)
}

fn of_layout<C: Load, S: LoadScales>(isa: Isa, width: usize) -> super::UnsafePanelKernel {
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
