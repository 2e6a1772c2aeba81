//! Q4_1: 32 values, `d · q + m`, q of 4 bits.

use half::f16;

use super::block::{Block, Fields, expand_nibbles};

#[repr(C)]
pub struct BlockQ4_1 {
    pub d: f16,
    pub m: f16,
    /// Values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == 20);

impl Block for BlockQ4_1 {
    const VALUES: usize = 32;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ4_1 { d: fields.f16(), m: fields.f16(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        expand_nibbles(&self.qs, out, |q| d * f32::from(q) + m);
    }
}
