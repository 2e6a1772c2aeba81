//! Inputs of a quantised product: int8 with one f32 scale for each 32 values.
//!
//! Rows are laid out for the kernels in groups of a few ("column groups", as they are columns of the
//! product): inside a group, block by block, each row's 32 codes one after another. A kernel then reads
//! its inputs as one stream, whatever the row length, with no two rows of a group at a distance that
//! maps to the same cache set.

use std::ops::Range;

use super::layout::BLOCK;
use super::rounding::{CODE_MAX, Rounding};
use crate::Isa;
use crate::pool::WorkerPool;
use crate::simd::{Simd, per_isa};

/// What a kernel needs to know of one row's block besides its codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct BlockHeader {
    /// Value of one step of the codes.
    pub scale: f32,
    /// scale · sum of codes, of the first half, the second half, and both.
    pub weighted: [f32; 3],
    /// Minus the sum of codes, likewise.
    pub negated: [i32; 3],
    padding: u32,
}

/// Index into [`BlockHeader::weighted`] and [`BlockHeader::negated`] for the whole block.
pub const WHOLE: usize = 2;

/// How exactly a layer's inputs are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// int8: an error of up to 1/254 of each block's largest value.
    #[default]
    Int8,
    /// int8 and what that leaves over, again in int8: about 15 bits, at twice the products. To a kernel
    /// these are two rows, whose results are added.
    Int15,
}

impl Precision {
    /// Quantised rows that make one row of inputs.
    pub fn rows(self) -> usize {
        match self {
            Precision::Int8 => 1,
            Precision::Int15 => 2,
        }
    }
}

/// Rows that one kernel call takes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnGroup {
    pub first: usize,
    pub count: usize,
}

/// Quantised rows. Reused from step to step without new allocations.
#[derive(Default)]
pub struct Quantized {
    codes: Vec<i8>,
    headers: Vec<BlockHeader>,
    groups: Vec<ColumnGroup>,
    columns: usize,
    precision: Precision,
}

impl Quantized {
    /// Quantises `x` (rows x `columns`, row-major) for kernels that take rows in groups of the
    /// descending `widths`, of which the last is 1. Rows that belong together stay in one group.
    ///
    /// # Panics
    /// When `columns` is not a multiple of [`BLOCK`]; weights of such a shape are never packed so.
    pub fn fill(
        &mut self,
        isa: Isa,
        x: &[f32],
        columns: usize,
        precision: Precision,
        widths: &[usize],
        pool: &WorkerPool,
    ) {
        assert!(columns > 0 && columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns));
        let each = precision.rows();
        let rows = x.len() / columns * each;
        self.columns = columns;
        self.precision = precision;
        self.codes.resize(rows * columns, 0);
        self.headers.resize(rows * columns / BLOCK, BlockHeader::default());
        self.groups.clear();
        let mut first = 0;
        while first < rows {
            let fits = |&width: &usize| width <= rows - first && width.is_multiple_of(each);
            let count = widths.iter().copied().find(fits).unwrap_or(each);
            self.groups.push(ColumnGroup { first, count });
            first += count;
        }
        // Below this the hand-over costs more than the work.
        if x.len() < 8192 {
            let Quantized { groups, codes, headers, .. } = self;
            return quantize_groups(isa, groups, x, columns, precision, codes, headers);
        }
        self.fill_parallel(isa, x, pool);
    }

    fn fill_parallel(&mut self, isa: Isa, x: &[f32], pool: &WorkerPool) {
        let (columns, precision) = (self.columns, self.precision);
        let codes = SendPtr(self.codes.as_mut_ptr());
        let headers = SendPtr(self.headers.as_mut_ptr());
        let groups = &self.groups;
        pool.split(groups.len(), 1, &|range: Range<usize>| {
            let groups = &groups[range];
            let (Some(head), Some(tail)) = (groups.first(), groups.last()) else { return };
            let rows = tail.first + tail.count - head.first;
            // SAFETY: ranges of groups are disjoint between threads, so these rows are this thread's
            // alone; both vectors were sized for all rows by `fill` and outlive the call.
            let (codes, headers) = unsafe {
                (
                    std::slice::from_raw_parts_mut(codes.get().add(head.first * columns), rows * columns),
                    std::slice::from_raw_parts_mut(
                        headers.get().add(head.first * columns / BLOCK),
                        rows * columns / BLOCK,
                    ),
                )
            };
            quantize_groups(isa, groups, x, columns, precision, codes, headers);
        });
    }

    /// Quantised rows in all groups.
    pub fn rows(&self) -> usize {
        self.groups.last().map_or(0, |group| group.first + group.count)
    }

    pub fn groups(&self) -> &[ColumnGroup] {
        &self.groups
    }

    /// Codes `[block][row of group][32]` and headers `[block][row of group]` of a group.
    pub fn group(&self, group: ColumnGroup) -> (&[i8], &[BlockHeader]) {
        let codes = &self.codes[group.first * self.columns..][..group.count * self.columns];
        let blocks = self.columns / BLOCK;
        (codes, &self.headers[group.first * blocks..][..group.count * blocks])
    }
}

/// A pointer that worker threads may share, each for its own part.
pub(crate) struct SendPtr<T>(pub *mut T);
// SAFETY: whoever dereferences it proves that threads touch disjoint parts.
unsafe impl<T> Sync for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Send for SendPtr<T> {}

impl<T> SendPtr<T> {
    /// The pointer; a method, so that closures capture the whole wrapper.
    pub fn get(&self) -> *mut T {
        self.0
    }
}

per_isa!(
    /// Quantises consecutive groups; `codes` and `headers` begin with the first group's.
    fn quantize_groups = quantize_groups_body(
        groups: &[ColumnGroup],
        x: &[f32],
        columns: usize,
        precision: Precision,
        codes: &mut [i8],
        headers: &mut [BlockHeader],
    )
);

#[inline(always)]
fn quantize_groups_body<S: Simd + Rounding>(
    groups: &[ColumnGroup],
    x: &[f32],
    columns: usize,
    precision: Precision,
    codes: &mut [i8],
    headers: &mut [BlockHeader],
) {
    let (blocks, each) = (columns / BLOCK, precision.rows());
    let base = groups.first().map_or(0, |group| group.first);
    for group in groups {
        let start = group.first - base;
        let codes = &mut codes[start * columns..][..group.count * columns];
        let (codes, _) = codes.as_chunks_mut::<BLOCK>();
        let headers = &mut headers[start * blocks..][..group.count * blocks];
        for index in (0..group.count).step_by(each) {
            let row = &x[(group.first + index) / each * columns..][..columns];
            for (block, values) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                let at = block * group.count + index;
                headers[at] = quantize_block::<S>(values, &mut codes[at]);
                if precision == Precision::Int15 {
                    let left = left_over(values, &codes[at], headers[at].scale);
                    headers[at + 1] = quantize_block::<S>(&left, &mut codes[at + 1]);
                }
            }
        }
    }
}

/// What quantised values leave unsaid.
#[inline(always)]
fn left_over(values: &[f32; BLOCK], codes: &[i8; BLOCK], scale: f32) -> [f32; BLOCK] {
    let mut left = *values;
    for (left, code) in left.iter_mut().zip(codes) {
        *left = f32::from(*code).mul_add(-scale, *left);
    }
    left
}

/// Symmetric: scale = max|x| / 127, codes rounded to nearest, ties to even. Values that are no numbers
/// become code 0.
#[inline(always)]
fn quantize_block<S: Rounding>(values: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> BlockHeader {
    let largest = S::largest(values);
    let inverse = if largest > 0.0 && largest.is_finite() { CODE_MAX / largest } else { 0.0 };
    let scale = if inverse > 0.0 { largest / CODE_MAX } else { 0.0 };
    let sums = S::round(values, inverse, codes);
    let all = [sums[0], sums[1], sums[0] + sums[1]];
    BlockHeader {
        scale,
        weighted: all.map(|sum| sum as f32 * scale),
        negated: all.map(|sum| -sum),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_sums_describe_the_row() {
        let pool = WorkerPool::new(2);
        for rows in [1, 2, 5, 40] {
            let columns = 256;
            let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let mut quantized = Quantized::default();
            quantized.fill(Isa::best(), &x, columns, Precision::Int8, &[4, 3, 2, 1], &pool);
            assert_eq!(quantized.groups().iter().map(|group| group.count).sum::<usize>(), rows);
            for &group in quantized.groups() {
                let (codes, headers) = quantized.group(group);
                for row in 0..group.count {
                    for block in 0..columns / BLOCK {
                        let at = block * group.count + row;
                        let header = headers[at];
                        let codes = &codes[at * BLOCK..][..BLOCK];
                        let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                        assert_eq!(header.negated[WHOLE], -sum);
                        for (i, &code) in codes.iter().enumerate() {
                            let value = x[(group.first + row) * columns + block * BLOCK + i];
                            assert!((value - f32::from(code) * header.scale).abs() <= header.scale * 0.5001);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn two_rows_say_a_row_to_fifteen_bits() {
        let (columns, rows) = (64, 5);
        let x: Vec<f32> = (0..rows * columns).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let mut quantized = Quantized::default();
        let widths = &[4, 3, 2, 1];
        quantized.fill(Isa::best(), &x, columns, Precision::Int15, widths, &WorkerPool::new(1));
        let counts: Vec<usize> = quantized.groups().iter().map(|group| group.count).collect();
        assert_eq!(counts, [4, 4, 2]);
        for &group in quantized.groups() {
            let (codes, headers) = quantized.group(group);
            for (at, value) in (0..group.count / 2 * columns).map(|i| (i, x[group.first / 2 * columns + i])) {
                let (row, block, k) = (at / columns, at % columns / BLOCK, at % BLOCK);
                let part = |half: usize| {
                    let place = block * group.count + 2 * row + half;
                    f32::from(codes[place * BLOCK + k]) * headers[place].scale
                };
                let largest = headers[block * group.count + 2 * row].scale * 127.0;
                assert!((part(0) + part(1) - value).abs() <= largest / 60_000.0, "{value}");
            }
        }
    }

    #[test]
    fn zeros_and_non_finite_values_stay_defined() {
        let mut codes = [0; BLOCK];
        for bad in [0.0, f32::NAN, f32::INFINITY] {
            let mut values = [0.0; BLOCK];
            values[3] = bad;
            quantize_block::<crate::simd::Scalar>(&values, &mut codes);
            assert_eq!(codes, [0; BLOCK]);
        }
    }
}
