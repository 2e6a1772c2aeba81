//! The quantised product with AVX-512 VNNI: one register holds a group of a whole panel, so a block is
//! eight `vpdpbusd` a column.
//!
//! Weights are the unsigned operand, inputs the signed one. A constant offset of the codes costs
//! nothing: the integer sums start from it instead of from zero.

mod codes;
mod scales;

use std::arch::x86_64::*;
use std::ops::Range;

use codes::{Expanded, Load, expand};
use scales::{LoadScales, load_bytes, load_halves};

use super::activations::{HALF_OFFSET, Headers, OFFSET};
use super::layout::*;
use super::{PREFETCH_BYTES, PanelArgs};

/// Column counts with a kernel of their own, descending. 12 columns leave 8 of the 32 registers for
/// weights, scales and one broadcast.
pub const WIDTHS: &[usize] = &[12, 8, 6, 4, 3, 2, 1];
/// Up to so many columns are one group, of which a kernel takes as many together as it has registers for.
pub const WHOLE_MAX: usize = 31;

/// Which loop goes with which scales.
trait Panel: Scales {
    /// Most columns whose sums stay in registers.
    const WIDEST: usize;
    /// Blocks that all columns of a group go through before the next ones, out of `blocks`: all of them, or
    /// a super-block where the first columns would else wait for memory and the others for the next cache.
    fn chunk<C: Codes>(blocks: usize) -> usize;

    /// Adds the products of `blocks`, whole chunks unless they are all, with the columns from `first` to
    /// `first + N` of a group of `tile.len()`; `ALONE` when they are all of it.
    ///
    /// # Safety
    /// `args` were checked by `PanelArgs::of_group` for a group of `tile.len()` columns and hold `blocks`,
    /// these columns are within it, and the CPU has the features named below.
    unsafe fn columns<C: Load, const N: usize, const ALONE: bool>(
        args: &PanelArgs<'_>,
        blocks: Range<usize>,
        first: usize,
        tile: &mut [[f32; PANEL_ROWS]],
    );

    /// One panel times a group of columns.
    ///
    /// # Safety
    /// `args` were checked by `PanelArgs::of_group` for a group of `tile.len()` columns, and the CPU has the
    /// features named below.
    unsafe fn panel<C: Load>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        tile.fill([0.0; PANEL_ROWS]);
        let columns = tile.len();
        if next_width(columns, Self::WIDEST) == columns {
            // SAFETY: the caller's promise.
            unsafe { Self::columns_of_width::<C, true>(columns)(args, 0..args.blocks, 0, tile) };
            return;
        }
        let chunk = Self::chunk::<C>(args.blocks);
        for start in (0..args.blocks).step_by(chunk) {
            let blocks = start..(start + chunk).min(args.blocks);
            let mut first = 0;
            while first < columns {
                let width = next_width(columns - first, Self::WIDEST);
                // SAFETY: the caller's promise, for the columns from `first` on.
                unsafe { Self::columns_of_width::<C, false>(width)(args, blocks.clone(), first, tile) };
                first += width;
            }
        }
    }

    /// [`Panel::columns`] for a width out of [`WIDTHS`].
    fn columns_of_width<C: Load, const ALONE: bool>(width: usize) -> Columns {
        match width {
            12 => Self::columns::<C, 12, ALONE>,
            8 => Self::columns::<C, 8, ALONE>,
            6 => Self::columns::<C, 6, ALONE>,
            4 => Self::columns::<C, 4, ALONE>,
            3 => Self::columns::<C, 3, ALONE>,
            2 => Self::columns::<C, 2, ALONE>,
            _ => Self::columns::<C, 1, ALONE>,
        }
    }
}

/// See [`Panel::columns`].
type Columns = unsafe fn(&PanelArgs<'_>, Range<usize>, usize, &mut [[f32; PANEL_ROWS]]);

/// How many of `left` columns to take together, at most `widest`.
fn next_width(left: usize, widest: usize) -> usize {
    WIDTHS.iter().copied().find(|&width| width <= left.min(widest)).expect("1 is a width")
}

macro_rules! panel_with_float_scales {
    ($scales:ty $(, $minimum:ident)?) => {
        impl $(<const $minimum: bool>)? Panel for $scales {
            const WIDEST: usize = 12;

            fn chunk<C: Codes>(blocks: usize) -> usize {
                if C::BYTES == Byte::BYTES { SUPER_BLOCKS } else { blocks }
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            unsafe fn columns<C: Load, const N: usize, const ALONE: bool>(
                args: &PanelArgs<'_>,
                blocks: Range<usize>,
                first: usize,
                tile: &mut [[f32; PANEL_ROWS]],
            ) {
                let group = if ALONE { N } else { tile.len() };
                // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and
                // as many times `group` rows of inputs and headers.
                unsafe {
                    let mut sums = load::<N>(tile, first);
                    for block in blocks {
                        let at = block * group + first;
                        let (codes, x) = block_of::<C>(args, block, at, first == 0);
                        let mut dots = start::<C, N>(&args.headers, at);
                        for z in 0..4 {
                            accumulate::<C, N>(codes, x, z, &mut dots);
                        }
                        let scales = <$scales>::load(args.scales.as_ptr(), block);
                        scale::<Self, N>(scales, &args.headers, at, dots, &mut sums);
                    }
                    store(tile, first, sums);
                }
            }
        }
    };
}
panel_with_float_scales!(Direct<MINIMUM>, MINIMUM);
panel_with_float_scales!(Exponent);

impl<const HALVES: usize, const MINIMUM: bool> Panel for Super<HALVES, MINIMUM> {
    // Two scales a block take a third register a column.
    const WIDEST: usize = if HALVES == 2 { 8 } else { 12 };

    fn chunk<C: Codes>(blocks: usize) -> usize {
        if HALVES == 2 { SUPER_BLOCKS } else { blocks }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn columns<C: Load, const N: usize, const ALONE: bool>(
        args: &PanelArgs<'_>,
        blocks: Range<usize>,
        first: usize,
        tile: &mut [[f32; PANEL_ROWS]],
    ) {
        let group = if ALONE { N } else { tile.len() };
        // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and as many
        // times `group` rows of inputs and headers.
        unsafe {
            let mut sums = load::<N>(tile, first);
            for index in blocks.start / SUPER_BLOCKS..blocks.end / SUPER_BLOCKS {
                let scales = args.scales.as_ptr().add(index * Self::STRIDE);
                let mut parts = [_mm512_setzero_ps(); N];
                for block in 0..SUPER_BLOCKS {
                    let at = (index * SUPER_BLOCKS + block) * group + first;
                    let (codes, x) = block_of::<C>(args, index * SUPER_BLOCKS + block, at, first == 0);
                    let mut scaled = [_mm512_setzero_ps(); N];
                    for half in 0..HALVES {
                        let mut dots = match HALVES {
                            1 => start::<C, N>(&args.headers, at),
                            _ => start_half::<C, N>(&args.headers, at, half),
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
                        let input_scale = _mm512_set1_ps(*args.headers.scales.as_ptr().add(at + column));
                        *part = _mm512_fmadd_ps(scaled[column], input_scale, *part);
                    }
                }
                let rows = Rows { first: index * SUPER_BLOCKS * group + first, step: group };
                finish_super_block::<HALVES, MINIMUM, N>(scales, &args.headers, rows, parts, &mut sums);
            }
            store(tile, first, sums);
        }
    }
}

/// Where the headers of some columns begin, and how far it is from block to block.
struct Rows {
    first: usize,
    step: usize,
}

/// Adds a super-block's products and minima, each times their factor.
///
/// # Safety
/// `scales` has the bytes of a super-block, `headers` entries of its 8 blocks at `rows`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish_super_block<const HALVES: usize, const MINIMUM: bool, const N: usize>(
    scales: *const u8,
    headers: &Headers<'_>,
    rows: Rows,
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
                    let at = rows.first + block * rows.step + column;
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
/// `tile` has at least `first + N` rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load<const N: usize>(tile: &[[f32; PANEL_ROWS]], first: usize) -> [__m512; N] {
    let mut sums = [_mm512_setzero_ps(); N];
    for (column, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise; a tile row has 16 values.
        *sum = unsafe { _mm512_loadu_ps(tile.as_ptr().add(first + column).cast()) };
    }
    sums
}

/// # Safety
/// `tile` has at least `first + N` rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const N: usize>(tile: &mut [[f32; PANEL_ROWS]], first: usize, sums: [__m512; N]) {
    for (column, sum) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise; a tile row has 16 values.
        unsafe { _mm512_storeu_ps(tile.as_mut_ptr().add(first + column).cast(), sum) };
    }
}

/// Codes of a block, and inputs from row `at` of all blocks on. `is_first`: whether these codes are read for
/// the first time.
///
/// # Safety
/// `block < args.blocks`, and there is a row `at`.
#[inline]
unsafe fn block_of<C: Load>(
    args: &PanelArgs<'_>,
    block: usize,
    at: usize,
    is_first: bool,
) -> (*const u8, *const i8) {
    // SAFETY: the caller's promise; `PanelArgs` holds that many bytes. Prefetching has no effect but on
    // caches.
    unsafe {
        let codes = args.codes.as_ptr().add(block * C::BYTES);
        if C::STREAMED && is_first {
            for line in (0..C::BYTES).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH_BYTES + line).cast());
            }
        }
        (codes, args.x.as_ptr().add(at * BLOCK))
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
/// `headers` has `N` entries from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn start<C: Load, const N: usize>(headers: &Headers<'_>, at: usize) -> [__m512i; N] {
    let mut dots = [_mm512_setzero_si512(); N];
    if C::SHIFTED != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let offset = _mm512_set1_epi32(unsafe { *headers.offsets.as_ptr().add(at + column) });
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
unsafe fn start_half<C: Load, const N: usize>(headers: &Headers<'_>, at: usize, half: usize) -> [__m512i; N] {
    debug_assert!(C::SHIFTED == 0 || C::SHIFTED == HALF_OFFSET as u32);
    let mut dots = [_mm512_setzero_si512(); N];
    if C::SHIFTED != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *dot = _mm512_set1_epi32(unsafe { (*headers.half_offsets.as_ptr().add(at + column))[half] });
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
/// `headers` has `N` entries from `at` on.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scale<S: Scales, const N: usize>(
    (scale, minimum): (__m512, __m512),
    headers: &Headers<'_>,
    at: usize,
    dots: [__m512i; N],
    sums: &mut [__m512; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let at = at + column;
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

/// The kernel of a layout, for up to [`WHOLE_MAX`] columns.
pub fn kernel(packing: Packing) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => <$scales as Panel>::panel::<$codes>,)* }
        };
    }
    for_each_packing!(pick)
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
pub fn expander(packing: Packing) -> Option<super::Expander> {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => Some(expand::<$codes>),)* _ => None }
        };
    }
    for_each_expanded!(pick)
}

/// As [`kernel`], for expanded codes.
pub fn expanded_kernel(packing: Packing) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => <$scales as Panel>::panel::<Expanded<$codes>>,)*
                _ => kernel(packing),
            }
        };
    }
    for_each_expanded!(pick)
}
