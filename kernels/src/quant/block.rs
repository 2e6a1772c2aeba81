//! What every block format has in common: a size, a parser and a scalar dequantiser.

use half::f16;

/// One quantisation unit as it lies in a file. The struct's fields, in order and without padding, are
/// the file's bytes (each format asserts its size at compile time), so kernels may also view mapped
/// bytes as blocks.
pub trait Block: Sized {
    /// Values in one block.
    const VALUES: usize;

    /// Parses one block; `fields` holds exactly `size_of::<Self>()` bytes.
    fn parse(fields: &mut Fields<'_>) -> Self;

    /// Writes the block's `VALUES` values to `out`, whose length is exactly that.
    fn dequantize(&self, out: &mut [f32]);

    /// Parses the first `size_of::<Self>()` bytes.
    ///
    /// # Panics
    /// When `bytes` is shorter than a block.
    fn from_bytes(bytes: &[u8]) -> Self {
        Self::parse(&mut Fields(&bytes[..size_of::<Self>()]))
    }
}

/// Dequantises as many blocks as both sides hold.
pub(super) fn dequantize_blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    for (raw, values) in bytes.chunks_exact(size_of::<B>()).zip(out.chunks_exact_mut(B::VALUES)) {
        B::from_bytes(raw).dequantize(values);
    }
}

/// Reads a block's fields in file order, little-endian.
pub struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("a block's fields add up to its size");
        self.0 = rest;
        *field
    }

    pub fn i8s<const N: usize>(&mut self) -> [i8; N] {
        self.bytes().map(|byte: u8| byte as i8)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub fn f16(&mut self) -> f16 {
        f16::from_le_bytes(self.bytes())
    }
}

/// Low and high nibble. In every 32-value run the low nibbles are the first half of the values.
pub(super) fn nibbles(byte: u8) -> (u8, u8) {
    (byte & 0x0f, byte >> 4)
}

/// Writes `value(quant)` for a run of packed nibbles: all low nibbles, then all high ones.
/// `out` is twice as long as `packed`.
pub(super) fn expand_nibbles(packed: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(packed.len());
    for ((byte, low), high) in packed.iter().zip(low).zip(high) {
        let (first, second) = nibbles(*byte);
        *low = value(first);
        *high = value(second);
    }
}
