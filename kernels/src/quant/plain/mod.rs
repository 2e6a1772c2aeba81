//! F32, F16, BF16: one value a block, little-endian.

use half::{bf16, f16};

use super::block::{Block, Fields};

impl Block for f32 {
    const VALUES: usize = 1;

    fn parse(fields: &mut Fields<'_>) -> f32 {
        f32::from_le_bytes(fields.bytes())
    }

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = *self;
    }
}

impl Block for f16 {
    const VALUES: usize = 1;

    fn parse(fields: &mut Fields<'_>) -> f16 {
        fields.f16()
    }

    fn dequantize(&self, out: &mut [f32]) {
        out[0] = self.to_f32();
    }
}

impl Block for bf16 {
    const VALUES: usize = 1;

    fn parse(fields: &mut Fields<'_>) -> bf16 {
        bf16::from_bits(fields.u16())
    }

    fn dequantize(&self, out: &mut [f32]) {
        // A shift rather than `to_f32`, which would quieten signalling NaNs.
        out[0] = f32::from_bits(u32::from(self.to_bits()) << 16);
    }
}
