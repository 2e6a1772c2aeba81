//! Q4_K: 256 values in 8 groups of 32, `d · scale · q - dmin · min`, q of 4 bits, scale and min of 6.

use half::f16;

use super::block::{Block, Fields};

#[repr(C)]
pub struct BlockQ4_K {
    pub d: f16,
    pub dmin: f16,
    /// Eight scales and eight mins of 6 bits, see [`scale_min`].
    pub scales: [u8; 12],
    /// Each 32 bytes hold two groups: the first in the low nibbles, the second in the high ones.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4_K>() == 144);

impl Block for BlockQ4_K {
    const VALUES: usize = 256;

    fn parse(fields: &mut Fields<'_>) -> Self {
        BlockQ4_K { d: fields.f16(), dmin: fields.f16(), scales: fields.bytes(), qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (pair, (packed, values)) in self.qs.chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
            let (low, high) = values.split_at_mut(32);
            for (group, values) in [(2 * pair, low), (2 * pair + 1, high)] {
                let (scale, min) = scale_min(&self.scales, group);
                let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
                let shift = 4 * (group % 2);
                for (value, byte) in values.iter_mut().zip(packed) {
                    *value = scale * f32::from((byte >> shift) & 0x0f) - min;
                }
            }
        }
    }
}

/// (scale, min) of one of the 8 groups, each 0..64; shared by Q4_K and Q5_K.
///
/// Groups 0..4 have theirs in the low six bits of bytes 0..4 and 4..8. Groups 4..8 take their low four
/// bits from the nibbles of bytes 8..12 and their high two bits from the tops of the first eight bytes.
pub fn scale_min(scales: &[u8; 12], group: usize) -> (u8, u8) {
    if group < 4 {
        return (scales[group] & 63, scales[group + 4] & 63);
    }
    let low = scales[group + 4];
    let scale_high = (scales[group - 4] >> 6) << 4;
    let min_high = (scales[group] >> 6) << 4;
    ((low & 0x0f) | scale_high, (low >> 4) | min_high)
}
