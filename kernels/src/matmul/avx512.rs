//! The quantised product with AVX-512 VNNI: one register holds a group of a whole panel, so a block is
//! eight `vpdpbusd` a column.
//!
//! Weights are the unsigned operand, inputs the signed one. A constant offset of the codes costs
//! nothing: the integer sums start from it instead of from zero.

use std::arch::x86_64::*;

use super::activations::{BlockHeader, WHOLE};
use super::layout::*;
use super::{PREFETCH_BYTES, PanelArgs};

/// Column counts with a kernel of their own, descending. 12 columns leave 8 of the 32 registers for
/// weights, scales and one broadcast.
pub const WIDTHS: &[usize] = &[12, 8, 6, 4, 3, 2, 1];

/// Codes as unsigned bytes with a power-of-two offset.
trait Load: Codes {
    /// What the kernel's integer sums must subtract from each code (a power of two), or 0.
    const SHIFTED: u32;
    /// Groups `2z` and `2z + 1` of the block at `codes`.
    ///
    /// # Safety
    /// `codes` has `Self::BYTES` readable bytes; the CPU has AVX-512 F, BW.
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2];
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low_and_high(nibbles: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi8(0x0F);
    [_mm512_and_si512(nibbles, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(nibbles), mask)]
}

/// Moves bit(s) at `from` of each byte to bit 4 and masks them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn to_bit_4(bits: __m512i, from: usize, mask: i8) -> __m512i {
    let moved = if from <= 4 {
        _mm512_sll_epi16(bits, _mm_cvtsi32_si128(4 - from as i32))
    } else {
        _mm512_srl_epi16(bits, _mm_cvtsi32_si128(from as i32 - 4))
    };
    _mm512_and_si512(moved, _mm512_set1_epi8(mask))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(table: &[i8; 16], codes: [__m512i; 2]) -> [__m512i; 2] {
    // SAFETY: the table has 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    // Signed values become unsigned by adding 128, which the sums subtract again.
    let table = _mm512_broadcast_i32x4(_mm_xor_si128(table, _mm_set1_epi8(-128)));
    [_mm512_shuffle_epi8(table, codes[0]), _mm512_shuffle_epi8(table, codes[1])]
}

impl<const OFFSET: i32> Load for Four<OFFSET> {
    const SHIFTED: u32 = OFFSET as u32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        low_and_high(unsafe { _mm512_loadu_si512(codes.add(z * 64).cast()) })
    }
}

impl<const OFFSET: i32> Load for Five<OFFSET> {
    const SHIFTED: u32 = OFFSET as u32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 64 bytes of fifth bits.
        let (nibbles, bits) = unsafe {
            (_mm512_loadu_si512(codes.add(z * 64).cast()), _mm512_loadu_si512(codes.add(256).cast()))
        };
        let [low, high] = low_and_high(nibbles);
        [
            _mm512_or_si512(low, to_bit_4(bits, 2 * z, 0x10)),
            _mm512_or_si512(high, to_bit_4(bits, 2 * z + 1, 0x10)),
        ]
    }
}

impl Load for Six {
    const SHIFTED: u32 = Self::OFFSET as u32;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 2 x 64 bytes of bit pairs.
        let (nibbles, bits) = unsafe {
            (
                _mm512_loadu_si512(codes.add(z * 64).cast()),
                _mm512_loadu_si512(codes.add(256 + z / 2 * 64).cast()),
            )
        };
        let [low, high] = low_and_high(nibbles);
        let first = 2 * (2 * z % 4);
        [
            _mm512_or_si512(low, to_bit_4(bits, first, 0x30)),
            _mm512_or_si512(high, to_bit_4(bits, first + 2, 0x30)),
        ]
    }
}

impl Load for Byte {
    const SHIFTED: u32 = 128;
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
        let flip = _mm512_set1_epi8(-128);
        // SAFETY: a block has 8 x 64 bytes.
        unsafe {
            [
                _mm512_xor_si512(_mm512_loadu_si512(codes.add(z * 128).cast()), flip),
                _mm512_xor_si512(_mm512_loadu_si512(codes.add(z * 128 + 64).cast()), flip),
            ]
        }
    }
}

macro_rules! load_by_table {
    ($codes:ty, $table:expr) => {
        impl Load for $codes {
            const SHIFTED: u32 = 128;
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw")]
            unsafe fn pair(codes: *const u8, z: usize) -> [__m512i; 2] {
                // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
                look_up(&$table, low_and_high(unsafe { _mm512_loadu_si512(codes.add(z * 64).cast()) }))
            }
        }
    };
}
load_by_table!(FourNonLinear, NON_LINEAR);
load_by_table!(FourFloat, FLOAT4);

/// Float scales, one for each block, of all 16 rows.
trait LoadScales: Scales {
    /// (scale, minimum) of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; the CPU has AVX-512 F and F16C.
    unsafe fn load(panel: *const u8, block: usize) -> (__m512, __m512);
}

/// # Safety
/// `at` has 32 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// # Safety
/// `at` has 16 readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_bytes(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(at.cast()) }))
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(panel: *const u8, block: usize) -> (__m512, __m512) {
        // SAFETY: a block has 32 bytes of scales and, with minima, 32 more.
        unsafe {
            let at = panel.add(block * if MINIMUM { 64 } else { 32 });
            (load_halves(at), if MINIMUM { load_halves(at.add(32)) } else { _mm512_setzero_ps() })
        }
    }
}

impl LoadScales for Exponent {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(panel: *const u8, block: usize) -> (__m512, __m512) {
        // SAFETY: a block has 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(panel.add(block * 16).cast()) };
        let exponents = _mm512_cvtepu8_epi32(bytes);
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponents, _mm512_set1_epi32(1)));
        // Exponents 0 and 1 are subnormal halves.
        let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), exponents);
        let is_small = _mm512_cmplt_epi32_mask(exponents, _mm512_set1_epi32(2));
        (_mm512_castsi512_ps(_mm512_mask_blend_epi32(is_small, normal, small)), _mm512_setzero_ps())
    }
}

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
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
                let mut sums = [_mm512_setzero_ps(); N];
                for block in 0..args.blocks {
                    // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales,
                    // and `blocks * N` rows of inputs and headers.
                    unsafe {
                        let headers = args.headers.as_ptr().add(block * N);
                        let (codes, x) = block_of::<C, N>(args, block);
                        let mut dots = start::<C, N>(headers, WHOLE);
                        for z in 0..4 {
                            accumulate::<C, N>(codes, x, z, &mut dots);
                        }
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
        let mut sums = [_mm512_setzero_ps(); N];
        for index in 0..args.blocks / SUPER_BLOCKS {
            // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and
            // `blocks * N` rows of inputs and headers.
            unsafe {
                let scales = args.scales.as_ptr().add(index * Self::STRIDE);
                let headers = args.headers.as_ptr().add(index * SUPER_BLOCKS * N);
                let mut parts = [_mm512_setzero_ps(); N];
                for block in 0..SUPER_BLOCKS {
                    let headers = headers.add(block * N);
                    let (codes, x) = block_of::<C, N>(args, index * SUPER_BLOCKS + block);
                    let mut scaled = [_mm512_setzero_ps(); N];
                    for half in 0..HALVES {
                        let mut dots = start::<C, N>(headers, if HALVES == 1 { WHOLE } else { half });
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
                        let input_scale = _mm512_set1_ps((*headers.add(column)).scale);
                        *part = _mm512_fmadd_ps(scaled[column], input_scale, *part);
                    }
                }
                finish_super_block::<HALVES, MINIMUM, N>(scales, headers, parts, &mut sums);
            }
        }
        // SAFETY: `tile` has N rows.
        unsafe { store(tile, sums) };
    }
}

/// Adds a super-block's products and minima, each times their factor.
///
/// # Safety
/// `scales` has the bytes of a super-block, `headers` `8 N` readable entries.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish_super_block<const HALVES: usize, const MINIMUM: bool, const N: usize>(
    scales: *const u8,
    headers: *const BlockHeader,
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
                    let header = &*headers.add(block * N + column);
                    let weighted = header.weighted[if HALVES == 1 { WHOLE } else { half }];
                    *part = _mm512_fmadd_ps(minima, _mm512_set1_ps(weighted), *part);
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

/// Codes and inputs of a block.
///
/// # Safety
/// `block < args.blocks`.
#[inline]
unsafe fn block_of<C: Codes, const N: usize>(args: &PanelArgs<'_>, block: usize) -> (*const u8, *const i8) {
    // SAFETY: the caller's promise; `PanelArgs` holds that many bytes. Prefetching has no effect but on
    // caches.
    unsafe {
        let codes = args.codes.as_ptr().add(block * C::BYTES);
        for line in (0..C::BYTES).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH_BYTES + line).cast());
        }
        (codes, args.x.as_ptr().add(block * N * BLOCK))
    }
}

/// Integer sums that already subtract the offset of all codes to come.
///
/// # Safety
/// `headers` has `N` readable entries.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn start<C: Load, const N: usize>(headers: *const BlockHeader, part: usize) -> [__m512i; N] {
    let mut dots = [_mm512_setzero_si512(); N];
    if C::SHIFTED != 0 {
        for (column, dot) in dots.iter_mut().enumerate() {
            // SAFETY: column < N.
            let negated = unsafe { (*headers.add(column)).negated[part] };
            *dot = _mm512_set1_epi32(negated * C::SHIFTED as i32);
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
/// `headers` has `N` readable entries.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scale<S: Scales, const N: usize>(
    (scale, minimum): (__m512, __m512),
    headers: *const BlockHeader,
    dots: [__m512i; N],
    sums: &mut [__m512; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        // SAFETY: column < N.
        let header = unsafe { &*headers.add(column) };
        let factor = _mm512_mul_ps(scale, _mm512_set1_ps(header.scale));
        *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[column]), factor, *sum);
        if S::MINIMUM {
            *sum = _mm512_fmadd_ps(minimum, _mm512_set1_ps(header.weighted[WHOLE]), *sum);
        }
    }
}

/// The kernel of a layout for a column count out of [`WIDTHS`].
pub fn kernel(packing: Packing, width: usize) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => match width {
                    12 => <$scales as Panel>::panel::<$codes, 12>,
                    8 => <$scales as Panel>::panel::<$codes, 8>,
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
