//! Q6_K: 256 values in 16 groups of 16, `d · scale · (q - 32)`, q of 6 bits, scale a signed byte.

use half::f16;

use super::block::{Block, Fields};

#[repr(C)]
pub struct BlockQ6_K {
    /// Low four bits. Each 64 bytes hold 128 values: values 0..64 of them in the low nibbles, 64..128 in
    /// the high ones.
    pub ql: [u8; 128],
    /// High two bits. Each 32 bytes hold 128 values: bits 0-1 the first 32, bits 2-3 the next, and so on.
    pub qh: [u8; 64],
    pub scales: [i8; 16],
    pub d: f16,
}

const _: () = assert!(size_of::<BlockQ6_K>() == 210);

impl BlockQ6_K {
    /// Value `index` of the block before scaling, -32..32.
    pub fn quant(&self, index: usize) -> i8 {
        let (half, place) = (index / 128, index % 128);
        let low = (self.ql[half * 64 + place % 64] >> (4 * (place / 64))) & 0x0f;
        let high = (self.qh[half * 32 + place % 32] >> (2 * (place / 32))) & 3;
        (low | (high << 4)) as i8 - 32
    }
}

impl Block for BlockQ6_K {
    const VALUES: usize = 256;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ6_K { ql: fields.bytes(), qh: fields.bytes(), scales: fields.i8s(), d: fields.f16() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (index, value) in out.iter_mut().enumerate() {
            *value = d * f32::from(self.scales[index / 16]) * f32::from(self.quant(index));
        }
    }
}
