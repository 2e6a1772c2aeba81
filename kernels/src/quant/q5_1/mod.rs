//! Q5_1: 32 values, `d · q + m`, q of 5 bits.

use half::f16;

use super::block::{Block, Fields};
use super::q5_0::expand_five_bits;

#[repr(C)]
pub struct BlockQ5_1 {
    pub d: f16,
    pub m: f16,
    /// Bit i of this little-endian u32 is the fifth bit of value i.
    pub qh: [u8; 4],
    /// Values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl Block for BlockQ5_1 {
    const VALUES: usize = 32;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ5_1 { d: fields.f16(), m: fields.f16(), qh: fields.bytes(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        expand_five_bits(self.qh, &self.qs, out, |q| d * f32::from(q) + m);
    }
}
