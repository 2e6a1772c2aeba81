//! The quantised product with AVX2: two registers hold a group of a panel.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs in 16 bits. Small codes are summed
//! there over several groups; `vpmaddwd` then widens the sums, and where scales are integers (k-quants)
//! multiplies by them in the same instruction. Codes that are larger than their values by an offset may pass the
//! range of 16 bits on the way, as sums begin with what that makes them too large by ([`prepare`]). Signed codes
//! of eight bits go as |weight| times the input with the weight's sign.

mod codes;
mod prepare;
mod scales;

use std::arch::asm;
use std::arch::x86_64::*;

pub use codes::{Expanded, Group, Load, Products};
use codes::{expand, prefetch};
pub use scales::{Lanes, LoadScales, SuperBlock, zeros};

use super::activations::{HALF_OFFSET, Headers, OFFSET};
use super::kernel::{Expander, PanelArgs, PreparedInputs, UnsafePanelKernel};
use super::layout::*;

/// Column counts with a kernel of their own, descending. Four columns of two registers leave eight for
/// weights, inputs and products.
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
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
                prepare::check::<C, N>(args);
                let mut sums = [zeros(); N];
                for block in 0..args.blocks {
                    // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales,
                    // and `blocks * N` rows of inputs and headers.
                    unsafe {
                        let dots = dot_block::<C, 1, N>(block_of::<C, N>(args, block), [ones(); 2]);
                        let scales = <$scales>::load(args.scales.as_ptr(), block);
                        scale::<C, Self, N>(scales, &args.headers, block, dots, &mut sums);
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        // The minima's path takes no offset off, and a half's sums are made of its own groups.
        const {
            assert!(match C::PRODUCTS {
                Products::Plain(_) => C::SHIFT == 0,
                Products::Shifted(groups) => groups <= 8 / HALVES,
                Products::Signed => true,
            });
        }
        prepare::check::<C, N>(args);
        let mut sums = [zeros(); N];
        for index in 0..args.blocks / SUPER_BLOCKS {
            // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and
            // `blocks * N` rows of inputs and headers.
            unsafe {
                let scales = SuperBlock::<HALVES, MINIMUM>::new(args.scales.as_ptr(), index);
                let mut parts = [zeros(); N];
                for block in 0..SUPER_BLOCKS {
                    let at = index * SUPER_BLOCKS + block;
                    let first = scales.scale_pairs(block, 0);
                    let second = if HALVES == 2 { scales.scale_pairs(block, 1) } else { first };
                    let dots = dot_block::<C, HALVES, N>(block_of::<C, N>(args, at), [first, second]);
                    for (column, part) in parts.iter_mut().enumerate() {
                        let input_scale = _mm256_set1_ps(*args.headers.scales.as_ptr().add(at * N + column));
                        let scaled = dots[column].map(|dot| _mm256_cvtepi32_ps(dot));
                        add_multiplied(part, scaled, input_scale);
                    }
                }
                finish_super_block(&scales, &args.headers, index, parts, &mut sums);
            }
        }
        // SAFETY: `tile` has N rows.
        unsafe { store(tile, sums) };
    }
}

/// Adds a super-block's products and minima, each times their factor.
///
/// # Safety
/// `headers` has entries of more than `index` super-blocks of `N` columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn finish_super_block<const HALVES: usize, const MINIMUM: bool, const N: usize>(
    scales: &SuperBlock<HALVES, MINIMUM>,
    headers: &Headers<'_>,
    index: usize,
    parts: [Lanes; N],
    sums: &mut [Lanes; N],
) {
    let (factor, minimum_factor) = scales.factors();
    let add = |sums: &mut [Lanes; N], parts: [Lanes; N], factor: Lanes| {
        for (sum, part) in sums.iter_mut().zip(parts) {
            for side in 0..2 {
                sum[side] = _mm256_fmadd_ps(part[side], factor[side], sum[side]);
            }
        }
    };
    add(sums, parts, factor);
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
                        1 => _mm256_set1_ps(*headers.weighted.as_ptr().add(at)),
                        _ => weighted_half(headers, at, half),
                    }
                };
                add_multiplied(part, minima, weighted);
            }
        }
    }
    add(sums, parts, minimum_factor);
}

/// scale · sum of the codes of half a block.
///
/// # Safety
/// `headers` has more than `at` entries.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weighted_half(headers: &Headers<'_>, at: usize, half: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let (scale, offset) =
        unsafe { (*headers.scales.as_ptr().add(at), (*headers.half_offsets.as_ptr().add(at))[half]) };
    let sum = _mm256_cvtepi32_ps(_mm256_set1_epi32(offset / -HALF_OFFSET));
    _mm256_mul_ps(sum, _mm256_set1_ps(scale))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn add_multiplied(sum: &mut Lanes, values: Lanes, factor: __m256) {
    for side in 0..2 {
        sum[side] = _mm256_fmadd_ps(values[side], factor, sum[side]);
    }
}

/// # Safety
/// `tile` has at least `N` rows.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn store<const N: usize>(tile: &mut [[f32; PANEL_ROWS]], sums: [Lanes; N]) {
    for (values, sum) in tile.iter_mut().zip(sums) {
        // SAFETY: a tile row has 16 values.
        unsafe {
            _mm256_storeu_ps(values.as_mut_ptr(), sum[0]);
            _mm256_storeu_ps(values.as_mut_ptr().add(8), sum[1]);
        }
    }
}

/// Codes, inputs and prepared inputs of a block.
///
/// # Safety
/// `block < args.blocks`.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn block_of<C: Load, const N: usize>(
    args: &PanelArgs<'_>,
    block: usize,
) -> (*const u8, *const i8, *const u8) {
    // SAFETY: the caller's promise; `PanelArgs` holds that many bytes. Prefetching has no effect but on
    // caches.
    unsafe {
        let codes = args.codes.as_ptr().add(block * C::BYTES);
        prefetch(codes, C::BYTES);
        let prepared = args.prepared.as_ptr().wrapping_add(block * N * prepare::bytes::<C>());
        (codes, args.x.as_ptr().add(block * N * BLOCK), prepared)
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn ones() -> Group {
    [_mm256_set1_epi16(1); 2]
}

/// Dot products of a block; 16-bit halves of a lane are multiplied by those of the factors, which are of
/// the block's first and second half. Always inlined into a function that names the
/// features: left alone it becomes a call for each block.
///
/// # Safety
/// `codes` is one block, `x` has `N` times 32 readable bytes and `prepared` as many times what codes `C`
/// want; the CPU has AVX2.
#[inline(always)]
unsafe fn dot_block<C: Load, const HALVES: usize, const N: usize>(
    (codes, x, prepared): (*const u8, *const i8, *const u8),
    factors: [Group; 2],
) -> [Group; N] {
    let groups_together = match C::PRODUCTS {
        Products::Plain(groups) | Products::Shifted(groups) => groups.min(8 / HALVES),
        Products::Signed => 1,
    };
    // SAFETY: the caller's promise.
    let mut dots = unsafe { [[_mm256_setzero_si256(); 2]; N] };
    let mut narrow = dots;
    // Written out, so that everything that depends on z is known to the compiler.
    macro_rules! group {
        ($group:expr, $z:literal) => {
            if $z % groups_together == 0 {
                narrow = starts::<C, N>(prepared, $z / groups_together);
            }
            multiply_group::<C, N>($group, x.add($z * 4), &mut narrow);
            if ($z + 1) % groups_together == 0 {
                widen(narrow, factors[$z * HALVES / 8], &mut dots);
            }
        };
    }
    macro_rules! pairs {
        ($($even:literal $odd:literal),*) => {$(
            // SAFETY: the caller's promise; reads of 4 bytes stay within each column's bytes.
            unsafe {
                let [even, odd] = C::pair(codes, $even / 2);
                group!(even, $even);
                group!(odd, $odd);
            }
        )*};
    }
    pairs!(0 1, 2 3, 4 5, 6 7);
    dots
}

/// Where sums in 16 bits begin.
///
/// # Safety
/// `prepared` has `N` times what codes `C` want.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn starts<C: Load, const N: usize>(prepared: *const u8, part: usize) -> [Group; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    if let Products::Shifted(_) = C::PRODUCTS {
        for (column, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *sum = [unsafe { broadcast(prepared.add(column * prepare::STARTS + part * 4)) }; 2];
        }
    }
    sums
}

/// Four bytes in every lane.
///
/// # Safety
/// `at` has 4 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn broadcast(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen<const N: usize>(narrow: [Group; N], factors: Group, dots: &mut [Group; N]) {
    for (dot, narrow) in dots.iter_mut().zip(narrow) {
        for side in 0..2 {
            dot[side] = _mm256_add_epi32(dot[side], _mm256_madd_epi16(narrow[side], factors[side]));
        }
    }
}

/// # Safety
/// `x` has 4 readable bytes every 32, `N` times.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply_group<C: Load, const N: usize>(group: Group, x: *const i8, narrow: &mut [Group; N]) {
    let is_signed = matches!(C::PRODUCTS, Products::Signed);
    let magnitudes = if is_signed { group.map(|codes| _mm256_abs_epi8(codes)) } else { group };
    for (column, sums) in narrow.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let input = unsafe { broadcast(x.add(column * BLOCK).cast()) };
        for side in 0..2 {
            let input = if is_signed { _mm256_sign_epi8(input, group[side]) } else { input };
            sums[side] = _mm256_add_epi16(sums[side], _mm256_maddubs_epi16(magnitudes[side], input));
        }
    }
    keep(narrow);
}

/// Makes the compiler finish with these sums before it goes on. Left alone it computes column by
/// column, for which all weights of a block go through the stack and are loaded again for each column.
#[inline]
#[target_feature(enable = "avx2")]
pub fn keep<const N: usize>(sums: &mut [Group; N]) {
    for sum in sums.as_flattened_mut() {
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) };
    }
}

/// # Safety
/// `headers` has entries of more than `block` blocks of `N` columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn scale<C: Load, S: Scales, const N: usize>(
    (scale, minimum): (Lanes, Lanes),
    headers: &Headers<'_>,
    block: usize,
    dots: [Group; N],
    sums: &mut [Lanes; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let at = block * N + column;
        // SAFETY: the caller's promise.
        let (offset, input_scale) =
            unsafe { (*headers.offsets.as_ptr().add(at), _mm256_set1_ps(*headers.scales.as_ptr().add(at))) };
        for side in 0..2 {
            let mut dot = dots[column][side];
            if C::SHIFT != 0 && matches!(C::PRODUCTS, Products::Plain(_)) {
                dot = _mm256_add_epi32(dot, _mm256_set1_epi32(offset / (OFFSET / C::SHIFT)));
            }
            let factor = _mm256_mul_ps(scale[side], input_scale);
            sum[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sum[side]);
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

/// What kernels for a layout want of their inputs besides their codes.
pub fn preparation(packing: Packing) -> Option<PreparedInputs> {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => prepare::of::<$codes>(),)* }
        };
    }
    for_each_packing!(pick)
}

/// What expands a layout's codes, unless they are bytes already.
pub fn expander(packing: Packing) -> Option<Expander> {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => Expander { from_rows: <$codes>::EXPAND_ROWS, expand: expand::<$codes> },)*
            }
        };
    }
    let expander = for_each_packing!(pick);
    (packing != Packing::ByteDirect).then_some(expander)
}

/// As [`kernel`], for expanded codes.
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
