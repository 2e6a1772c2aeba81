//! The quantised product with AVX-VNNI: `vpdpbusd` on the registers of AVX2 (Alder Lake and later, which
//! lack AVX-512). Codes and scales are read as in [`super::avx2`]; signed codes become unsigned by adding 128,
//! which the integer sums subtract again by where they start.

use std::arch::x86_64::*;

use super::activations::{HALF_OFFSET, Headers, OFFSET};
use super::avx2::{
    Expanded, Group, Lanes, Load, LoadScales, Products, SuperBlock, add_multiplied, block_of,
    finish_super_block, keep, store, zeros,
};
use super::kernel::{PanelArgs, UnsafePanelKernel};
use super::layout::*;

/// Column counts with a kernel of their own, descending. With six columns of two registers, float sums go
/// through the stack more than the broadcasts saved are worth.
pub const WIDTHS: &[usize] = &[4, 3, 2, 1];

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
            #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
            unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
                let mut sums = [zeros(); N];
                for block in 0..args.blocks {
                    // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales,
                    // and `blocks * N` rows of inputs and headers.
                    unsafe {
                        let (codes, x, _) = block_of::<C, N>(args, block);
                        let dots = dot::<C, N, 0, 4>(codes, x, start::<C, N>(&args.headers, block));
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
    #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
    unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        let mut sums = [zeros(); N];
        for index in 0..args.blocks / SUPER_BLOCKS {
            // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and
            // `blocks * N` rows of inputs and headers.
            unsafe {
                let scales = SuperBlock::<HALVES, MINIMUM>::new(args.scales.as_ptr(), index);
                let mut parts = [zeros(); N];
                for block in 0..SUPER_BLOCKS {
                    let at = index * SUPER_BLOCKS + block;
                    let (codes, x, _) = block_of::<C, N>(args, at);
                    let scaled = if HALVES == 1 {
                        let dots = dot::<C, N, 0, 4>(codes, x, start::<C, N>(&args.headers, at));
                        scaled(dots, scales.scales(block, 0))
                    } else {
                        let dots = dot::<C, N, 0, 2>(codes, x, start_half::<C, N>(&args.headers, at, 0));
                        let mut sums = scaled(dots, scales.scales(block, 0));
                        let dots = dot::<C, N, 2, 4>(codes, x, start_half::<C, N>(&args.headers, at, 1));
                        add_scaled(dots, scales.scales(block, 1), &mut sums);
                        sums
                    };
                    for (column, part) in parts.iter_mut().enumerate() {
                        let input_scale = *args.headers.scales.as_ptr().add(at * N + column);
                        add_multiplied(part, scaled[column], _mm256_set1_ps(input_scale));
                    }
                }
                finish_super_block(&scales, &args.headers, index, parts, &mut sums);
            }
        }
        // SAFETY: `tile` has N rows.
        unsafe { store(tile, sums) };
    }
}

/// What the integer sums of a block subtract from each code.
const fn shifted<C: Load>() -> i32 {
    if matches!(C::PRODUCTS, Products::Signed) { 128 } else { C::SHIFT }
}

/// Integer sums that already subtract the offset of all codes of the block to come.
///
/// # Safety
/// `headers` has entries of more than `block` blocks of `N` columns.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn start<C: Load, const N: usize>(headers: &Headers<'_>, block: usize) -> [Group; N] {
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    if shifted::<C>() != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let offset = unsafe { *headers.offsets.as_ptr().add(block * N + column) };
            *dot = [_mm256_set1_epi32(offset / (OFFSET / shifted::<C>())); 2];
        }
    }
    dots
}

/// As [`start`], for the codes of one half.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn start_half<C: Load, const N: usize>(
    headers: &Headers<'_>,
    block: usize,
    half: usize,
) -> [Group; N] {
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    if shifted::<C>() != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let offset = unsafe { (*headers.half_offsets.as_ptr().add(block * N + column))[half] };
            *dot = [_mm256_set1_epi32(offset * (shifted::<C>() / HALF_OFFSET)); 2];
        }
    }
    dots
}

/// Adds integer dot products over the pairs of groups `FIRST..LAST` of a block. Always inlined into a
/// function that names the features: left alone it becomes a call for each block.
///
/// # Safety
/// `codes` is one block, `x` has `N` times 32 readable bytes; the CPU has AVX-VNNI.
#[inline(always)]
unsafe fn dot<C: Load, const N: usize, const FIRST: usize, const LAST: usize>(
    codes: *const u8,
    x: *const i8,
    mut dots: [Group; N],
) -> [Group; N] {
    // Written out, so that the loads know z at compile time.
    macro_rules! pairs {
        ($($z:literal)*) => {$(
            if FIRST <= $z && $z < LAST {
                // SAFETY: the caller's promise; reads of 4 bytes stay within each column's 32.
                unsafe {
                    let [even, odd] = C::pair(codes, $z);
                    multiply_group::<C, N>(even, x.add($z * 8), &mut dots);
                    multiply_group::<C, N>(odd, x.add($z * 8 + 4), &mut dots);
                }
            }
        )*};
    }
    pairs!(0 1 2 3);
    dots
}

/// # Safety
/// `x` has 4 readable bytes every 32, `N` times.
#[inline]
#[target_feature(enable = "avxvnni,avx2")]
unsafe fn multiply_group<C: Load, const N: usize>(group: Group, x: *const i8, dots: &mut [Group; N]) {
    let flip = _mm256_set1_epi8(-128);
    let group = match C::PRODUCTS {
        Products::Signed => [_mm256_xor_si256(group[0], flip), _mm256_xor_si256(group[1], flip)],
        _ => group,
    };
    for (column, dot) in dots.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let input = _mm256_set1_epi32(unsafe { x.add(column * BLOCK).cast::<i32>().read_unaligned() });
        for side in 0..2 {
            dot[side] = _mm256_dpbusd_avx_epi32(dot[side], group[side], input);
        }
    }
    keep(dots);
}

/// dots · scales.
#[inline]
#[target_feature(enable = "avx2")]
fn scaled<const N: usize>(dots: [Group; N], scales: Lanes) -> [Lanes; N] {
    dots.map(|dot| {
        [
            _mm256_mul_ps(_mm256_cvtepi32_ps(dot[0]), scales[0]),
            _mm256_mul_ps(_mm256_cvtepi32_ps(dot[1]), scales[1]),
        ]
    })
}

/// sums += dots · scales, exactly: both are whole numbers, and so are sums below 2^24.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_scaled<const N: usize>(dots: [Group; N], scales: Lanes, sums: &mut [Lanes; N]) {
    for (sum, dot) in sums.iter_mut().zip(dots) {
        for side in 0..2 {
            sum[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[side]), scales[side], sum[side]);
        }
    }
}

/// # Safety
/// `headers` has entries of more than `block` blocks of `N` columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn scale<S: Scales, const N: usize>(
    (scale, minimum): (Lanes, Lanes),
    headers: &Headers<'_>,
    block: usize,
    dots: [Group; N],
    sums: &mut [Lanes; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let at = block * N + column;
        // SAFETY: the caller's promise.
        let input_scale = _mm256_set1_ps(unsafe { *headers.scales.as_ptr().add(at) });
        for side in 0..2 {
            let factor = _mm256_mul_ps(scale[side], input_scale);
            sum[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[column][side]), factor, sum[side]);
        }
        if S::MINIMUM {
            // SAFETY: as above.
            add_multiplied(sum, minimum, _mm256_set1_ps(unsafe { *headers.weighted.as_ptr().add(at) }));
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

/// As [`kernel`], for codes expanded by [`super::avx2::expander`].
pub fn expanded_kernel(packing: Packing, width: usize) -> UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => of_width::<Expanded<$codes>, $scales>(width),)* }
        };
    }
    for_each_packing!(pick)
}

fn of_width<C: Load, S: Panel>(width: usize) -> UnsafePanelKernel {
    match width {
        4 => S::panel::<C, 4>,
        3 => S::panel::<C, 3>,
        2 => S::panel::<C, 2>,
        _ => S::panel::<C, 1>,
    }
}
