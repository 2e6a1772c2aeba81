//! Products with plain float weights (F32, F16, BF16), in f32: norms of precision where a file was not
//! quantised. Panels of 16 rows, `[input][row]`.

use crate::simd::{LANES, Lanes, Simd, per_isa};

/// How a dense panel stores its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseKind {
    F32,
    F16,
    BF16,
}

impl DenseKind {
    pub fn bytes(self) -> usize {
        match self {
            DenseKind::F32 => 4,
            DenseKind::F16 | DenseKind::BF16 => 2,
        }
    }
}

/// Columns one call takes together, descending: 6 columns are 12 AVX2 registers of sums.
pub const WIDTHS: &[usize] = &[6, 4, 2, 1];

/// Packs up to 16 rows of `columns` little-endian values, one after another in `source`.
pub fn pack_panel(isa: crate::Isa, kind: DenseKind, source: &[u8], columns: usize, panel: &mut [u8]) {
    match kind {
        DenseKind::F32 => pack_values::<4>(isa, source, columns, panel),
        DenseKind::F16 | DenseKind::BF16 => pack_values::<2>(isa, source, columns, panel),
    }
}

per_isa!(
    fn pack_values<const BYTES: usize> = pack_values_body<BYTES>(source: &[u8], columns: usize, panel: &mut [u8])
);

/// Turns 16 columns at a time, which all rows have in two cache lines or fewer.
#[inline(always)]
fn pack_values_body<S: Simd, const BYTES: usize>(source: &[u8], columns: usize, panel: &mut [u8]) {
    let (panel, _) = panel.as_chunks_mut::<BYTES>();
    let (values, _) = source.as_chunks::<BYTES>();
    for first in (0..columns).step_by(LANES) {
        let count = LANES.min(columns - first);
        for (row, values) in values.chunks_exact(columns).enumerate() {
            let run = &mut panel[first * LANES..][..count * LANES];
            for (place, value) in run.iter_mut().skip(row).step_by(LANES).zip(&values[first..][..count]) {
                *place = *value;
            }
        }
    }
}

/// `tile[column][row]` of one panel times the rows `x[column]`; `x.len()` is one of [`WIDTHS`].
pub fn panel(isa: crate::Isa, kind: DenseKind, weights: &[u8], x: &[&[f32]], tile: &mut [Lanes]) {
    let columns = |n: usize| x.len() == n;
    match () {
        _ if columns(6) => panel_of::<6>(isa, kind, weights, x, tile),
        _ if columns(4) => panel_of::<4>(isa, kind, weights, x, tile),
        _ if columns(2) => panel_of::<2>(isa, kind, weights, x, tile),
        _ => panel_of::<1>(isa, kind, weights, x, tile),
    }
}

per_isa!(fn panel_of<const N: usize> = body<N>(kind: DenseKind, weights: &[u8], x: &[&[f32]], tile: &mut [Lanes]));

#[inline(always)]
fn body<S: Simd, const N: usize>(kind: DenseKind, weights: &[u8], x: &[&[f32]], tile: &mut [Lanes]) {
    let sums = match kind {
        DenseKind::F32 => multiply::<N, 64>(weights, x, |bytes| {
            let mut lanes = [0.0; LANES];
            for (lane, raw) in lanes.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *lane = f32::from_le_bytes(*raw);
            }
            lanes
        }),
        DenseKind::F16 => multiply::<N, 32>(weights, x, |bytes| S::widen(&halves(bytes))),
        DenseKind::BF16 => multiply::<N, 32>(weights, x, |bytes| {
            halves(bytes).map(|bits| f32::from_bits(u32::from(bits) << 16))
        }),
    };
    tile.copy_from_slice(&sums);
}

#[inline(always)]
fn halves(bytes: &[u8; 32]) -> [u16; LANES] {
    let mut halves = [0; LANES];
    for (half, raw) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *half = u16::from_le_bytes(*raw);
    }
    halves
}

#[inline(always)]
fn multiply<const N: usize, const BYTES: usize>(
    weights: &[u8],
    x: &[&[f32]],
    widen: impl Fn(&[u8; BYTES]) -> Lanes,
) -> [Lanes; N] {
    let (steps, _) = weights.as_chunks::<BYTES>();
    let inputs: [&[f32]; N] = std::array::from_fn(|column| &x[column][..steps.len()]);
    let mut sums = [[0.0; LANES]; N];
    for (k, bytes) in steps.iter().enumerate() {
        let weights = widen(bytes);
        for column in 0..N {
            let input = inputs[column][k];
            for lane in 0..LANES {
                sums[column][lane] = weights[lane].mul_add(input, sums[column][lane]);
            }
        }
    }
    sums
}
