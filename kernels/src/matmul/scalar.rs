//! The meaning of the quantised product, panel by panel; every other file must agree bit for bit.
//!
//! Order of float operations, which all instruction sets share: for each block (and half, where scales
//! are per half) `sum = fma(dot, weight_scale · input_scale, sum)`, then, with minima,
//! `sum = fma(minimum, input_scale · Σ codes, sum)`.

use half::f16;

use super::PanelArgs;
use super::activations::WHOLE;
use super::layout::*;

/// Value of row `row`, input `k` of block `block`.
fn code<C: Codes>(panel: &[u8], block: usize, row: usize, k: usize) -> i32 {
    let bytes = &panel[block * C::BYTES..][..C::BYTES];
    let (group, lane) = (k / 4, row * 4 + k % 4);
    if C::BYTES == Byte::BYTES {
        return i32::from(bytes[group * 64 + lane] as i8);
    }
    let mut code = bytes[group / 2 * 64 + lane] >> (group % 2 * 4) & 0x0F;
    if let Some(table) = C::TABLE {
        return i32::from(table[code as usize]);
    }
    if C::BYTES == Five::<0>::BYTES {
        code |= (bytes[256 + lane] >> group & 1) << 4;
    }
    if C::BYTES == Six::BYTES {
        code |= (bytes[256 + group / 4 * 64 + lane] >> (group % 4 * 2) & 3) << 4;
    }
    i32::from(code) - C::OFFSET
}

/// Scales as every instruction set must read them.
pub trait ReadScales: Scales {
    /// (scale, minimum) of `row` in `half` of `block`.
    fn read(panel: &[u8], block: usize, half: usize, row: usize) -> (f32, f32);
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

impl<const MINIMUM: bool> ReadScales for Direct<MINIMUM> {
    fn read(panel: &[u8], block: usize, _half: usize, row: usize) -> (f32, f32) {
        let at = Self::bytes(block) + row * 2;
        (half_at(panel, at), if MINIMUM { half_at(panel, at + 32) } else { 0.0 })
    }
}

impl ReadScales for Exponent {
    fn read(panel: &[u8], block: usize, _half: usize, row: usize) -> (f32, f32) {
        (half_of_exponent(panel[block * 16 + row]), 0.0)
    }
}

/// 2^(exponent - 128), half of the E8M0 value, as table entries are doubled.
pub fn half_of_exponent(exponent: u8) -> f32 {
    match exponent {
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        _ => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}

impl<const HALVES: usize, const MINIMUM: bool> ReadScales for Super<HALVES, MINIMUM> {
    fn read(panel: &[u8], block: usize, half: usize, row: usize) -> (f32, f32) {
        let start = block / SUPER_BLOCKS * Self::STRIDE;
        let kinds = 1 + usize::from(MINIMUM);
        let at = start + Self::FACTORS + block % SUPER_BLOCKS * Self::BLOCK_BYTES + half * 16 * kinds + row;
        let scale = half_at(panel, start + row * 2) * f32::from(panel[at] as i8);
        let minimum = match MINIMUM {
            true => half_at(panel, start + 32 + row * 2) * f32::from(panel[at + 16] as i8),
            false => 0.0,
        };
        (scale, minimum)
    }
}

/// One panel times one column group: `tile[column][row]`.
fn panel<C: Codes, S: ReadScales>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    let count = tile.len();
    for (column, sums) in tile.iter_mut().enumerate() {
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = 0.0;
            for block in 0..args.blocks {
                let header = &args.headers[block * count + column];
                let x = &args.x[(block * count + column) * BLOCK..][..BLOCK];
                let per_half = BLOCK / S::HALVES;
                for half in 0..S::HALVES {
                    let range = half * per_half..(half + 1) * per_half;
                    let dot: i32 =
                        range.map(|k| code::<C>(args.codes, block, row, k) * i32::from(x[k])).sum();
                    let (scale, minimum) = S::read(args.scales, block, half, row);
                    *sum = (dot as f32).mul_add(scale * header.scale, *sum);
                    if S::MINIMUM {
                        let weighted = header.weighted[if S::HALVES == 1 { WHOLE } else { half }];
                        *sum = minimum.mul_add(weighted, *sum);
                    }
                }
            }
        }
    }
}

/// The kernel of a layout.
pub fn kernel(packing: Packing) -> fn(&PanelArgs<'_>, &mut [[f32; PANEL_ROWS]]) {
    macro_rules! pick {
        ($($packing:ident => $codes:ty, $scales:ty;)*) => {
            match packing { $(Packing::$packing => panel::<$codes, $scales>,)* }
        };
    }
    for_each_packing!(pick)
}
