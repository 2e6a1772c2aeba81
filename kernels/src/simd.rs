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

/// What portable Rust cannot say well.
pub trait Simd {
    /// f16 bits to f32.
    fn widen(halves: &[u16; LANES]) -> Lanes;
}

pub struct Scalar;

impl Simd for Scalar {
    #[inline(always)]
    fn widen(halves: &[u16; LANES]) -> Lanes {
        halves.map(|bits| f16::from_bits(bits).to_f32())
    }
}

/// Only [`per_isa!`] names this type, inside a function that may use AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
pub struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
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
}

/// Only [`per_isa!`] names this type, inside a function that may use AVX-512.
#[cfg(target_arch = "x86_64")]
pub struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
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
}

/// Only [`per_isa!`] names this type, inside a function that may use NEON.
#[cfg(target_arch = "aarch64")]
pub struct Neon;

#[cfg(target_arch = "aarch64")]
impl Simd for Neon {
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
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
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
pub fn sum(mut lanes: Lanes) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
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
