//! How packed weights lie in memory, and which layout each file format takes.
//!
//! A *panel* is 16 rows. Along the inputs it is cut into *blocks* of 32, and a block into 8 *groups* of
//! 4. Of each block the kernel wants 8 vectors of 64 codes, `[group][row][4 inputs]`: that is one
//! AVX-512 register or two AVX2 registers a group, with every row in its own 32-bit lane, so that dot
//! products never need a horizontal sum. Codes and scales of a panel lie in two separate runs, both
//! aligned to 64 bytes.
//!
//! A weight is `scale · (code - offset) + minimum`, with one scale for 32 inputs or for each half of
//! them. [`Codes`] and [`Scales`] are the two halves of a layout; [`for_each_packing!`] is the table.

use crate::quant::Format;

/// Raise it with every change of what any format is packed to: packed weights are kept on disk, and this
/// number tells those of another layout apart. Should bytes come to depend on the instruction set, this has
/// to name it too. `tests::the_version_stands_for_these_bytes` notices a change.
pub const VERSION: u32 = 1;
/// Rows of a panel.
pub const PANEL_ROWS: usize = 16;
/// Inputs of a block.
pub const BLOCK: usize = 32;
/// Blocks that share a super-block's factors in k-quants.
pub const SUPER_BLOCKS: usize = 8;

/// How codes are stored.
pub trait Codes {
    /// Bytes of one block of one panel.
    const BYTES: usize;
    /// Power of two to subtract from each code; 0 subtracts nothing.
    const OFFSET: i32;
    /// Where a table gives the value of a code (values then already include any offset).
    const TABLE: Option<&'static [i8; 16]> = None;
}

/// 4-bit codes: byte `z*64 + i` holds code `i` of group `2z` (low) and of group `2z + 1` (high).
pub struct Four<const OFFSET: i32>;
/// [`Four`], then 64 bytes whose bit `g` is the fifth bit of the code in group `g`.
pub struct Five<const OFFSET: i32>;
/// [`Four`], then two runs of 64 bytes (groups 0-3, 4-7) with bits 5 and 6 of each code.
pub struct Six;
/// Signed bytes.
pub struct Byte;
/// Bytes of a block of a panel whose codes were expanded to a byte each.
pub const EXPANDED_BLOCK: usize = Byte::BYTES;
/// [`Four`], looked up in the table of IQ4_NL and IQ4_XS.
pub struct FourNonLinear;
/// [`Four`], looked up in the table of MXFP4 (twice the E2M1 values).
pub struct FourFloat;

impl<const OFFSET: i32> Codes for Four<OFFSET> {
    const BYTES: usize = 256;
    const OFFSET: i32 = OFFSET;
}

impl<const OFFSET: i32> Codes for Five<OFFSET> {
    const BYTES: usize = 320;
    const OFFSET: i32 = OFFSET;
}

impl Codes for Six {
    const BYTES: usize = 384;
    const OFFSET: i32 = 32;
}

impl Codes for Byte {
    const BYTES: usize = 512;
    const OFFSET: i32 = 0;
}

impl Codes for FourNonLinear {
    const BYTES: usize = 256;
    const OFFSET: i32 = 0;
    const TABLE: Option<&'static [i8; 16]> = Some(&NON_LINEAR);
}

impl Codes for FourFloat {
    const BYTES: usize = 256;
    const OFFSET: i32 = 0;
    const TABLE: Option<&'static [i8; 16]> = Some(&FLOAT4);
}

/// `kvalues_iq4nl` of ggml-common.h.
pub const NON_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the E2M1 values (OCP Microscaling formats 1.0), so that they are whole; the scale is halved.
pub const FLOAT4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// How scales are stored.
pub trait Scales {
    /// Whether there is a minimum beside each scale.
    const MINIMUM: bool;
    /// Bytes of `blocks` blocks of one panel.
    fn bytes(blocks: usize) -> usize;
}

/// f16 scales `[16]`, then f16 minima `[16]` if any, for each block.
pub struct Direct<const MINIMUM: bool>;
/// Power-of-two exponents `[16]` for each block (E8M0, halved).
pub struct Exponent;
/// k-quants: for each 8 blocks an f16 factor `[16]` (and one for minima), then for each block and half
/// i8 scales `[16]` (and i8 minima `[16]`). `HALVES` is the scales of a block: 1, or 2 (one for each 16
/// inputs).
pub struct Super<const HALVES: usize, const MINIMUM: bool>;

impl<const MINIMUM: bool> Scales for Direct<MINIMUM> {
    const MINIMUM: bool = MINIMUM;
    fn bytes(blocks: usize) -> usize {
        blocks * if MINIMUM { 64 } else { 32 }
    }
}

impl Scales for Exponent {
    const MINIMUM: bool = false;
    fn bytes(blocks: usize) -> usize {
        blocks * 16
    }
}

impl<const HALVES: usize, const MINIMUM: bool> Super<HALVES, MINIMUM> {
    /// Bytes of the factors at the start of a super-block.
    pub const FACTORS: usize = if MINIMUM { 64 } else { 32 };
    /// Bytes of one half's scales and minima.
    const HALF_BYTES: usize = if MINIMUM { 32 } else { 16 };
    /// Bytes of a super-block.
    pub const STRIDE: usize = Self::FACTORS + SUPER_BLOCKS * HALVES * Self::HALF_BYTES;

    /// Where in a super-block the scales of `half` of block `block` begin; their minima follow.
    pub fn scales_at(block: usize, half: usize) -> usize {
        debug_assert!(block < SUPER_BLOCKS && half < HALVES);
        Self::FACTORS + (block * HALVES + half) * Self::HALF_BYTES
    }
}

impl<const HALVES: usize, const MINIMUM: bool> Scales for Super<HALVES, MINIMUM> {
    const MINIMUM: bool = MINIMUM;
    fn bytes(blocks: usize) -> usize {
        blocks.div_ceil(SUPER_BLOCKS) * Self::STRIDE
    }
}

/// A packed layout: one row of the table below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Four8Direct,
    FourDirectMinimum,
    Five16Direct,
    FiveDirectMinimum,
    ByteDirect,
    FourSuperMinimum,
    FiveSuperMinimum,
    SixSuperHalves,
    FourSuperHalvesMinimum,
    NonLinearDirect,
    NonLinearSuper,
    FloatExponent,
}

/// Calls `$with!(packing => Codes, Scales; ...)` for every layout.
macro_rules! for_each_packing {
    ($with:ident) => {
        $with! {
            Four8Direct => Four<8>, Direct<false>;
            FourDirectMinimum => Four<0>, Direct<true>;
            Five16Direct => Five<16>, Direct<false>;
            FiveDirectMinimum => Five<0>, Direct<true>;
            ByteDirect => Byte, Direct<false>;
            FourSuperMinimum => Four<0>, Super<1, true>;
            FiveSuperMinimum => Five<0>, Super<1, true>;
            SixSuperHalves => Six, Super<2, false>;
            FourSuperHalvesMinimum => Four<0>, Super<2, true>;
            NonLinearDirect => FourNonLinear, Direct<false>;
            NonLinearSuper => FourNonLinear, Super<1, false>;
            FloatExponent => FourFloat, Exponent;
        }
    };
}
pub(crate) use for_each_packing;

impl Packing {
    /// The layout a quantised format is packed to; `None` for plain floats.
    #[inline]
    pub fn of(format: Format) -> Option<Packing> {
        Some(match format {
            Format::F32 | Format::F16 | Format::BF16 => return None,
            Format::Q4_0 => Packing::Four8Direct,
            Format::Q4_1 => Packing::FourDirectMinimum,
            Format::Q5_0 => Packing::Five16Direct,
            Format::Q5_1 => Packing::FiveDirectMinimum,
            Format::Q8_0 => Packing::ByteDirect,
            Format::Q4_K => Packing::FourSuperMinimum,
            Format::Q5_K => Packing::FiveSuperMinimum,
            // Three bits fit in six: rare files run, at the size of a Q6_K.
            Format::Q6_K | Format::Q3_K => Packing::SixSuperHalves,
            Format::Q2_K => Packing::FourSuperHalvesMinimum,
            Format::IQ4_NL => Packing::NonLinearDirect,
            Format::IQ4_XS => Packing::NonLinearSuper,
            Format::MXFP4 => Packing::FloatExponent,
        })
    }

    /// Bytes of (codes, scales) of a panel with `blocks` blocks, each a multiple of 64.
    pub fn panel_bytes(self, blocks: usize) -> (usize, usize) {
        macro_rules! sizes {
            ($($packing:ident => $codes:ty, $scales:ty;)*) => {
                match self {
                    $(Packing::$packing => (blocks * <$codes>::BYTES, <$scales>::bytes(blocks)),)*
                }
            };
        }
        let (codes, scales) = for_each_packing!(sizes);
        (codes, scales.next_multiple_of(64))
    }
}
