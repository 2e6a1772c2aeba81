//! IQ4_NL: 32 values, `d · KVALUES[q]`, q of 4 bits into a codebook denser near zero.

use half::f16;

use super::block::{Block, Fields, expand_nibbles};

/// Codebook of IQ4_NL and IQ4_XS.
pub const KVALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[repr(C)]
pub struct BlockIQ4_NL {
    pub d: f16,
    /// Values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockIQ4_NL>() == 18);

impl Block for BlockIQ4_NL {
    const VALUES: usize = 32;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockIQ4_NL { d: fields.f16(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        expand_nibbles(&self.qs, out, |q| d * f32::from(KVALUES[usize::from(q)]));
    }
}
