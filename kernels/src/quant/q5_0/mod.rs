//! Q5_0: 32 values, `d · (q - 16)`, q of 5 bits.

use half::f16;

use super::block::{Block, Fields, nibbles};

#[repr(C)]
pub struct BlockQ5_0 {
    pub d: f16,
    /// Bit i of this little-endian u32 is the fifth bit of value i.
    pub qh: [u8; 4],
    /// Values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl Block for BlockQ5_0 {
    const VALUES: usize = 32;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ5_0 { d: fields.f16(), qh: fields.bytes(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        expand_five_bits(self.qh, &self.qs, out, |q| d * (f32::from(q) - 16.0));
    }
}

/// Writes `value(quant)` for 32 five-bit quants: nibbles in `qs`, fifth bits in `qh`.
pub(super) fn expand_five_bits(qh: [u8; 4], qs: &[u8; 16], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let fifth_bits = u32::from_le_bytes(qh);
    let fifth = |index: usize| ((fifth_bits >> index) as u8 & 1) << 4;
    for (index, byte) in qs.iter().enumerate() {
        let (low, high) = nibbles(*byte);
        out[index] = value(low | fifth(index));
        out[index + 16] = value(high | fifth(index + 16));
    }
}
