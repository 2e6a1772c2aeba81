//! Q5_K: 256 values in 8 groups of 32, `d · scale · q - dmin · min`, q of 5 bits, scale and min of 6.

use half::f16;

use super::block::{Block, Fields};
use super::q4_k::scale_min;

#[repr(C)]
pub struct BlockQ5_K {
    pub d: f16,
    pub dmin: f16,
    /// Packed as in Q4_K.
    pub scales: [u8; 12],
    /// Fifth bits: bit g of byte i belongs to value i of group g.
    pub qh: [u8; 32],
    /// Low four bits, laid out as in Q4_K.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5_K>() == 176);

impl Block for BlockQ5_K {
    const VALUES: usize = 256;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ5_K {
            d: fields.f16(),
            dmin: fields.f16(),
            scales: fields.bytes(),
            qh: fields.bytes(),
            qs: fields.bytes(),
        }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (group, values) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&self.scales, group);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            let packed = &self.qs[(group / 2) * 32..][..32];
            for ((value, byte), fifths) in values.iter_mut().zip(packed).zip(self.qh) {
                let q = (byte >> (4 * (group % 2))) & 0x0f | ((fifths >> group) & 1) << 4;
                *value = scale * f32::from(q) - min;
            }
        }
    }
}
