//! MXFP4: 32 values of E2M1 with one shared power-of-two exponent (OCP Microscaling Formats 1.0).

use super::block::{Block, Fields, expand_nibbles};

/// E2M1 values doubled, so that they are integers; [`BlockMXFP4::scale`] is halved to match.
pub const KVALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

#[repr(C)]
pub struct BlockMXFP4 {
    /// E8M0: the scale is 2^(e - 127).
    pub e: u8,
    /// Values 0..16 in the low nibbles, 16..32 in the high ones.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockMXFP4>() == 17);

impl BlockMXFP4 {
    /// 2^(e - 128), half the shared scale; exact down to the subnormals 2^-127 and 2^-128.
    pub fn scale(&self) -> f32 {
        let exponent = u32::from(self.e);
        f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
    }
}

impl Block for BlockMXFP4 {
    const VALUES: usize = 32;

    fn parse(fields: &mut Fields<'_>) -> Self {
        let [e] = fields.bytes();
        BlockMXFP4 { e, qs: fields.bytes() }
    }

    fn dequantize(&self, out: &mut [f32]) {
        let scale = self.scale();
        expand_nibbles(&self.qs, out, |q| scale * f32::from(KVALUES[usize::from(q)]));
    }
}
