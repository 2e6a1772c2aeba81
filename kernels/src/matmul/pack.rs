//! From a file's row-major blocks to panels.

use super::layout::{BLOCK, PANEL_ROWS, Packing, SUPER_BLOCKS};
use crate::quant::Format;
use crate::simd::{Simd, per_isa};

/// One file block taken apart: codes as they are stored (before offset or table), and its factors.
struct RawBlock {
    codes: [u8; 256],
    /// f16 bits; for MXFP4 the exponent byte.
    scale: u16,
    /// f16 bits of the minimum's factor, sign already such that weights *add* it.
    minimum: u16,
    /// k-quants: scales and minima of 32, or of 16 inputs.
    sub_scales: [i8; 16],
    sub_minima: [i8; 16],
}

const EMPTY: RawBlock =
    RawBlock { codes: [0; 256], scale: 0, minimum: 0, sub_scales: [0; 16], sub_minima: [0; 16] };

per_isa!(
    /// Packs up to 16 rows of `columns` inputs, one after another in `source`, into one panel. `codes` and
    /// `scales` have [`Packing::panel_bytes`] bytes and are zeroed; missing rows stay zero.
    pub fn pack_panel = pack_panel_body(
        format: Format,
        source: &[u8],
        columns: usize,
        codes: &mut [u8],
        scales: &mut [u8],
    )
);

/// Each format gets its own loop, in which what depends on the format is known to the compiler.
#[inline(always)]
fn pack_panel_body<S: Simd>(
    format: Format,
    source: &[u8],
    columns: usize,
    codes: &mut [u8],
    scales: &mut [u8],
) {
    macro_rules! with_known_format {
        ($($format:ident)*) => {
            match format {
                $(Format::$format => pack_rows(Format::$format, source, columns, codes, scales),)*
                Format::F32 | Format::F16 | Format::BF16 => unreachable!("plain floats have no codes"),
            }
        };
    }
    with_known_format!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4);
}

#[inline(always)]
fn pack_rows(format: Format, source: &[u8], columns: usize, codes: &mut [u8], scales: &mut [u8]) {
    let packing = Packing::of(format).expect("formats with codes have a layout");
    let (block_values, block_bytes) = format.block();
    let blocks_each = block_values / BLOCK;
    let row_bytes = columns / block_values * block_bytes;
    let mut raw = EMPTY;
    for index in 0..columns / block_values {
        for (row, bytes) in source.chunks_exact(row_bytes).take(PANEL_ROWS).enumerate() {
            take_apart(format, &bytes[index * block_bytes..][..block_bytes], &mut raw);
            for sub in 0..blocks_each {
                let at = index * blocks_each + sub;
                put_codes(packing, codes, at, row, &raw.codes.as_chunks().0[sub]);
                put_scales(packing, scales, at, row, sub, &raw);
            }
        }
    }
}

/// Bits beside the nibble, and bytes a block.
#[inline(always)]
fn code_shape(packing: Packing) -> (u32, usize) {
    use Packing::*;
    match packing {
        ByteDirect => (4, 512),
        Five16Direct | FiveDirectMinimum | FiveSuperMinimum => (1, 320),
        SixSuperHalves => (2, 384),
        Four8Direct
        | FourDirectMinimum
        | FourSuperMinimum
        | FourSuperHalvesMinimum
        | NonLinearDirect
        | NonLinearSuper
        | FloatExponent => (0, 256),
    }
}

/// Writes one row's 32 codes of block `block`, two groups of four at a time.
#[inline(always)]
fn put_codes(packing: Packing, panel: &mut [u8], block: usize, row: usize, codes: &[u8; BLOCK]) {
    let (high_bits, bytes) = code_shape(packing);
    // 64 bytes a run, of which each row has one word.
    let panel = &mut panel[block * bytes..][..bytes];
    let mut put = |run: usize, word: u64| {
        panel[run * 64 + row * 4..][..4].copy_from_slice(&(word as u32).to_le_bytes());
    };
    let mut pairs = [0_u64; 4];
    for (pair, bytes) in pairs.iter_mut().zip(codes.as_chunks().0) {
        *pair = u64::from_le_bytes(*bytes);
    }
    if high_bits == 4 {
        for (z, pair) in pairs.into_iter().enumerate() {
            put(2 * z, pair);
            put(2 * z + 1, pair >> 32);
        }
        return;
    }
    for (z, pair) in pairs.into_iter().enumerate() {
        put(z, pair & 0x0F0F_0F0F | pair >> 28 & 0xF0F0_F0F0);
    }
    // The bits above the nibble of a pair's first group at `shift`, those of its second right above.
    let high = |pair: u64, mask: u64, shift: usize| {
        (pair >> 4 & mask) << shift | (pair >> 36 & mask) << (shift + high_bits as usize)
    };
    match high_bits {
        1 => put(4, (0..4).fold(0, |word, z| word | high(pairs[z], 0x0101_0101, 2 * z))),
        2 => {
            for half in 0..2 {
                let mask = 0x0303_0303;
                put(4 + half, high(pairs[2 * half], mask, 0) | high(pairs[2 * half + 1], mask, 4));
            }
        }
        _ => {}
    }
}

/// Writes one row's scales of block `block`, the `sub`-th of its file block.
#[inline(always)]
fn put_scales(packing: Packing, panel: &mut [u8], block: usize, row: usize, sub: usize, raw: &RawBlock) {
    use Packing::*;
    let mut put_half = |at: usize, bits: u16| panel[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    let (halves, minimum) = match packing {
        Four8Direct | Five16Direct | ByteDirect | NonLinearDirect => {
            return put_half(block * 32 + row * 2, raw.scale);
        }
        FourDirectMinimum | FiveDirectMinimum => {
            put_half(block * 64 + row * 2, raw.scale);
            return put_half(block * 64 + 32 + row * 2, raw.minimum);
        }
        FloatExponent => {
            panel[block * 16 + row] = raw.scale as u8;
            return;
        }
        FourSuperMinimum | FiveSuperMinimum => (1, true),
        SixSuperHalves => (2, false),
        FourSuperHalvesMinimum => (2, true),
        NonLinearSuper => (1, false),
    };
    let kinds = 1 + usize::from(minimum);
    let (factors, block_bytes) = (32 * kinds, 16 * halves * kinds);
    let start = block / SUPER_BLOCKS * (factors + SUPER_BLOCKS * block_bytes);
    put_half(start + row * 2, raw.scale);
    if minimum {
        put_half(start + 32 + row * 2, raw.minimum);
    }
    for half in 0..halves {
        let at = start + factors + block % SUPER_BLOCKS * block_bytes + half * 16 * kinds + row;
        panel[at] = raw.sub_scales[sub * halves + half] as u8;
        if minimum {
            panel[at + PANEL_ROWS] = raw.sub_minima[sub * halves + half] as u8;
        }
    }
}

/// Reads one file block. Layouts: `ggml-common.h`; meanings: [`crate::quant`].
#[inline(always)]
fn take_apart(format: Format, block: &[u8], raw: &mut RawBlock) {
    let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    match format {
        Format::Q4_0 | Format::IQ4_NL => {
            raw.scale = half(0);
            nibbles(&block[2..18], &mut raw.codes);
        }
        Format::Q4_1 => {
            (raw.scale, raw.minimum) = (half(0), half(2));
            nibbles(&block[4..20], &mut raw.codes);
        }
        Format::Q5_0 => {
            raw.scale = half(0);
            nibbles(&block[6..22], &mut raw.codes);
            fifth_bits(&block[2..6], &mut raw.codes);
        }
        Format::Q5_1 => {
            (raw.scale, raw.minimum) = (half(0), half(2));
            nibbles(&block[8..24], &mut raw.codes);
            fifth_bits(&block[4..8], &mut raw.codes);
        }
        Format::Q8_0 => {
            raw.scale = half(0);
            raw.codes[..32].copy_from_slice(&block[2..34]);
        }
        Format::MXFP4 => {
            raw.scale = u16::from(block[0]);
            nibbles(&block[1..17], &mut raw.codes);
        }
        Format::Q4_K => {
            (raw.scale, raw.minimum) = (half(0), negative(half(2)));
            six_bit_scales(&block[4..16], raw);
            for (chunk, bytes) in block[16..144].chunks_exact(32).enumerate() {
                nibbles(bytes, &mut raw.codes[chunk * 64..]);
            }
        }
        Format::Q5_K => {
            (raw.scale, raw.minimum) = (half(0), negative(half(2)));
            six_bit_scales(&block[4..16], raw);
            for (chunk, bytes) in block[48..176].chunks_exact(32).enumerate() {
                nibbles(bytes, &mut raw.codes[chunk * 64..]);
            }
            for (run, codes) in raw.codes.chunks_exact_mut(32).enumerate() {
                for (code, bits) in codes.iter_mut().zip(&block[16..48]) {
                    *code |= (bits >> run & 1) << 4;
                }
            }
        }
        Format::Q6_K => take_apart_q6_k(block, raw),
        Format::Q3_K => take_apart_q3_k(block, raw),
        Format::Q2_K => take_apart_q2_k(block, raw),
        Format::IQ4_XS => take_apart_iq4_xs(block, raw),
        Format::F32 | Format::F16 | Format::BF16 => unreachable!("plain floats have no codes"),
    }
}

#[inline(always)]
fn take_apart_q6_k(block: &[u8], raw: &mut RawBlock) {
    raw.scale = u16::from_le_bytes([block[208], block[209]]);
    for (i, scale) in raw.sub_scales.iter_mut().enumerate() {
        *scale = block[192 + i] as i8;
    }
    // Halves of 128; in each, four runs of 32 share 64 bytes of nibbles and 32 of bit pairs.
    for half in 0..2 {
        let low = &block[half * 64..][..64];
        let high = &block[128 + half * 32..][..32];
        let codes = &mut raw.codes[half * 128..][..128];
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            let low = &low[run % 2 * 32..][..32];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                *code = low >> (run / 2 * 4) & 0x0F | (high >> (run * 2) & 3) << 4;
            }
        }
    }
}

#[inline(always)]
fn take_apart_q3_k(block: &[u8], raw: &mut RawBlock) {
    raw.scale = u16::from_le_bytes([block[108], block[109]]);
    let packed = &block[96..108];
    for (i, scale) in raw.sub_scales.iter_mut().enumerate() {
        let low = packed[i % 8] >> (i / 8 * 4) & 0x0F;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = (low | high << 4) as i8 - 32;
    }
    for (i, code) in raw.codes.iter_mut().enumerate() {
        let (half, run, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = block[32 + half * 32 + lane] >> (run * 2) & 3;
        let high = block[lane] >> (half * 4 + run) & 1;
        // Values -4..=3, moved to the offset of six-bit codes.
        *code = (low | high << 2) + 32 - 4;
    }
}

#[inline(always)]
fn take_apart_q2_k(block: &[u8], raw: &mut RawBlock) {
    raw.scale = u16::from_le_bytes([block[80], block[81]]);
    raw.minimum = negative(u16::from_le_bytes([block[82], block[83]]));
    for (i, both) in block[..16].iter().enumerate() {
        raw.sub_scales[i] = (both & 0x0F) as i8;
        raw.sub_minima[i] = (both >> 4) as i8;
    }
    for (i, code) in raw.codes.iter_mut().enumerate() {
        *code = block[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
}

#[inline(always)]
fn take_apart_iq4_xs(block: &[u8], raw: &mut RawBlock) {
    raw.scale = u16::from_le_bytes([block[0], block[1]]);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for i in 0..8 {
        let low = block[4 + i / 2] >> (i % 2 * 4) & 0x0F;
        raw.sub_scales[i] = (low | ((high >> (2 * i) & 3) as u8) << 4) as i8 - 32;
        nibbles(&block[8 + 16 * i..][..16], &mut raw.codes[32 * i..]);
    }
}

/// Low nibbles of all bytes, then their high nibbles.
#[inline(always)]
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        codes[i] = byte & 0x0F;
        codes[i + bytes.len()] = byte >> 4;
    }
}

/// Bit `i` of the 32-bit word is bit 4 of code `i`.
#[inline(always)]
fn fifth_bits(word: &[u8], codes: &mut [u8]) {
    for (i, code) in codes.iter_mut().take(32).enumerate() {
        *code |= (word[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// The 12 bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima.
#[inline(always)]
fn six_bit_scales(packed: &[u8], raw: &mut RawBlock) {
    for j in 0..4 {
        raw.sub_scales[j] = (packed[j] & 63) as i8;
        raw.sub_minima[j] = (packed[j + 4] & 63) as i8;
        raw.sub_scales[j + 4] = (packed[j + 8] & 0x0F | (packed[j] >> 6) << 4) as i8;
        raw.sub_minima[j + 4] = (packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4) as i8;
    }
}

/// Flips the sign of f16 bits.
#[inline(always)]
fn negative(bits: u16) -> u16 {
    bits ^ 0x8000
}
