//! One body, compiled once for each instruction set.
//!
//! An op is written once as an `#[inline(always)]` function over a [`Simd`] type, and [`per_isa!`] makes
//! the entry that picks the compilation for an [`crate::Isa`]. Short loops over `[f32; 16]` compile to
//! whole registers by themselves; longer bodies use [`Floats`]. Sums use `mul_add`, in the same order
//! everywhere: results are the same bits on every instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod floats;
#[cfg(target_arch = "aarch64")]
mod neon;

use half::f16;

#[cfg(target_arch = "x86_64")]
pub use avx2::{Avx2, largest_of_8};
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
use floats::portable_floats;
pub use floats::{Floats, exp, exp2};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;

/// Values handled together: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// [`LANES`] floats.
pub type Lanes = [f32; LANES];

/// [`LANES`] words of two 16-bit integers.
pub type Pairs = [u32; LANES];

/// What portable Rust cannot say well.
pub trait Simd: Floats {
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

    fn sums_to_floats(sums: Self::Sums) -> Self::F;

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

/// The specification.
pub struct Scalar;

portable_floats!(Scalar);

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
    fn sums_to_floats(sums: [i32; LANES]) -> Lanes {
        sums.map(|sum| sum as f32)
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
