//! One row per tensor format.

use half::{bf16, f16};

use super::block::{Block, dequantize_blocks};
use super::iq4_nl::BlockIQ4_NL;
use super::iq4_xs::BlockIQ4_XS;
use super::mxfp4::BlockMXFP4;
use super::q2_k::BlockQ2_K;
use super::q3_k::BlockQ3_K;
use super::q4_0::BlockQ4_0;
use super::q4_1::BlockQ4_1;
use super::q4_k::BlockQ4_K;
use super::q5_0::BlockQ5_0;
use super::q5_1::BlockQ5_1;
use super::q5_k::BlockQ5_K;
use super::q6_k::BlockQ6_K;
use super::q8_0::BlockQ8_0;

/// A tensor element format this crate computes with. Names are GGUF's.
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

/// What the crate knows of one format.
struct Row {
    format: Format,
    name: &'static str,
    block_values: usize,
    block_bytes: usize,
    dequantize: fn(&[u8], &mut [f32]),
}

impl Row {
    const fn of<B: Block>(format: Format, name: &'static str) -> Row {
        Row {
            format,
            name,
            block_values: B::VALUES,
            block_bytes: size_of::<B>(),
            dequantize: dequantize_blocks::<B>,
        }
    }
}

/// In the order of [`Format`]'s variants.
static ROWS: [Row; 16] = [
    Row::of::<f32>(Format::F32, "F32"),
    Row::of::<f16>(Format::F16, "F16"),
    Row::of::<bf16>(Format::BF16, "BF16"),
    Row::of::<BlockQ4_0>(Format::Q4_0, "Q4_0"),
    Row::of::<BlockQ4_1>(Format::Q4_1, "Q4_1"),
    Row::of::<BlockQ5_0>(Format::Q5_0, "Q5_0"),
    Row::of::<BlockQ5_1>(Format::Q5_1, "Q5_1"),
    Row::of::<BlockQ8_0>(Format::Q8_0, "Q8_0"),
    Row::of::<BlockQ2_K>(Format::Q2_K, "Q2_K"),
    Row::of::<BlockQ3_K>(Format::Q3_K, "Q3_K"),
    Row::of::<BlockQ4_K>(Format::Q4_K, "Q4_K"),
    Row::of::<BlockQ5_K>(Format::Q5_K, "Q5_K"),
    Row::of::<BlockQ6_K>(Format::Q6_K, "Q6_K"),
    Row::of::<BlockIQ4_NL>(Format::IQ4_NL, "IQ4_NL"),
    Row::of::<BlockIQ4_XS>(Format::IQ4_XS, "IQ4_XS"),
    Row::of::<BlockMXFP4>(Format::MXFP4, "MXFP4"),
];

// `Format::row` indexes by variant.
const _: () = {
    let mut index = 0;
    while index < ROWS.len() {
        assert!(ROWS[index].format as usize == index);
        index += 1;
    }
};

impl Format {
    /// Every format, for tests and listings.
    pub fn all() -> impl Iterator<Item = Format> {
        ROWS.iter().map(|row| row.format)
    }

    /// The format GGUF tools call `name`.
    pub fn from_name(name: &str) -> Option<Format> {
        Format::all().find(|format| format.name() == name)
    }

    /// Name as GGUF tools print it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// (values, bytes) of one block.
    pub fn block(self) -> (usize, usize) {
        (self.row().block_values, self.row().block_bytes)
    }

    /// Bytes of `values` elements, or `None` when they do not fill whole blocks or overflow.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let (block_values, block_bytes) = self.block();
        values.is_multiple_of(block_values).then(|| (values / block_values).checked_mul(block_bytes))?
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
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
    (format.row().dequantize)(bytes, out);
}
