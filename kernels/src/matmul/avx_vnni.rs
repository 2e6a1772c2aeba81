//! The quantised product with AVX-VNNI: `vpdpbusd` on the registers of AVX2 (Alder Lake and later, which
//! lack AVX-512). Codes and scales are read as in [`super::avx2`]; signed codes become unsigned by adding 128,
//! which the integer sums subtract again by where they start.

use std::arch::x86_64::*;

use super::PanelArgs;
use super::activations::{BlockHeader, WHOLE};
use super::avx2::{
    Group, Lanes, Load, LoadScales, SuperBlock, add_multiplied, block_of, finish_super_block, keep, store,
    zeros,
};
use super::layout::*;

/// Column counts with a kernel of their own, descending. Six columns of two registers leave four for
/// weights and inputs.
pub const WIDTHS: &[usize] = &[6, 4, 3, 2, 1];

/// Which loop goes with which scales.
trait Panel: Scales {
    /// One panel times `N` columns.
    ///
    /// # Safety
    /// `args` were checked by `PanelArgs::new`, and the CPU has the features named below.
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
                        let headers = args.headers.as_ptr().add(block * N);
                        let (codes, x) = block_of::<C, N>(args, block);
                        let dots = dot::<C, N, 0, 4>(codes, x, headers, WHOLE);
                        let scales = <$scales>::load(args.scales.as_ptr(), block);
                        scale::<Self, N>(scales, headers, dots, &mut sums);
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
                let first = args.headers.as_ptr().add(index * SUPER_BLOCKS * N);
                let mut parts = [zeros(); N];
                for block in 0..SUPER_BLOCKS {
                    let headers = first.add(block * N);
                    let (codes, x) = block_of::<C, N>(args, index * SUPER_BLOCKS + block);
                    let mut scaled = [zeros(); N];
                    if HALVES == 1 {
                        let dots = dot::<C, N, 0, 4>(codes, x, headers, WHOLE);
                        add_scaled(dots, scales.scales(block, 0), &mut scaled);
                    } else {
                        let dots = dot::<C, N, 0, 2>(codes, x, headers, 0);
                        add_scaled(dots, scales.scales(block, 0), &mut scaled);
                        let dots = dot::<C, N, 2, 4>(codes, x, headers, 1);
                        add_scaled(dots, scales.scales(block, 1), &mut scaled);
                    }
                    for (column, part) in parts.iter_mut().enumerate() {
                        add_multiplied(part, scaled[column], _mm256_set1_ps((*headers.add(column)).scale));
                    }
                }
                finish_super_block(&scales, first, parts, &mut sums);
            }
        }
        // SAFETY: `tile` has N rows.
        unsafe { store(tile, sums) };
    }
}

/// Integer dot products over the pairs of groups `FIRST..LAST` of a block, which are what `part` of a
/// header's sums is of.
///
/// # Safety
/// `codes` is one block, `x` has `N` times 32 readable bytes, `headers` `N` entries.
#[inline]
#[target_feature(enable = "avxvnni,avx2")]
unsafe fn dot<C: Load, const N: usize, const FIRST: usize, const LAST: usize>(
    codes: *const u8,
    x: *const i8,
    headers: *const BlockHeader,
    part: usize,
) -> [Group; N] {
    let shifted = if C::SIGNED { 128 } else { C::OFFSET };
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    if shifted != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: column < N.
            let negated = unsafe { (*headers.add(column)).negated[part] };
            *dot = [_mm256_set1_epi32(negated * shifted); 2];
        }
    }
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
    let group = match C::SIGNED {
        true => [_mm256_xor_si256(group[0], flip), _mm256_xor_si256(group[1], flip)],
        false => group,
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
/// `headers` has `N` readable entries.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn scale<S: Scales, const N: usize>(
    (scale, minimum): (Lanes, Lanes),
    headers: *const BlockHeader,
    dots: [Group; N],
    sums: &mut [Lanes; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        // SAFETY: column < N.
        let header = unsafe { &*headers.add(column) };
        let input_scale = _mm256_set1_ps(header.scale);
        for side in 0..2 {
            let factor = _mm256_mul_ps(scale[side], input_scale);
            sum[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[column][side]), factor, sum[side]);
        }
        if S::MINIMUM {
            add_multiplied(sum, minimum, _mm256_set1_ps(header.weighted[WHOLE]));
        }
    }
}

/// The kernel of a layout for a column count out of [`WIDTHS`].
pub fn kernel(packing: Packing, width: usize) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => match width {
                    6 => <$scales as Panel>::panel::<$codes, 6>,
                    4 => <$scales as Panel>::panel::<$codes, 4>,
                    3 => <$scales as Panel>::panel::<$codes, 3>,
                    2 => <$scales as Panel>::panel::<$codes, 2>,
                    _ => <$scales as Panel>::panel::<$codes, 1>,
                },)*
            }
        };
    }
    for_each_packing!(pick)
}
