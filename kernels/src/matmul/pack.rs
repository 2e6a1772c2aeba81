//! From a file's row-major blocks to panels.

use super::layout::{BLOCK, PANEL_ROWS, Packing, SUPER_BLOCKS};
use crate::quant::Format;

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

/// Packs up to 16 rows (`rows`: each one row's bytes) into one panel. `codes` and `scales` have
/// [`Packing::panel_bytes`] bytes and are zeroed; missing rows stay zero.
pub fn pack_panel(format: Format, packing: Packing, rows: &[&[u8]], codes: &mut [u8], scales: &mut [u8]) {
    let (block_values, block_bytes) = format.block();
    let mut raw = EMPTY;
    for (row, bytes) in rows.iter().enumerate() {
        for (index, block) in bytes.chunks_exact(block_bytes).enumerate() {
            take_apart(format, block, &mut raw);
            let blocks_each = block_values / BLOCK;
            for sub in 0..blocks_each {
                let at = index * blocks_each + sub;
                put_codes(packing, codes, at, row, &raw.codes[sub * BLOCK..][..BLOCK]);
                put_scales(packing, scales, at, row, sub, &raw);
            }
        }
    }
}

/// Bits beside the nibble, and bytes a block.
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

/// Writes one row's 32 codes of block `block`, four of a group at a time.
fn put_codes(packing: Packing, panel: &mut [u8], block: usize, row: usize, codes: &[u8]) {
    let (high_bits, bytes) = code_shape(packing);
    let panel = &mut panel[block * bytes..][..bytes];
    let mut put = |run: usize, word: u32| {
        panel[run * 64 + row * 4..][..4].copy_from_slice(&word.to_le_bytes());
    };
    let groups: [u32; 8] = std::array::from_fn(|group| {
        let code = |j: usize| u32::from(codes[group * 4 + j]);
        code(0) | code(1) << 8 | code(2) << 16 | code(3) << 24
    });
    if high_bits == 4 {
        return groups.into_iter().enumerate().for_each(|(group, word)| put(group, word));
    }
    for z in 0..4 {
        put(z, groups[2 * z] & 0x0F0F_0F0F | (groups[2 * z + 1] & 0x0F0F_0F0F) << 4);
    }
    let high = |group: usize, mask: u32| groups[group] >> 4 & mask;
    match high_bits {
        1 => put(4, (0..8).fold(0, |word, group| word | high(group, 0x0101_0101) << group)),
        2 => {
            for half in 0..2 {
                let word = (0..4).fold(0, |word, g| word | high(half * 4 + g, 0x0303_0303) << (2 * g));
                put(4 + half, word);
            }
        }
        _ => {}
    }
}

/// Writes one row's scales of block `block`, the `sub`-th of its file block.
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
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        codes[i] = byte & 0x0F;
        codes[i + bytes.len()] = byte >> 4;
    }
}

/// Bit `i` of the 32-bit word is bit 4 of code `i`.
fn fifth_bits(word: &[u8], codes: &mut [u8]) {
    for (i, code) in codes.iter_mut().take(32).enumerate() {
        *code |= (word[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// The 12 bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima.
fn six_bit_scales(packed: &[u8], raw: &mut RawBlock) {
    for j in 0..4 {
        raw.sub_scales[j] = (packed[j] & 63) as i8;
        raw.sub_minima[j] = (packed[j + 4] & 63) as i8;
        raw.sub_scales[j + 4] = (packed[j + 8] & 0x0F | (packed[j] >> 6) << 4) as i8;
        raw.sub_minima[j + 4] = (packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4) as i8;
    }
}

/// Flips the sign of f16 bits.
fn negative(bits: u16) -> u16 {
    bits ^ 0x8000
}
