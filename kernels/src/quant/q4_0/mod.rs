//! Q4_0: 32 values, `d · (q - 8)`, q of 4 bits.

use half::f16;

use super::block::{Block, Fields, expand_nibbles};

#[repr(C)]
pub struct BlockQ4_0 {
    pub d: f16,
    /// Values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl Block for BlockQ4_0 {
    const VALUES: usize = 32;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ4_0 { d: fields.f16(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        expand_nibbles(&self.qs, out, |q| d * (f32::from(q) - 8.0));
    }
}
