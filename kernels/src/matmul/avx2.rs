//! The quantised product with AVX2: two registers hold a group of a panel.
//!
//! `vpmaddubsw` multiplies unsigned by signed bytes and adds pairs in 16 bits. Small codes are summed
//! there over several groups; `vpmaddwd` then widens the sums, and where scales are integers (k-quants)
//! multiplies by them in the same instruction. Signed codes go as |weight| times the input with the
//! weight's sign.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::activations::{BlockHeader, WHOLE};
use super::layout::*;
use super::{PREFETCH_BYTES, PanelArgs};

/// Column counts with a kernel of their own, descending. Four columns of two registers leave eight for
/// weights, inputs and products.
pub const WIDTHS: &[usize] = &[4, 3, 2, 1];

/// The two registers of one group.
pub type Group = [__m256i; 2];

pub trait Load: Codes {
    /// Groups whose products fit into 16 bits together.
    const GROUPS: usize;
    /// Whether codes are signed. Unsigned ones still have their offset.
    const SIGNED: bool;
    /// Groups `2z` and `2z + 1` of the block at `codes`.
    ///
    /// # Safety
    /// `codes` has `Self::BYTES` readable bytes, z < 4; the CPU has AVX2.
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
    // 15 · 127 · 2 · 8 = 30,480.
    const GROUPS: usize = 8;
    const SIGNED: bool = false;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
        low_and_high(unsafe { load(codes.add(z * 64)) })
    }
}

impl<const OFFSET: i32> Load for Five<OFFSET> {
    // 31 · 127 · 2 · 4 = 31,496.
    const GROUPS: usize = 4;
    const SIGNED: bool = false;
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
    // 32 · 127 · 2 · 4 = 32,512, where codes of 0..=63 would only let two groups in.
    const GROUPS: usize = 4;
    const SIGNED: bool = true;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 4 x 64 bytes of nibbles and then 2 x 64 bytes of bit pairs.
        let (nibbles, bits) = unsafe { (load(codes.add(z * 64)), load(codes.add(256 + z / 2 * 64))) };
        let [low, high] = low_and_high(nibbles);
        let first = 2 * (2 * z % 4);
        let offset = _mm256_set1_epi8(Self::OFFSET as i8);
        let signed = |codes: Group| [_mm256_sub_epi8(codes[0], offset), _mm256_sub_epi8(codes[1], offset)];
        [signed(with_bits(low, bits, first, 0x30)), signed(with_bits(high, bits, first + 2, 0x30))]
    }
}

impl Load for Byte {
    // 128 · 127 · 2 = 32,512.
    const GROUPS: usize = 1;
    const SIGNED: bool = true;
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
    ($codes:ty, $table:expr, $groups:expr) => {
        impl Load for $codes {
            const GROUPS: usize = $groups;
            const SIGNED: bool = true;
            #[inline]
            #[target_feature(enable = "avx2")]
            unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
                // SAFETY: z < 4 and a block has 4 x 64 bytes of nibbles.
                look_up(&$table, low_and_high(unsafe { load(codes.add(z * 64)) }))
            }
        }
    };
}
load_by_table!(FourNonLinear, NON_LINEAR, 1);
// 12 · 127 · 2 · 8 = 24,384.
load_by_table!(FourFloat, FLOAT4, 8);

/// Codes of `C` expanded to a byte each, in the order of [`Byte`].
pub struct Expanded<C>(PhantomData<C>);

impl<C: Codes> Codes for Expanded<C> {
    const BYTES: usize = Byte::BYTES;
    const OFFSET: i32 = C::OFFSET;
}

impl<C: Load> Load for Expanded<C> {
    const GROUPS: usize = C::GROUPS;
    const SIGNED: bool = C::SIGNED;
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn pair(codes: *const u8, z: usize) -> [Group; 2] {
        // SAFETY: a block has 8 x 64 bytes.
        unsafe { [load(codes.add(z * 128)), load(codes.add(z * 128 + 64))] }
    }
}

/// Expands the codes of a panel.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn expand<C: Load>(codes: &[u8], expanded: &mut [u8]) {
    let blocks = codes.chunks_exact(C::BYTES).zip(expanded.as_chunks_mut::<{ Byte::BYTES }>().0);
    for (codes, expanded) in blocks {
        for z in 0..4 {
            // SAFETY: the source is one block of `C`, the target has 8 x 64 bytes.
            unsafe {
                let groups = C::pair(codes.as_ptr(), z);
                let target: *mut __m256i = expanded.as_mut_ptr().add(z * 128).cast();
                for (at, register) in groups.as_flattened().iter().enumerate() {
                    _mm256_storeu_si256(target.add(at), *register);
                }
            }
        }
    }
}

/// Eight floats for each half of a panel.
pub type Lanes = [__m256; 2];

/// Float scales, one for each block.
pub trait LoadScales: Scales {
    /// (scale, minimum) of block `block`.
    ///
    /// # Safety
    /// `panel` has the bytes of more than `block` blocks; the CPU has AVX2 and F16C.
    unsafe fn load(panel: *const u8, block: usize) -> (Lanes, Lanes);
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
pub fn zeros() -> Lanes {
    [_mm256_setzero_ps(); 2]
}

impl<const MINIMUM: bool> LoadScales for Direct<MINIMUM> {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(panel: *const u8, block: usize) -> (Lanes, Lanes) {
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
    unsafe fn load(panel: *const u8, block: usize) -> (Lanes, Lanes) {
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

/// Factors and integer scales of k-quants.
pub struct SuperBlock<const HALVES: usize, const MINIMUM: bool>(*const u8);

impl<const HALVES: usize, const MINIMUM: bool> SuperBlock<HALVES, MINIMUM> {
    const STRIDE: usize = Super::<HALVES, MINIMUM>::STRIDE;

    /// # Safety
    /// `panel` has the bytes of more than `index` super-blocks for as long as the result is used.
    pub unsafe fn new(panel: *const u8, index: usize) -> Self {
        // SAFETY: the caller's promise.
        SuperBlock(unsafe { panel.add(index * Self::STRIDE) })
    }

    /// What a sum of scaled products is worth, and what a sum of scaled minima is.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub fn factors(&self) -> (Lanes, Lanes) {
        // SAFETY: 32 bytes of factors begin a super-block and, with minima, 32 more.
        unsafe { (load_halves(self.0), if MINIMUM { load_halves(self.0.add(32)) } else { zeros() }) }
    }

    /// The scales of `half` of block `block` of this super-block.
    #[inline]
    fn scales_at(&self, block: usize, half: usize) -> *const u8 {
        // SAFETY: with the scales, and minima if any, that is still within STRIDE.
        unsafe { self.0.add(Super::<HALVES, MINIMUM>::scales_at(block, half)) }
    }

    /// Each row's scale twice in 16 bits, as `vpmaddwd` takes them.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn scale_pairs(&self, block: usize, half: usize) -> Group {
        // SAFETY: 16 bytes of scales.
        let bytes = unsafe { _mm_loadu_si128(self.scales_at(block, half).cast()) };
        let twice = |bytes| {
            let wide = _mm256_cvtepi8_epi32(bytes);
            _mm256_blend_epi16::<0xAA>(wide, _mm256_slli_epi32::<16>(wide))
        };
        [twice(bytes), twice(_mm_srli_si128::<8>(bytes))]
    }

    /// The same as floats.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn scales(&self, block: usize, half: usize) -> Lanes {
        // SAFETY: 16 bytes of scales.
        unsafe { load_bytes(self.scales_at(block, half)) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn minima(&self, block: usize, half: usize) -> Lanes {
        // SAFETY: 16 bytes of minima follow the scales; only called where there are minima.
        unsafe { load_bytes(self.scales_at(block, half).add(16)) }
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
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn panel<C: Load, const N: usize>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
                let mut sums = [zeros(); N];
                for block in 0..args.blocks {
                    // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales,
                    // and `blocks * N` rows of inputs and headers.
                    unsafe {
                        let headers = args.headers.as_ptr().add(block * N);
                        let (codes, x) = block_of::<C, N>(args, block);
                        let dots = dot_block::<C, 1, N>(codes, x, [ones(); 2]);
                        let scales = <$scales>::load(args.scales.as_ptr(), block);
                        scale::<C, Self, N>(scales, headers, dots, &mut sums);
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
        let mut sums = [zeros(); N];
        for index in 0..args.blocks / SUPER_BLOCKS {
            // SAFETY: the caller's promise; `PanelArgs` holds `blocks` blocks of codes and scales, and
            // `blocks * N` rows of inputs and headers.
            unsafe {
                let scales = SuperBlock::<HALVES, MINIMUM>::new(args.scales.as_ptr(), index);
                let headers = args.headers.as_ptr().add(index * SUPER_BLOCKS * N);
                let mut parts = [zeros(); N];
                for block in 0..SUPER_BLOCKS {
                    let (codes, x) = block_of::<C, N>(args, index * SUPER_BLOCKS + block);
                    let first = scales.scale_pairs(block, 0);
                    let second = if HALVES == 2 { scales.scale_pairs(block, 1) } else { first };
                    let dots = dot_block::<C, HALVES, N>(codes, x, [first, second]);
                    for (column, part) in parts.iter_mut().enumerate() {
                        let input_scale = _mm256_set1_ps((*headers.add(block * N + column)).scale);
                        let scaled =
                            [_mm256_cvtepi32_ps(dots[column][0]), _mm256_cvtepi32_ps(dots[column][1])];
                        add_multiplied(part, scaled, input_scale);
                    }
                }
                finish_super_block(&scales, headers, parts, &mut sums);
            }
        }
        // SAFETY: `tile` has N rows.
        unsafe { store(tile, sums) };
    }
}

/// Adds a super-block's products and minima, each times their factor.
///
/// # Safety
/// `headers` has `8 N` readable entries.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn finish_super_block<const HALVES: usize, const MINIMUM: bool, const N: usize>(
    scales: &SuperBlock<HALVES, MINIMUM>,
    headers: *const BlockHeader,
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
            let part_index = if HALVES == 1 { WHOLE } else { half };
            for (column, part) in parts.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let header = unsafe { &*headers.add(block * N + column) };
                add_multiplied(part, minima, _mm256_set1_ps(header.weighted[part_index]));
            }
        }
    }
    add(sums, parts, minimum_factor);
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

/// Codes and inputs of a block.
///
/// # Safety
/// `block < args.blocks`.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn block_of<C: Codes, const N: usize>(
    args: &PanelArgs<'_>,
    block: usize,
) -> (*const u8, *const i8) {
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

#[inline]
#[target_feature(enable = "avx2")]
fn ones() -> Group {
    [_mm256_set1_epi16(1); 2]
}

/// Dot products of a block; 16-bit halves of a lane are multiplied by those of the factors, which are of
/// the block's first and second half.
///
/// # Safety
/// `codes` is one block, `x` has `N` times 32 readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dot_block<C: Load, const HALVES: usize, const N: usize>(
    codes: *const u8,
    x: *const i8,
    factors: [Group; 2],
) -> [Group; N] {
    let none = [[_mm256_setzero_si256(); 2]; N];
    let (mut narrow, mut dots) = (none, none);
    let groups_together = C::GROUPS.min(8 / HALVES);
    // Written out, so that everything that depends on z is known to the compiler.
    macro_rules! pairs {
        ($($z:literal)*) => {$(
            let factor = factors[$z * HALVES / 4];
            // SAFETY: the caller's promise; reads of 4 bytes stay within each column's 32.
            let [even, odd] = unsafe { C::pair(codes, $z) };
            // SAFETY: as above.
            unsafe { multiply_group::<C, N>(even, x.add($z * 8), &mut narrow) };
            if groups_together == 1 {
                widen(std::mem::replace(&mut narrow, none), factor, &mut dots);
            }
            // SAFETY: as above.
            unsafe { multiply_group::<C, N>(odd, x.add($z * 8 + 4), &mut narrow) };
            if groups_together == 1 || ($z + 1) * 2 % groups_together == 0 {
                widen(std::mem::replace(&mut narrow, none), factor, &mut dots);
            }
        )*};
    }
    pairs!(0 1 2 3);
    dots
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
    let magnitudes = if C::SIGNED { [_mm256_abs_epi8(group[0]), _mm256_abs_epi8(group[1])] } else { group };
    for (column, sums) in narrow.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let input = _mm256_set1_epi32(unsafe { x.add(column * BLOCK).cast::<i32>().read_unaligned() });
        for side in 0..2 {
            let input = if C::SIGNED { _mm256_sign_epi8(input, group[side]) } else { input };
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
/// `headers` has `N` readable entries.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn scale<C: Load, S: Scales, const N: usize>(
    (scale, minimum): (Lanes, Lanes),
    headers: *const BlockHeader,
    dots: [Group; N],
    sums: &mut [Lanes; N],
) {
    for (column, sum) in sums.iter_mut().enumerate() {
        // SAFETY: column < N.
        let header = unsafe { &*headers.add(column) };
        let correction = _mm256_set1_epi32(header.negated[WHOLE] * C::OFFSET);
        let input_scale = _mm256_set1_ps(header.scale);
        for side in 0..2 {
            let mut dot = dots[column][side];
            if C::OFFSET != 0 && !C::SIGNED {
                dot = _mm256_add_epi32(dot, correction);
            }
            let factor = _mm256_mul_ps(scale[side], input_scale);
            sum[side] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sum[side]);
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

/// What expands a layout's codes.
pub fn expander(packing: Packing) -> super::Expander {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => expand::<$codes>,)* }
        };
    }
    for_each_packing!(pick)
}

/// As [`kernel`], for expanded codes.
pub fn expanded_kernel(packing: Packing, width: usize) -> super::UnsafePanelKernel {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing {
                $(Packing::$packing => match width {
                    4 => <$scales as Panel>::panel::<Expanded<$codes>, 4>,
                    3 => <$scales as Panel>::panel::<Expanded<$codes>, 3>,
                    2 => <$scales as Panel>::panel::<Expanded<$codes>, 2>,
                    _ => <$scales as Panel>::panel::<Expanded<$codes>, 1>,
                },)*
            }
        };
    }
    for_each_packing!(pick)
}
