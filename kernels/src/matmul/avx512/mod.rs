//! The quantised product with AVX-512 VNNI: one register holds a group of a whole panel, so a block is
//! eight `vpdpbusd` a column.
//!
//! Weights are the unsigned operand, inputs the signed one. A constant offset of the codes costs
//! nothing: the integer sums start from it instead of from zero.

mod codes;
mod scales;

use std::arch::x86_64::*;

use codes::{Expanded, Load, expand};
use scales::{LoadScales, load_bytes, load_halves};

use super::PREFETCH_BYTES;
use super::activations::{HALF_OFFSET, Headers, OFFSET};
use super::kernel::{EXPAND_ROWS, Expand, Expander, PanelArgs, UnsafePanelKernel};
use super::layout::*;

/// Column counts with a kernel of their own, descending. 12 columns leave 8 of the 32 registers for
/// weights, scales and one broadcast.
const WIDTHS: &[usize] = &[12, 8, 6, 4, 3, 2, 1];
/// The same for as many rows as two groups of about the same width take: threads that share the rows then
/// write no cache line in common, and no narrow group reads weights that a wide one hardly waited for.
const EVEN_WIDTHS: &[usize] = &[8, 6, 4, 3, 2, 1];

/// Column counts for `rows` quantised rows.
pub fn widths(rows: usize) -> &'static [usize] {
    match rows {
        14 | 16 => EVEN_WIDTHS,
        _ => WIDTHS,
    }
}

/// Which loop goes with which scales.
trait Panel: Scales {
    /// One panel times `N` columns.
    ///
    /// # Safety
    /// `args` were checked by `PanelArgs::of_group` and `PanelArgs::set_panel`, and the CPU
    /// has the features named below.
    unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]);
}

macro_rules! panel_with_float_scales {
    ($scales:ty $(, $minimum:ident)?) => {
        impl $(<const $minimum: bool>)? Panel for $scales {
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
                let mut sums = [_mm512_setzero_ps(); N];
                for block in 0..args.blocks {
                    // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales,
                    // and `blocks * N` rows of inputs and headers.
                    unsafe {
                        let (codes, x) = block_of::<C, N>(args, block);
                        let mut dots = start::<C, N, N>(&args.headers, block);
                        for z in 0..4 {
                            accumulate::<C, N>(codes, x, z, &mut dots);
                        }
                        let scales = <$scales>::load(args.scales.as_ptr(), block);
                        scale::<Self, N>(scales, &args.headers, block, dots, &mut sums);
                    }
                }
                // SAFETY: `tile` has N rows.
                unsafe { store(tile, sums) };
            }
        }
    };
}
panel_with_float_scales!(Direct<MINIMUM>, MINIMUM);
panel_with_float_scales!(Exponent);

impl<const HALVES: usize, const MINIMUM: bool> Panel for Super<HALVES, MINIMUM> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        // Two scales a block take a third register a column: a dozen columns would go through the stack.
        const HALF: usize = 6;
        if HALVES == 2 && N == 2 * HALF {
            for first in [0, HALF] {
                // SAFETY: the caller's promise, for columns `first..first + HALF` of N.
                unsafe { Self::columns::<C, N, HALF>(&args.skip_columns(first), &mut tile[first..]) };
            }
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { Self::columns::<C, N, N>(args, tile) };
    }
}

impl<const HALVES: usize, const MINIMUM: bool> Super<HALVES, MINIMUM> {
    /// One panel times `N` columns out of a group of `G`.
    ///
    /// # Safety
    /// As [`Panel::panel`], with inputs and headers of a group of `G`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn columns<C: Load, const G: usize, const N: usize>(
        args: &PanelArgs<'_>,
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        let mut sums = [_mm512_setzero_ps(); N];
        for index in 0..args.blocks / SUPER_BLOCKS {
            // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and
            // `blocks * G` rows of inputs and headers.
            unsafe {
                let scales = args.scales.as_ptr().add(index * Self::STRIDE);
                let mut parts = [_mm512_setzero_ps(); N];
                for block in 0..SUPER_BLOCKS {
                    let at = index * SUPER_BLOCKS + block;
                    let (codes, x) = block_of::<C, G>(args, at);
                    let mut scaled = [_mm512_setzero_ps(); N];
                    for half in 0..HALVES {
                        let mut dots = match HALVES {
                            1 => start::<C, G, N>(&args.headers, at),
                            _ => start_half::<C, G, N>(&args.headers, at, half),
                        };
                        for z in 4 / HALVES * half..4 / HALVES * (half + 1) {
                            accumulate::<C, N>(codes, x, z, &mut dots);
                        }
                        let scale = load_bytes(scales.add(Self::scales_at(block, half)));
                        for (scaled, dot) in scaled.iter_mut().zip(dots) {
                            *scaled = match half {
                                0 => _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale),
                                _ => _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, *scaled),
                            };
                        }
                    }
                    for (column, part) in parts.iter_mut().enumerate() {
                        let input_scale = _mm512_set1_ps(*args.headers.scales.as_ptr().add(at * G + column));
                        *part = _mm512_fmadd_ps(scaled[column], input_scale, *part);
                    }
                }
                finish_super_block::<HALVES, MINIMUM, G, N>(scales, &args.headers, index, parts, &mut sums);
            }
        }
        // SAFETY: `tile` has N rows.
        unsafe { store(tile, sums) };
    }
}

/// Adds a super-block's products and minima, each times their factor.
///
/// # Safety
/// `scales` has the bytes of a super-block, `headers` entries of more than `index` super-blocks.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish_super_block<const HALVES: usize, const MINIMUM: bool, const G: usize, const N: usize>(
    scales: *const u8,
    headers: &Headers<'_>,
    index: usize,
    parts: [__m512; N],
    sums: &mut [__m512; N],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let factor = load_halves(scales);
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm512_fmadd_ps(part, factor, *sum);
        }
        if !MINIMUM {
            return;
        }
        let mut parts = [_mm512_setzero_ps(); N];
        for block in 0..SUPER_BLOCKS {
            for half in 0..HALVES {
                let at = Super::<HALVES, MINIMUM>::scales_at(block, half) + PANEL_ROWS;
                let minima = load_bytes(scales.add(at));
                for (column, part) in parts.iter_mut().enumerate() {
                    let at = (index * SUPER_BLOCKS + block) * G + column;
                    let weighted = match HALVES {
                        1 => _mm512_set1_ps(*headers.weighted.as_ptr().add(at)),
                        _ => weighted_half(headers, at, half),
                    };
                    *part = _mm512_fmadd_ps(minima, weighted, *part);
                }
            }
        }
        let factor = load_halves(scales.add(32));
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum = _mm512_fmadd_ps(part, factor, *sum);
        }
    }
}

/// # Safety
/// `tile` has at least `N` rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const N: usize>(tile: &mut [[f32; PANEL_ROWS]], sums: [__m512; N]) {
    for (values, sum) in tile.iter_mut().zip(sums) {
        // SAFETY: a tile row has 16 values.
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), sum) };
    }
}

/// Codes, and inputs of a group of `G` columns, of a block.
///
/// # Safety
/// `block < args.blocks`.
#[inline]
unsafe fn block_of<C: Load, const G: usize>(args: &PanelArgs<'_>, block: usize) -> (*const u8, *const i8) {
    // SAFETY: the caller's promise; `PanelArgs` holds that many bytes. Prefetching has no effect but on
    // caches.
    unsafe {
        let codes = args.codes.as_ptr().add(block * C::BYTES);
        for line in (0..if C::STREAMED { C::BYTES } else { 0 }).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH_BYTES + line).cast());
        }
        (codes, args.x.as_ptr().add(block * G * BLOCK))
    }
}

/// scale · sum of the codes of half a block.
///
/// # Safety
/// `headers` has more than `at` entries.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn weighted_half(headers: &Headers<'_>, at: usize, half: usize) -> __m512 {
    // SAFETY: the caller's promise.
    let (scale, offset) =
        unsafe { (*headers.scales.as_ptr().add(at), (*headers.half_offsets.as_ptr().add(at))[half]) };
    let sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(offset / -HALF_OFFSET));
    _mm512_mul_ps(sum, _mm512_set1_ps(scale))
}

/// Integer sums of `N` columns that already subtract the offset of all codes of the block to come.
///
/// # Safety
/// `headers` has entries of more than `block` blocks of `G` columns.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn start<C: Load, const G: usize, const N: usize>(
    headers: &Headers<'_>,
    block: usize,
) -> [__m512i; N] {
    let mut dots = [_mm512_setzero_si512(); N];
    if C::SHIFTED != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let offset = _mm512_set1_epi32(unsafe { *headers.offsets.as_ptr().add(block * G + column) });
            let places = (OFFSET as u32).ilog2() - C::SHIFTED.ilog2();
            *dot = _mm512_sra_epi32(offset, _mm_cvtsi32_si128(places as i32));
        }
    }
    dots
}

/// As [`start`], for the codes of one half.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn start_half<C: Load, const G: usize, const N: usize>(
    headers: &Headers<'_>,
    block: usize,
    half: usize,
) -> [__m512i; N] {
    debug_assert!(C::SHIFTED == 0 || C::SHIFTED == HALF_OFFSET as u32);
    let mut dots = [_mm512_setzero_si512(); N];
    if C::SHIFTED != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *dot =
                _mm512_set1_epi32(unsafe { (*headers.half_offsets.as_ptr().add(block * G + column))[half] });
        }
    }
    dots
}

/// # Safety
/// `codes` is one block, `x` has `N` times 32 readable bytes, z < 4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn accumulate<C: Load, const N: usize>(
    codes: *const u8,
    x: *const i8,
    z: usize,
    dots: &mut [__m512i; N],
) {
    // SAFETY: the caller's promise; reads of 4 bytes stay within each column's 32.
    unsafe {
        let [even, odd] = C::pair(codes, z);
        for (column, dot) in dots.iter_mut().enumerate() {
            let at: *const i32 = x.add(column * BLOCK + z * 8).cast();
            *dot = _mm512_dpbusd_epi32(*dot, even, _mm512_set1_epi32(at.read_unaligned()));
        }
        for (column, dot) in dots.iter_mut().enumerate() {
            let at: *const i32 = x.add(column * BLOCK + z * 8 + 4).cast();
            *dot = _mm512_dpbusd_epi32(*dot, odd, _mm512_set1_epi32(at.read_unaligned()));
        }
    }
}

/// # Safety
/// `headers` has entries of more than `block` blocks of `N` columns.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scale<S: Scales, const N: usize>(
    (scale, minimum): (__m512, __m512),
    headers: &Headers<'_>,
    block: usize,
    dots: [__m512i; N],
    sums: &mut [__m512; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let at = block * N + column;
        // SAFETY: the caller's promise.
        let input_scale = _mm512_set1_ps(unsafe { *headers.scales.as_ptr().add(at) });
        let factor = _mm512_mul_ps(scale, input_scale);
        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[column]), factor, *sum);
        if S::MINIMUM {
            // SAFETY: as above.
            let weighted = _mm512_set1_ps(unsafe { *headers.weighted.as_ptr().add(at) });
            *sum = _mm512_fmadd_ps(minimum, weighted, *sum);
        }
    }
}

/// The kernel of a layout for a column count out of [`WIDTHS`].
pub fn kernel(packing: Packing, width: usize) -> UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => of_width::<$codes, $scales>(width),)* }
        };
    }
    for_each_packing!(pick)
}

fn of_width<C: Load, S: Panel>(width: usize) -> UnsafePanelKernel {
    match width {
        12 => S::panel::<C, 12>,
        8 => S::panel::<C, 8>,
        6 => S::panel::<C, 6>,
        4 => S::panel::<C, 4>,
        3 => S::panel::<C, 3>,
        2 => S::panel::<C, 2>,
        _ => S::panel::<C, 1>,
    }
}

/// Layouts whose codes take more than a mask and a shift, which share their ports with `vpdpbusd` on
/// Intel's cores.
macro_rules! for_each_expanded {
    ($with:ident) => {
        $with! {
            Five16Direct => Five<16>, Direct<false>;
            FiveDirectMinimum => Five<0>, Direct<true>;
            FiveSuperMinimum => Five<0>, Super<1, true>;
            SixSuperHalves => Six, Super<2, false>;
            NonLinearDirect => FourNonLinear, Direct<false>;
            NonLinearSuper => FourNonLinear, Super<1, false>;
            FloatExponent => FourFloat, Exponent;
        }
    };
}

/// What expands a layout's codes, if that pays.
pub fn expander(packing: Packing) -> Option<Expander> {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => expand::<$codes>,)* _ => return None }
        };
    }
    let expand: Expand = for_each_expanded!(pick);
    Some(Expander { from_rows: EXPAND_ROWS, expand })
}

/// As [`kernel`], for expanded codes.
pub fn expanded_kernel(packing: Packing, width: usize) -> UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => of_width::<Expanded<$codes>, $scales>(width),)*
                _ => kernel(packing, width),
            }
        };
    }
    for_each_expanded!(pick)
}
