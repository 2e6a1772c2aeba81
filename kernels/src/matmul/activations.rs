//! Inputs of a quantised product: int8 with one f32 scale for each 32 values.
//!
//! Rows are laid out for the kernels in groups of a few ("column groups", as they are columns of the
//! product): inside a group, block by block, each row's 32 codes one after another. A kernel then reads
//! its inputs as one stream, whatever the row length, with no two rows of a group at a distance that
//! maps to the same cache set.

use super::input::Source;
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
    /// Of each row of inputs.
    places: Vec<Place>,
    columns: usize,
}

impl Quantized {
    /// Quantises the rows of `source` for kernels that take rows in groups of the descending `widths`, of
    /// which the last is 1. Rows that belong together stay in one group.
    ///
    /// # Panics
    /// When `columns` is not a multiple of [`BLOCK`]; weights of such a shape are never packed so.
    pub fn fill(
        &mut self,
        isa: Isa,
        source: Source<'_>,
        precision: Precision,
        widths: &[usize],
        pool: &WorkerPool,
    ) {
        let columns = source.columns();
        assert!(columns > 0 && columns.is_multiple_of(BLOCK));
        let each = precision.rows();
        let rows = source.rows() * each;
        self.columns = columns;
        self.codes.resize(rows * columns, 0);
        self.headers.resize(rows * columns / BLOCK, BlockHeader::default());
        self.groups.clear();
        self.places.clear();
        let mut first = 0;
        while first < rows {
            let fits = |&width: &usize| width <= rows - first && width.is_multiple_of(each);
            let count = widths.iter().copied().find(fits).unwrap_or(each);
            self.groups.push(ColumnGroup { first, count });
            let blocks = columns / BLOCK;
            self.places.extend(
                (0..count).step_by(each).map(|index| Place { at: first * blocks + index, step: count }),
            );
            first += count;
        }
        let codes = SendPtr(self.codes.as_mut_ptr().cast::<[i8; BLOCK]>());
        let headers = SendPtr(self.headers.as_mut_ptr());
        let places = &self.places;
        source.for_each_row(isa, pool, &|row, values| {
            let Place { at, step } = places[row];
            // SAFETY: both vectors were sized for all rows above. A row's blocks are at its place in its
            // group, a group's rows apart: no two rows share one, and each row is one call's alone.
            let (codes, headers) = unsafe { (codes.get().add(at), headers.get().add(at)) };
            let target = RowTarget { codes, headers, step };
            quantize_row(isa, values, precision, &target);
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

/// Where a row's blocks go: the first, and how many blocks it is from one to the next.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    step: usize,
}

/// A [`Place`] in memory. Whoever makes one vouches that it has room for the row's blocks, and for as
/// many more beside each as [`Precision::rows`] says, which nobody else looks at meanwhile.
struct RowTarget {
    codes: *mut [i8; BLOCK],
    headers: *mut BlockHeader,
    step: usize,
}

impl RowTarget {
    #[inline(always)]
    fn put<S: Rounding>(&self, at: usize, values: &[f32; BLOCK]) -> (&[i8; BLOCK], f32) {
        // SAFETY: see the type.
        let (codes, header) = unsafe { (&mut *self.codes.add(at), &mut *self.headers.add(at)) };
        *header = quantize_block::<S>(values, codes);
        (codes, header.scale)
    }
}

per_isa!(fn quantize_row = quantize_row_body(values: &[f32], precision: Precision, target: &RowTarget));

#[inline(always)]
fn quantize_row_body<S: Simd + Rounding>(values: &[f32], precision: Precision, target: &RowTarget) {
    for (block, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
        let at = block * target.step;
        let (codes, scale) = target.put::<S>(at, values);
        if precision == Precision::Int15 {
            target.put::<S>(at + 1, &left_over(values, codes, scale));
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
    let largest = S::largest_magnitude(values);
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
    use crate::tensor::Tensor;

    fn rows_of(rows: usize, columns: usize) -> Tensor {
        let mut x = Tensor::zeros(rows, columns);
        let values = x.values_mut().iter_mut().enumerate();
        values.for_each(|(i, value)| *value = ((i * 37 % 101) as f32 - 50.0) / 7.0);
        x
    }

    #[test]
    fn codes_and_sums_describe_the_row() {
        let pool = WorkerPool::new(2);
        for rows in [1, 2, 5, 40] {
            let columns = 256;
            let x = rows_of(rows, columns);
            let mut quantized = Quantized::default();
            quantized.fill(Isa::best(), Source::new((&x).into()), Precision::Int8, &[4, 3, 2, 1], &pool);
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
                            let value = x.row(group.first + row)[block * BLOCK + i];
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
        let x = rows_of(rows, columns);
        let mut quantized = Quantized::default();
        let widths = &[4, 3, 2, 1];
        let source = Source::new((&x).into());
        quantized.fill(Isa::best(), source, Precision::Int15, widths, &WorkerPool::new(1));
        let counts: Vec<usize> = quantized.groups().iter().map(|group| group.count).collect();
        assert_eq!(counts, [4, 4, 2]);
        for &group in quantized.groups() {
            let (codes, headers) = quantized.group(group);
            for (at, value) in
                (0..group.count / 2 * columns).map(|i| (i, x.values()[group.first / 2 * columns + i]))
            {
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
