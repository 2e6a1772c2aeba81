//! IQ4_XS: 256 values in 8 groups of 32, `d · (scale - 32) · KVALUES[q]`, q of 4 bits, scale of 6.

use half::f16;

use super::block::{Block, Fields, expand_nibbles};
use super::iq4_nl::KVALUES;

#[repr(C)]
pub struct BlockIQ4_XS {
    pub d: f16,
    /// High two bits of the eight scales, group 0 lowest.
    pub scales_h: u16,
    /// Low four bits of the eight scales, a nibble each.
    pub scales_l: [u8; 4],
    /// Each group's 16 bytes: its values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockIQ4_XS>() == 136);

impl BlockIQ4_XS {
    /// Scale of a group, -32..32.
    pub fn scale(&self, group: usize) -> i8 {
        let low = (self.scales_l[group / 2] >> (4 * (group % 2))) & 0x0f;
        let high = (self.scales_h >> (2 * group)) as u8 & 3;
        (low | (high << 4)) as i8 - 32
    }
}

impl Block for BlockIQ4_XS {
    const VALUES: usize = 256;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockIQ4_XS { d: fields.f16(), scales_h: fields.u16(), scales_l: fields.bytes(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (group, (packed, values)) in self.qs.chunks_exact(16).zip(out.chunks_exact_mut(32)).enumerate() {
            let scale = d * f32::from(self.scale(group));
            expand_nibbles(packed, values, |q| scale * f32::from(KVALUES[usize::from(q)]));
        }
    }
}
