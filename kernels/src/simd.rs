//! One body, compiled once for each instruction set.
//!
//! Loops over `[f32; 16]` compile to whole registers when the function around them may use them. So an
//! op is written once as an `#[inline(always)]` function over a [`Simd`] type, and [`per_isa!`] makes
//! the entry that picks the compilation for an [`crate::Isa`]. Sums use `mul_add`, in the same order
//! everywhere: results are the same bits on every instruction set.

use half::f16;

/// Values handled together: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// [`LANES`] floats.
pub type Lanes = [f32; LANES];

/// [`LANES`] words of two 16-bit integers.
pub type Pairs = [u32; LANES];

/// What portable Rust cannot say well.
pub trait Simd {
    /// Whether there are 32 registers, or only 16, of which [`LANES`] floats take two.
    const MANY_REGISTERS: bool = false;

    /// f16 bits to f32.
    fn widen(halves: &[u16; LANES]) -> Lanes;

    /// [`LANES`] 32-bit integers in registers.
    type Sums: Copy;

    fn zero_sums() -> Self::Sums;

    /// sums[i] + row[i].low · pair.low + row[i].high · pair.high, halves of a word being signed integers
    /// of 16 bits.
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums;

    fn sums_to_lanes(sums: Self::Sums) -> Lanes;

    /// Signed bytes to pairs of signed 16-bit integers.
    #[inline(always)]
    fn widen_pairs(bytes: &[u32; LANES / 2]) -> Pairs {
        let byte = |word: u32, index: u32| (word >> (8 * index)) as i8 as i16 as u16 as u32;
        std::array::from_fn(|i| {
            let first = 2 * (i as u32 % 2);
            byte(bytes[i / 2], first) | byte(bytes[i / 2], first + 1) << 16
        })
    }
}

pub struct Scalar;

impl Simd for Scalar {
    type Sums = [i32; LANES];

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        halves.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn zero_sums() -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn dot_pairs(mut sums: [i32; LANES], row: &Pairs, pair: u32) -> [i32; LANES] {
        let half = |word: u32, shift: u32| i32::from((word >> shift) as i16);
        for (sum, &word) in sums.iter_mut().zip(row) {
            let products = [half(word, 0) * half(pair, 0), half(word, 16) * half(pair, 16)];
            *sum = sum.wrapping_add(products[0]).wrapping_add(products[1]);
        }
        sums
    }

    #[inline(always)]
    fn sums_to_lanes(sums: [i32; LANES]) -> Lanes {
        sums.map(|sum| sum as f32)
    }
}

/// Only [`per_isa!`] names this type, inside a function that may use AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
pub struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type Sums = [std::arch::x86_64::__m256i; 2];

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        fn convert(halves: &[u16; LANES]) -> Lanes {
            use std::arch::x86_64::*;
            let mut lanes = [0.0; LANES];
            // SAFETY: 16 values of 2 bytes are read and 16 of 4 bytes written.
            unsafe {
                let source: *const __m128i = halves.as_ptr().cast();
                _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(source)));
                _mm256_storeu_ps(lanes.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(source.add(1))));
            }
            lanes
        }
        // SAFETY: this type is named only where these features are enabled.
        unsafe { convert(halves) }
    }

    #[inline(always)]
    fn zero_sums() -> Self::Sums {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { [std::arch::x86_64::_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums {
        use std::arch::x86_64::*;
        let source: *const __m256i = row.as_ptr().cast();
        // SAFETY: a row is two registers; this type is named only where the feature is enabled.
        unsafe {
            let pair = _mm256_set1_epi32(pair as i32);
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(pair, _mm256_loadu_si256(source))),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(pair, _mm256_loadu_si256(source.add(1)))),
            ]
        }
    }

    #[inline(always)]
    fn sums_to_lanes(sums: Self::Sums) -> Lanes {
        use std::arch::x86_64::*;
        // SAFETY: both types are 64 bytes of plain numbers; this type is named only where the feature is
        // enabled.
        unsafe { std::mem::transmute([_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])]) }
    }

    #[inline(always)]
    fn widen_pairs(bytes: &[u32; LANES / 2]) -> Pairs {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn convert(bytes: &[u32; LANES / 2]) -> Pairs {
            use std::arch::x86_64::*;
            let source: *const __m128i = bytes.as_ptr().cast();
            // SAFETY: 32 bytes are read; the result is 64 bytes of integers.
            unsafe {
                std::mem::transmute([
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(source)),
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(source.add(1))),
                ])
            }
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(bytes) }
    }
}

/// Only [`per_isa!`] names this type, inside a function that may use AVX-512.
#[cfg(target_arch = "x86_64")]
pub struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    const MANY_REGISTERS: bool = true;
    type Sums = std::arch::x86_64::__m512i;

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        #[inline]
        #[target_feature(enable = "avx512f")]
        fn convert(halves: &[u16; LANES]) -> Lanes {
            use std::arch::x86_64::*;
            let mut lanes = [0.0; LANES];
            // SAFETY: 16 values of 2 bytes are read and 16 of 4 bytes written.
            unsafe {
                let wide = _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()));
                _mm512_storeu_ps(lanes.as_mut_ptr(), wide);
            }
            lanes
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(halves) }
    }

    #[inline(always)]
    fn zero_sums() -> Self::Sums {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { std::arch::x86_64::_mm512_setzero_si512() }
    }

    #[inline(always)]
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums {
        use std::arch::x86_64::*;
        // SAFETY: a row is one register; this type is named only where the features are enabled.
        unsafe {
            let row = _mm512_loadu_si512(row.as_ptr().cast());
            _mm512_dpwssd_epi32(sums, row, _mm512_set1_epi32(pair as i32))
        }
    }

    #[inline(always)]
    fn sums_to_lanes(sums: Self::Sums) -> Lanes {
        // SAFETY: both types are 64 bytes of plain numbers; this type is named only where the feature is
        // enabled.
        unsafe { std::mem::transmute(std::arch::x86_64::_mm512_cvtepi32_ps(sums)) }
    }

    #[inline(always)]
    fn widen_pairs(bytes: &[u32; LANES / 2]) -> Pairs {
        #[inline]
        #[target_feature(enable = "avx512bw")]
        fn convert(bytes: &[u32; LANES / 2]) -> Pairs {
            use std::arch::x86_64::*;
            // SAFETY: 32 bytes are read; the result is 64 bytes of integers.
            unsafe { std::mem::transmute(_mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes.as_ptr().cast()))) }
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(bytes) }
    }
}

/// Only [`per_isa!`] names this type, inside a function that may use NEON.
#[cfg(target_arch = "aarch64")]
pub struct Neon;

#[cfg(target_arch = "aarch64")]
impl Simd for Neon {
    type Sums = [std::arch::aarch64::int32x4_t; 4];

    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        #[inline]
        #[target_feature(enable = "neon")]
        fn convert(halves: &[u16; LANES]) -> Lanes {
            use std::arch::aarch64::*;
            let mut lanes = [0.0; LANES];
            for (four, halves) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(halves.as_chunks::<4>().0) {
                // SAFETY: 4 values of 2 bytes are read and 4 of 4 bytes written.
                unsafe {
                    let halves = vreinterpret_f16_u16(vld1_u16(halves.as_ptr()));
                    vst1q_f32(four.as_mut_ptr(), vcvt_f32_f16(halves));
                }
            }
            lanes
        }
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { convert(halves) }
    }

    #[inline(always)]
    fn zero_sums() -> Self::Sums {
        // SAFETY: this type is named only where the feature is enabled.
        unsafe { [std::arch::aarch64::vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn dot_pairs(sums: Self::Sums, row: &Pairs, pair: u32) -> Self::Sums {
        use std::arch::aarch64::*;
        let source: *const i16 = row.as_ptr().cast();
        // SAFETY: a row is 32 integers, and 16 are read twice, lower and upper halves of words apart; this
        // type is named only where the feature is enabled.
        unsafe {
            let pair = vcreate_s16(u64::from(pair));
            let (first, second) = (vld2q_s16(source), vld2q_s16(source.add(16)));
            let add = |sum, low, high| vmlal_lane_s16::<1>(vmlal_lane_s16::<0>(sum, low, pair), high, pair);
            [
                add(sums[0], vget_low_s16(first.0), vget_low_s16(first.1)),
                add(sums[1], vget_high_s16(first.0), vget_high_s16(first.1)),
                add(sums[2], vget_low_s16(second.0), vget_low_s16(second.1)),
                add(sums[3], vget_high_s16(second.0), vget_high_s16(second.1)),
            ]
        }
    }

    #[inline(always)]
    fn sums_to_lanes(sums: Self::Sums) -> Lanes {
        let mut lanes = [0.0; LANES];
        for (four, sum) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            // SAFETY: 4 values are written; this type is named only where the feature is enabled.
            unsafe {
                std::arch::aarch64::vst1q_f32(four.as_mut_ptr(), std::arch::aarch64::vcvtq_f32_s32(sum));
            }
        }
        lanes
    }
}

/// `per_isa!(pub fn entry = body(argument: Type, ...))` defines `entry(isa, argument, ...)`, which runs
/// `body::<S>(argument, ...)` compiled for `isa`.
macro_rules! per_isa {
    ($(#[$attribute:meta])* $visibility:vis fn $entry:ident $(<$(const $n:ident: usize),*>)? = $body:ident $(<$($generic:ident),*>)? (
        $($argument:ident: $type:ty),* $(,)?
    ) $(-> $result:ty)?) => {
        $(#[$attribute])*
        $visibility fn $entry $(<$(const $n: usize),*>)? (isa: $crate::Isa, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$(const $n: usize),*>)? ($($argument: $type),*) $(-> $result)? {
                $body::<$crate::simd::Avx2 $($(, $generic)*)?>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            fn avx512 $(<$(const $n: usize),*>)? ($($argument: $type),*) $(-> $result)? {
                $body::<$crate::simd::Avx512 $($(, $generic)*)?>($($argument),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            fn neon $(<$(const $n: usize),*>)? ($($argument: $type),*) $(-> $result)? {
                $body::<$crate::simd::Neon $($(, $generic)*)?>($($argument),*)
            }
            match isa {
                // SAFETY: an `Isa` in a `Device` was checked against this machine.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx2 | $crate::Isa::AvxVnni => unsafe { avx2 $(::<$($n),*>)? ($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Isa::Avx512Vnni => unsafe { avx512 $(::<$($n),*>)? ($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                $crate::Isa::Neon | $crate::Isa::NeonDotprod | $crate::Isa::NeonI8mm => unsafe {
                    neon $(::<$($n),*>)? ($($argument),*)
                },
                _ => $body::<$crate::simd::Scalar $($(, $generic)*)?>($($argument),*),
            }
        }
    };
}
pub(crate) use per_isa;

/// Sum of all lanes, in a fixed tree.
#[inline(always)]
pub fn sum(lanes: Lanes) -> f32 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8];
    }
    for i in 0..4 {
        four[i] = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// e^x for all lanes; within 2 ULP for |x| < 87, 0 below -87.3, f32::MAX-ish above 88.
///
/// Cody-Waite reduction to |r| <= ln2/2 and a degree-6 polynomial (coefficients: Cephes `expf`).
#[inline(always)]
pub fn exp(x: Lanes) -> Lanes {
    let mut result = [0.0; LANES];
    for (result, x) in result.iter_mut().zip(x) {
        let clamped = x.clamp(-87.3, 88.0);
        // Adding 1.5·2^23 rounds to the nearest integer without a libm call.
        const ROUND: f32 = 12_582_912.0;
        let n = clamped.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
        let r = n.mul_add(-0.693_359_4, clamped);
        let r = n.mul_add(2.121_944_4e-4, r);
        let mut p = 1.987_569_1e-4_f32;
        p = p.mul_add(r, 1.398_2e-3);
        p = p.mul_add(r, 8.333_452e-3);
        p = p.mul_add(r, 4.166_579_6e-2);
        p = p.mul_add(r, 1.666_666_5e-1);
        p = p.mul_add(r, 0.5);
        let value = p.mul_add(r * r, r) + 1.0;
        let scaled = value * f32::from_bits(((n as i32 + 127) as u32) << 23);
        *result = if x < -87.3 { 0.0 } else { scaled };
    }
    result
}

/// 2^x for all lanes, x <= 0: within 2 ULP, and 2^-126 below that. 2^0 is exactly 1.
///
/// Degree 5 on |r| <= 1/2, of least relative error among those with p(0) = 1.
#[inline(always)]
pub fn exp2(x: Lanes) -> Lanes {
    // Adding 1.5·2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let mut result = [0.0; LANES];
    for (result, x) in result.iter_mut().zip(x) {
        // A comparison that is false keeps NaN.
        let x = if x < -126.0 { -126.0 } else { x };
        let shifted = x + ROUND;
        let r = x - (shifted - ROUND);
        let mut p = 1.326_472_7e-3_f32;
        p = p.mul_add(r, 9.671_513e-3);
        p = p.mul_add(r, 5.550_733_7e-2);
        p = p.mul_add(r, 2.402_224_2e-1);
        p = p.mul_add(r, std::f32::consts::LN_2);
        p = p.mul_add(r, 1.0);
        *result = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    }
    result
}
