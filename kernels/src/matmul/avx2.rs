//! The quantised product with AVX2: two registers hold a group of a panel.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs in 16 bits, so unsigned codes of up
//! to six bits can be summed there over several groups before they are widened. Signed bytes go the
//! longer way: |weight| times input with the weight's sign.

use std::arch::x86_64::*;

use super::PanelArgs;
use super::activations::{BlockHeader, WHOLE};
use super::layout::*;

/// Column counts with a kernel of their own, descending. Four columns of two registers leave eight for
/// weights, inputs and intermediate sums.
pub const WIDTHS: &[usize] = &[4, 3, 2, 1];

/// The two registers of one group.
type Group = [__m256i; 2];

trait Load: Codes {
    /// Pairs of groups whose products fit into 16 bits together; 0: codes are signed bytes.
    const PAIRS: usize;
    /// Groups `2z` and `2z + 1` of the block at `codes`.
    ///
    /// # Safety
    /// `codes` has `Self::BYTES` readable bytes; the CPU has AVX2.
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2];
}

/// # Safety
/// `at` has 64 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(at: *const u8) -> Group {
    // SAFETY: the caller's promise.
    unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn low_and_high(nibbles: Group) -> [Group; 2] {
    let mask = _mm256_set1_epi8(0x0F);
    let low = |v| _mm256_and_si256(v, mask);
    let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
    [[low(nibbles[0]), low(nibbles[1])], [high(nibbles[0]), high(nibbles[1])]]
}

/// `group` with bit(s) at `from` of each byte of `bits` moved to bit 4 and added.
#[inline]
#[target_feature(enable = "avx2")]
fn with_bits(group: Group, bits: Group, from: usize, mask: i8) -> Group {
    let mask = _mm256_set1_epi8(mask);
    let join = |codes, bits| {
        let moved = if from <= 4 {
            _mm256_sll_epi16(bits, _mm_cvtsi32_si128(4 - from as i32))
        } else {
            _mm256_srl_epi16(bits, _mm_cvtsi32_si128(from as i32 - 4))
        };
        _mm256_or_si256(codes, _mm256_and_si256(moved, mask))
    };
    [join(group[0], bits[0]), join(group[1], bits[1])]
}

impl<const OFFSET: i32> Load for Four<OFFSET> {
    // 8 groups of pairs: 15 · 127 · 2 · 8 = 30,480.
    const PAIRS: usize = 4;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        low_and_high(unsafe { load(codes.add(z * 64)) })
    }
}

impl<const OFFSET: i32> Load for Five<OFFSET> {
    // 4 groups of pairs: 31 · 127 · 2 · 4 = 31,496.
    const PAIRS: usize = 2;
    #[inline]
    #[target_feature(enable = "avx2")]
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
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 2 x 64 bytes of bit pairs.
        let (nibbles, bits) = unsafe { (load(codes.add(z * 64)), load(codes.add(256 + z / 2 * 64))) };
        let [low, high] = low_and_high(nibbles);
        let first = 2 * (2 * z % 4);
        [with_bits(low, bits, first, 0x30), with_bits(high, bits, first + 2, 0x30)]
    }
}

impl Load for Byte {
    const PAIRS: usize = 0;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 8 x 64 bytes.
        unsafe { [load(codes.add(z * 128)), load(codes.add(z * 128 + 64))] }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn look_up(table: &[i8; 16], codes: [Group; 2]) -> [Group; 2] {
    // SAFETY: the table has 16 bytes.
    let table = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let find = |codes| _mm256_shuffle_epi8(table, codes);
    [[find(codes[0][0]), find(codes[0][1])], [find(codes[1][0]), find(codes[1][1])]]
}

macro_rules! load_by_table {
    ($codes:ty, $table:expr) => {
        impl Load for $codes {
            const PAIRS: usize = 0;
            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
                // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
                look_up(&$table, low_and_high(unsafe { load(codes.add(z * 64)) }))
            }
        }
    };
}
load_by_table!(FourNonLinear, NON_LINEAR);
load_by_table!(FourFloat, FLOAT4);

/// Eight floats for each half of a panel.
type Lanes = [__m256; 2];

trait LoadScales: Scales {
    /// (scale, minimum) of `half` of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; the CPU has AVX2 and F16C.
    unsafe fn load(panel: *const u8, block: usize, half: usize) -> (Lanes, Lanes);
}

/// # Safety
/// `at` has 32 readable bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_halves(at: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    unsafe {
        [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))]
    }
}

/// # Safety
/// `at` has 16 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_bytes(at: *const u8) -> Lanes {
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm_loadu_si128(at.cast()) };
    [
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply(a: Lanes, b: Lanes) -> Lanes {
    [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn zeros() -> Lanes {
    [_mm256_setzero_ps(); 2]
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(panel: *const u8, block: usize, _half: usize) -> (Lanes, Lanes) {
        // SAFETY: a block has 32 bytes of scales and, with minima, 32 more.
        unsafe {
            let at = panel.add(block * if MINIMUM { 64 } else { 32 });
            (load_halves(at), if MINIMUM { load_halves(at.add(32)) } else { zeros() })
        }
    }
}

impl LoadScales for Exponent {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(panel: *const u8, block: usize, _half: usize) -> (Lanes, Lanes) {
        // SAFETY: a block has 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(panel.add(block * 16).cast()) };
        let widen = |bytes| {
            let exponents = _mm256_cvtepu8_epi32(bytes);
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)));
            // Exponents 0 and 1 are subnormal halves.
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
            let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
            _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small))
        };
        ([widen(bytes), widen(_mm_srli_si128::<8>(bytes))], zeros())
    }
}

impl<const HALVES: usize, const MINIMUM: bool> LoadScales for Super<HALVES, MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(panel: *const u8, block: usize, half: usize) -> (Lanes, Lanes) {
        let kinds = if MINIMUM { 2 } else { 1 };
        // SAFETY: the super-block of `block` lies within the panel, and every offset within its STRIDE.
        unsafe {
            let start = panel.add(block / SUPER_BLOCKS * Self::STRIDE);
            let at = start.add(Self::FACTORS + block % SUPER_BLOCKS * Self::BLOCK_BYTES + half * 16 * kinds);
            let scale = multiply(load_halves(start), load_bytes(at));
            let minimum = match MINIMUM {
                true => multiply(load_halves(start.add(32)), load_bytes(at.add(16))),
                false => zeros(),
            };
            (scale, minimum)
        }
    }
}

/// One panel times `N` columns.
///
/// # Safety
/// `args` were checked by `PanelArgs::new`, and the CPU has the features named below.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel<C: Load, S: LoadScales, const N: usize>(
    args: &PanelArgs<'_>,
    tile: &mut [[f32; PANEL_ROWS]],
) {
    let (codes, scales, x, headers) =
        (args.codes.as_ptr(), args.scales.as_ptr(), args.x.as_ptr(), args.headers.as_ptr());
    let mut sums = [zeros(); N];
    for block in 0..args.blocks {
        // SAFETY: `PanelArgs` holds `blocks` blocks of codes and scales, and `blocks * N` rows of inputs
        // and headers, so every offset below `block < blocks` is inside.
        unsafe {
            let codes = codes.add(block * C::BYTES);
            let x = x.add(block * N * BLOCK);
            let headers = headers.add(block * N);
            let pairs = 4 / S::HALVES;
            for half in 0..S::HALVES {
                let part = if S::HALVES == 1 { WHOLE } else { half };
                let dots = dot_part::<C, N>(codes, x, half * pairs, pairs);
                scale::<C, S, N>(scales, block, half, headers, part, dots, &mut sums);
            }
        }
    }
    for (column, sum) in sums.into_iter().enumerate() {
        // SAFETY: a tile row has 16 values.
        unsafe {
            _mm256_storeu_ps(tile[column].as_mut_ptr(), sum[0]);
            _mm256_storeu_ps(tile[column].as_mut_ptr().add(8), sum[1]);
        }
    }
}

/// Integer dot products over the pairs of groups `first..first + pairs`.
///
/// # Safety
/// `codes` is one block, `x` has `N` times 32 readable bytes, `first + pairs <= 4`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_part<C: Load, const N: usize>(
    codes: *const u8,
    x: *const i8,
    first: usize,
    pairs: usize,
) -> [Group; N] {
    let ones = _mm256_set1_epi16(1);
    let mut dots = [[_mm256_setzero_si256(); 2]; N];
    if C::PAIRS == 0 {
        for z in first..first + pairs {
            // SAFETY: the caller's promise.
            unsafe { add_signed::<C, N>(codes, x, z, &mut dots) };
        }
        return dots;
    }
    let mut z = first;
    while z < first + pairs {
        let mut narrow = [[_mm256_setzero_si256(); 2]; N];
        let end = (z + C::PAIRS).min(first + pairs);
        while z < end {
            // SAFETY: the caller's promise.
            unsafe { add_unsigned::<C, N>(codes, x, z, &mut narrow) };
            z += 1;
        }
        for (dot, narrow) in dots.iter_mut().zip(narrow) {
            for half in 0..2 {
                dot[half] = _mm256_add_epi32(dot[half], _mm256_madd_epi16(narrow[half], ones));
            }
        }
    }
    dots
}

/// # Safety
/// As [`dot_part`], z < 4.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_unsigned<C: Load, const N: usize>(
    codes: *const u8,
    x: *const i8,
    z: usize,
    narrow: &mut [Group; N],
) {
    // SAFETY: the caller's promise; reads of 4 bytes stay within each column's 32.
    unsafe {
        for (parity, group) in C::pair(codes, z).into_iter().enumerate() {
            for (column, sums) in narrow.iter_mut().enumerate() {
                let at: *const i32 = x.add(column * BLOCK + z * 8 + parity * 4).cast();
                let input = _mm256_set1_epi32(at.read_unaligned());
                for half in 0..2 {
                    let products = _mm256_maddubs_epi16(group[half], input);
                    sums[half] = _mm256_add_epi16(sums[half], products);
                }
            }
        }
    }
}

/// # Safety
/// As [`dot_part`], z < 4.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_signed<C: Load, const N: usize>(
    codes: *const u8,
    x: *const i8,
    z: usize,
    dots: &mut [Group; N],
) {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: the caller's promise; reads of 4 bytes stay within each column's 32.
    unsafe {
        for (parity, group) in C::pair(codes, z).into_iter().enumerate() {
            let magnitudes = [_mm256_abs_epi8(group[0]), _mm256_abs_epi8(group[1])];
            for (column, sums) in dots.iter_mut().enumerate() {
                let at: *const i32 = x.add(column * BLOCK + z * 8 + parity * 4).cast();
                let input = _mm256_set1_epi32(at.read_unaligned());
                for half in 0..2 {
                    // 128 · 127 · 2 = 32,512 still fits into 16 bits.
                    let signed = _mm256_sign_epi8(input, group[half]);
                    let products = _mm256_maddubs_epi16(magnitudes[half], signed);
                    sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(products, ones));
                }
            }
        }
    }
}

/// # Safety
/// As [`LoadScales::load`]; `headers` has `N` readable entries.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scale<C: Load, S: LoadScales, const N: usize>(
    scales: *const u8,
    block: usize,
    half: usize,
    headers: *const BlockHeader,
    part: usize,
    dots: [Group; N],
    sums: &mut [Lanes; N],
) {
    // SAFETY: the caller's promise.
    let (scale, minimum) = unsafe { S::load(scales, block, half) };
    for (column, sum) in sums.iter_mut().enumerate() {
        // SAFETY: column < N.
        let header = unsafe { &*headers.add(column) };
        let correction = _mm256_set1_epi32(header.negated[part] * C::OFFSET);
        let input_scale = _mm256_set1_ps(header.scale);
        let weighted = _mm256_set1_ps(header.weighted[part]);
        for half in 0..2 {
            let mut dot = dots[column][half];
            if C::OFFSET != 0 {
                dot = _mm256_add_epi32(dot, correction);
            }
            let factor = _mm256_mul_ps(scale[half], input_scale);
            sum[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sum[half]);
            if S::MINIMUM {
                sum[half] = _mm256_fmadd_ps(minimum[half], weighted, sum[half]);
            }
        }
    }
}

/// The kernel of a layout for a column count out of [`WIDTHS`].
pub fn kernel(packing: Packing, width: usize) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => match width {
                    4 => panel::<$codes, $scales, 4>,
                    3 => panel::<$codes, $scales, 3>,
                    2 => panel::<$codes, $scales, 2>,
                    _ => panel::<$codes, $scales, 1>,
                },)*
            }
        };
    }
    for_each_packing!(pick)
}
