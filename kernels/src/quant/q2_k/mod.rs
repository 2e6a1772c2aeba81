//! Q2_K: 256 values in 16 groups of 16, `d · scale · q - dmin · min`, q of 2 bits, scale and min of 4.

use half::f16;

use super::block::{Block, Fields, nibbles};

#[repr(C)]
pub struct BlockQ2_K {
    /// A group's scale in the low nibble, its min in the high one.
    pub scales: [u8; 16],
    /// Each 32 bytes hold 128 values: bits 0-1 the first 32 of them, bits 2-3 the next 32, and so on.
    pub qs: [u8; 64],
    pub d: f16,
    pub dmin: f16,
}

const _: () = assert!(size_of::<BlockQ2_K>() == 84);

impl Block for BlockQ2_K {
    const VALUES: usize = 256;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ2_K { scales: fields.bytes(), qs: fields.bytes(), d: fields.f16(), dmin: fields.f16() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (group, values) in out.chunks_exact_mut(16).enumerate() {
            let (scale, min) = nibbles(self.scales[group]);
            let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
            let (bytes, shift) = two_bit_group(&self.qs, group);
            for (value, byte) in values.iter_mut().zip(bytes) {
                *value = scale * f32::from((byte >> shift) & 3) - min;
            }
        }
    }
}

/// The 16 bytes that hold a group's two-bit quants, and the shift that brings them down.
pub(super) fn two_bit_group(qs: &[u8; 64], group: usize) -> (&[u8], usize) {
    let (half, run) = (group / 8, group % 8);
    (&qs[half * 32 + (run % 2) * 16..][..16], (run / 2) * 2)
}
