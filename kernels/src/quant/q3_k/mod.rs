//! Q3_K: 256 values in 16 groups of 16, `d · (scale - 32) · (q - 4)`, q of 3 bits, scale of 6.

use half::f16;

use super::block::{Block, Fields};
use super::q2_k::two_bit_group;

#[repr(C)]
pub struct BlockQ3_K {
    /// Third bits: bit k of byte i belongs to value 32k + i.
    pub hmask: [u8; 32],
    /// Low two bits, laid out as in Q2_K.
    pub qs: [u8; 64],
    /// Sixteen 6-bit scales, see [`BlockQ3_K::scale`].
    pub scales: [u8; 12],
    pub d: f16,
}

const _: () = assert!(size_of::<BlockQ3_K>() == 110);

impl BlockQ3_K {
    /// Scale of a group, -32..32. The low four bits of scales 0..8 and 8..16 are the nibbles of bytes
    /// 0..8; the high two bits are spread over bytes 8..12, four scales apart.
    pub fn scale(&self, group: usize) -> i8 {
        let low = (self.scales[group % 8] >> (4 * (group / 8))) & 0x0f;
        let high = (self.scales[8 + group % 4] >> (2 * (group / 4))) & 3;
        (low | (high << 4)) as i8 - 32
    }
}

impl Block for BlockQ3_K {
    const VALUES: usize = 256;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ3_K { hmask: fields.bytes(), qs: fields.bytes(), scales: fields.bytes(), d: fields.f16() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (group, values) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(self.scale(group));
            let (bytes, shift) = two_bit_group(&self.qs, group);
            let masks = &self.hmask[(group % 2) * 16..][..16];
            for ((value, byte), mask) in values.iter_mut().zip(bytes).zip(masks) {
                let third = (mask >> (group / 2)) & 1;
                let q = ((byte >> shift) & 3) as i8 - if third == 1 { 0 } else { 4 };
                *value = scale * f32::from(q);
            }
        }
    }
}
