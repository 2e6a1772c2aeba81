//! One row per tensor format.

use half::{bf16, f16};

/// A tensor element format this crate computes with. Names are GGUF's.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

impl Format {
    /// Name as GGUF tools print it.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q8_0 => "Q8_0",
            Format::Q2_K => "Q2_K",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
            Format::IQ4_NL => "IQ4_NL",
            Format::IQ4_XS => "IQ4_XS",
            Format::MXFP4 => "MXFP4",
        }
    }

    /// (values, bytes) of one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Format::F32 => (1, 4),
            Format::F16 | Format::BF16 => (1, 2),
            Format::Q4_0 | Format::IQ4_NL => (32, 18),
            Format::Q4_1 => (32, 20),
            Format::Q5_0 => (32, 22),
            Format::Q5_1 => (32, 24),
            Format::Q8_0 => (32, 34),
            Format::Q2_K => (256, 84),
            Format::Q3_K => (256, 110),
            Format::Q4_K => (256, 144),
            Format::Q5_K => (256, 176),
            Format::Q6_K => (256, 210),
            Format::IQ4_XS => (256, 136),
            Format::MXFP4 => (32, 17),
        }
    }

    /// Bytes of `values` elements, or `None` when they do not fill whole blocks or overflow.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let (block_values, block_bytes) = self.block();
        (values % block_values == 0).then(|| (values / block_values).checked_mul(block_bytes))?
    }
}

/// Writes the values of `bytes` to `out`. `bytes` must hold exactly `out.len()` values.
///
/// # Panics
/// When the two lengths do not match; callers check sizes when a file is opened.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        format.bytes(out.len()),
        Some(bytes.len()),
        "{} bytes for {} values",
        format.name(),
        out.len()
    );
    match format {
        Format::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            }
        }
        Format::F16 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = f16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        Format::BF16 => {
            for (value, raw) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = bf16::from_le_bytes([raw[0], raw[1]]).to_f32();
            }
        }
        other => unimplemented!("{}", other.name()),
    }
}
