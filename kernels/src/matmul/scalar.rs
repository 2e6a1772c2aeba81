//! The meaning of the quantised product, panel by panel; every other file must agree bit for bit.
//!
//! Order of float operations, which all instruction sets share. With float scales, for each block
//! `sum = fma(dot, weight_scale · input_scale, sum)`, then, with minima,
//! `sum = fma(minimum, input_scale · Σ codes, sum)`.
//!
//! With the integer scales of k-quants, for each super-block and from zero: `part = fma(Σ scale · dot,
//! input_scale, part)` block by block, the sum over a block's halves; then `sum = fma(part, factor, sum)`;
//! then the same of minima, `part = fma(minimum, input_scale · Σ codes, part)` half by half and `sum =
//! fma(part, minimum_factor, sum)`. A block's `Σ scale · dot` stays below 2^24 in every format, so that it is
//! the same number in integers and in floats.

use std::ops::Range;

use half::f16;

use super::activations::HALF_OFFSET;
use super::kernel::PanelArgs;
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

/// The loop that goes with each kind of scales.
trait Panel: Scales {
    /// Row `row` of a panel times column `column` out of `count`.
    fn dot<C: Codes>(args: &PanelArgs<'_>, count: usize, column: usize, row: usize) -> f32;
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

impl<const MINIMUM: bool> Panel for Direct<MINIMUM> {
    fn dot<C: Codes>(args: &PanelArgs<'_>, count: usize, column: usize, row: usize) -> f32 {
        dot_with_float_scales::<C>(args, count, column, row, |block| {
            let at = Self::bytes(block) + row * 2;
            (half_at(args.scales, at), MINIMUM.then(|| half_at(args.scales, at + 32)))
        })
    }
}

impl Panel for Exponent {
    fn dot<C: Codes>(args: &PanelArgs<'_>, count: usize, column: usize, row: usize) -> f32 {
        dot_with_float_scales::<C>(args, count, column, row, |block| {
            (half_of_exponent(args.scales[block * 16 + row]), None)
        })
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

/// `scales`: (scale, minimum) of a block.
fn dot_with_float_scales<C: Codes>(
    args: &PanelArgs<'_>,
    count: usize,
    column: usize,
    row: usize,
    scales: impl Fn(usize) -> (f32, Option<f32>),
) -> f32 {
    let mut sum = 0.0;
    for block in 0..args.blocks {
        let at = block * count + column;
        let dot = integer_dot::<C>(args, count, column, row, block, 0..BLOCK);
        let (scale, minimum) = scales(block);
        sum = (dot as f32).mul_add(scale * args.headers.scales[at], sum);
        if let Some(minimum) = minimum {
            sum = minimum.mul_add(args.headers.weighted[at], sum);
        }
    }
    sum
}

impl<const HALVES: usize, const MINIMUM: bool> Panel for Super<HALVES, MINIMUM> {
    fn dot<C: Codes>(args: &PanelArgs<'_>, count: usize, column: usize, row: usize) -> f32 {
        let per_half = BLOCK / HALVES;
        let mut sum = 0.0;
        for start in (0..args.blocks).step_by(SUPER_BLOCKS) {
            let scales = &args.scales[start / SUPER_BLOCKS * Self::STRIDE..][..Self::STRIDE];
            let at = |block, half| Self::scales_at(block, half) + row;
            let (mut part, mut minima) = (0.0, 0.0);
            for block in 0..SUPER_BLOCKS {
                let header = (start + block) * count + column;
                let mut dot = 0;
                for half in 0..HALVES {
                    let range = half * per_half..(half + 1) * per_half;
                    let scale = i32::from(scales[at(block, half)] as i8);
                    dot += scale * integer_dot::<C>(args, count, column, row, start + block, range);
                    if MINIMUM {
                        let minimum = f32::from(scales[at(block, half) + 16] as i8);
                        let weighted = match HALVES {
                            1 => args.headers.weighted[header],
                            _ => weighted_half(args, header, half),
                        };
                        minima = minimum.mul_add(weighted, minima);
                    }
                }
                debug_assert!(dot.abs() <= 1 << 24);
                part = (dot as f32).mul_add(args.headers.scales[header], part);
            }
            sum = f32::mul_add(part, half_at(scales, row * 2), sum);
            if MINIMUM {
                sum = f32::mul_add(minima, half_at(scales, 32 + row * 2), sum);
            }
        }
        sum
    }
}

/// scale · sum of the codes of half a block.
fn weighted_half(args: &PanelArgs<'_>, header: usize, half: usize) -> f32 {
    let sum = args.headers.half_offsets[header][half] / -HALF_OFFSET;
    sum as f32 * args.headers.scales[header]
}

/// Over the inputs `range` of a block.
fn integer_dot<C: Codes>(
    args: &PanelArgs<'_>,
    count: usize,
    column: usize,
    row: usize,
    block: usize,
    range: Range<usize>,
) -> i32 {
    let x = &args.x[(block * count + column) * BLOCK..][..BLOCK];
    range.map(|k| code::<C>(args.codes, block, row, k) * i32::from(x[k])).sum()
}

/// One panel times one column group: `tile[column][row]`.
fn panel<C: Codes, S: Panel>(args: &PanelArgs<'_>, tile: &mut [[f32; PANEL_ROWS]]) {
    let count = tile.len();
    for (column, sums) in tile.iter_mut().enumerate() {
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = S::dot::<C>(args, count, column, row);
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
