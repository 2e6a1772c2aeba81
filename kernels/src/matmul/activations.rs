//! Inputs of a quantised product: int8 with one f32 scale for each 32 values.
//!
//! Rows are laid out for the kernels in groups of a few ("column groups", as they are columns of the
//! product): inside a group, block by block, each row's 32 codes one after another. A kernel then reads
//! its inputs as one stream, whatever the row length, with no two rows of a group at a distance that
//! maps to the same cache set.

use std::marker::PhantomData;
use std::ops::Range;

use super::layout::BLOCK;
use super::rounding::{CODE_MAX, Rounding};
use crate::Isa;
use crate::simd::{Simd, per_isa};

/// What kernels need to know of a group's blocks besides their codes, `[block][row of group]`. Each in an
/// array of its own, so that a kernel's cache holds only what its layout asks for.
#[derive(Clone, Copy)]
pub struct Headers<'a> {
    /// Value of one step of the codes.
    pub scales: &'a [f32],
    /// scale · sum of codes.
    pub weighted: &'a [f32],
    /// -[`OFFSET`] · sum of codes: where the integer sums of weights begin that are too large by so much.
    pub offsets: &'a [i32],
    /// -[`HALF_OFFSET`] · sum of the codes of each half.
    pub half_offsets: &'a [[i32; 2]],
}

/// Of [`Headers::offsets`]: a multiple of every offset that weights have with one scale a block.
pub const OFFSET: i32 = 128;
/// Of [`Headers::half_offsets`]: the only offset that weights have with a scale for each half.
pub const HALF_OFFSET: i32 = 32;

impl<'a> Headers<'a> {
    /// Without the first columns of the group.
    #[cfg(target_arch = "x86_64")]
    pub fn skip_columns(&self, first: usize) -> Headers<'a> {
        Headers {
            scales: &self.scales[first..],
            weighted: &self.weighted[first..],
            offsets: &self.offsets[first..],
            half_offsets: &self.half_offsets[first..],
        }
    }

    fn range(&self, range: Range<usize>) -> Headers<'a> {
        Headers {
            scales: &self.scales[range.clone()],
            weighted: &self.weighted[range.clone()],
            offsets: &self.offsets[range.clone()],
            half_offsets: &self.half_offsets[range],
        }
    }

    /// Blocks there are in all rows.
    pub fn len(&self) -> usize {
        let len = self.scales.len();
        assert_eq!([self.weighted.len(), self.offsets.len(), self.half_offsets.len()], [len; 3]);
        len
    }
}

/// What [`Headers`] say of one block.
struct BlockHeader {
    scale: f32,
    /// Sum of the codes of each half.
    sums: [i32; 2],
}

/// The vectors behind [`Headers`].
#[derive(Default)]
struct HeaderStore {
    scales: Vec<f32>,
    weighted: Vec<f32>,
    offsets: Vec<i32>,
    half_offsets: Vec<[i32; 2]>,
}

impl HeaderStore {
    fn resize(&mut self, blocks: usize) {
        self.scales.resize(blocks, 0.0);
        self.weighted.resize(blocks, 0.0);
        self.offsets.resize(blocks, 0);
        self.half_offsets.resize(blocks, [0; 2]);
    }

    fn as_mut(&mut self) -> HeadersMut<'_> {
        HeadersMut {
            store: PhantomData,
            blocks: self.scales.len(),
            scales: SendPtr(self.scales.as_mut_ptr()),
            weighted: SendPtr(self.weighted.as_mut_ptr()),
            offsets: SendPtr(self.offsets.as_mut_ptr()),
            half_offsets: SendPtr(self.half_offsets.as_mut_ptr()),
        }
    }
}

/// A [`HeaderStore`] that threads write, each the blocks of its own rows.
#[derive(Clone, Copy)]
struct HeadersMut<'a> {
    store: PhantomData<&'a mut HeaderStore>,
    blocks: usize,
    scales: SendPtr<f32>,
    weighted: SendPtr<f32>,
    offsets: SendPtr<i32>,
    half_offsets: SendPtr<[i32; 2]>,
}

impl HeadersMut<'_> {
    /// # Safety
    /// Nobody writes them any more.
    unsafe fn read(&self) -> Headers<'_> {
        let blocks = self.blocks;
        // SAFETY: the store has that many blocks in each array and is borrowed as long as `self`; that
        // nobody writes them is the caller's promise.
        unsafe {
            Headers {
                scales: std::slice::from_raw_parts(self.scales.get(), blocks),
                weighted: std::slice::from_raw_parts(self.weighted.get(), blocks),
                offsets: std::slice::from_raw_parts(self.offsets.get(), blocks),
                half_offsets: std::slice::from_raw_parts(self.half_offsets.get(), blocks),
            }
        }
    }

    /// # Safety
    /// There is a block `at`, and no other thread has its row.
    #[inline(always)]
    unsafe fn put(&self, at: usize, BlockHeader { scale, sums }: BlockHeader) {
        let sum = sums[0] + sums[1];
        // SAFETY: the store has as many blocks in each array and is borrowed as long as `self`; the rest is
        // the caller's promise.
        unsafe {
            *self.scales.get().add(at) = scale;
            *self.weighted.get().add(at) = sum as f32 * scale;
            *self.offsets.get().add(at) = -OFFSET * sum;
            *self.half_offsets.get().add(at) = sums.map(|sum| -HALF_OFFSET * sum);
        }
    }
}

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

/// Room for quantised rows. Reused from step to step without new allocations.
#[derive(Default)]
pub struct Room {
    codes: Vec<i8>,
    headers: HeaderStore,
    groups: Vec<ColumnGroup>,
    /// Of each row of inputs.
    places: Vec<Place>,
}

impl Room {
    /// Makes room for `rows` of `columns` values, for kernels that take rows in groups of the descending
    /// `widths`, of which the last is 1. Rows that belong together stay in one group.
    ///
    /// # Panics
    /// When `columns` is not a multiple of [`BLOCK`]; weights of such a shape are never packed so.
    pub fn begin(
        &mut self,
        rows: usize,
        columns: usize,
        precision: Precision,
        widths: &[usize],
    ) -> Filling<'_> {
        assert!(columns > 0 && columns.is_multiple_of(BLOCK));
        let (each, blocks) = (precision.rows(), columns / BLOCK);
        let rows = rows * each;
        self.codes.resize(rows * columns, 0);
        self.headers.resize(rows * blocks);
        self.groups.clear();
        self.places.clear();
        let mut first = 0;
        while first < rows {
            let fits = |&width: &usize| width <= rows - first && width.is_multiple_of(each);
            let count = widths.iter().copied().find(fits).unwrap_or(each);
            self.groups.push(ColumnGroup { first, count });
            self.places.extend(
                (0..count).step_by(each).map(|index| Place { at: first * blocks + index, step: count }),
            );
            first += count;
        }
        Filling {
            codes: SendPtr(self.codes.as_mut_ptr().cast()),
            headers: self.headers.as_mut(),
            groups: &self.groups,
            places: &self.places,
            precision,
            blocks,
        }
    }
}

/// Rows that threads quantise, each its own, before all read them.
pub struct Filling<'a> {
    codes: SendPtr<[i8; BLOCK]>,
    headers: HeadersMut<'a>,
    groups: &'a [ColumnGroup],
    places: &'a [Place],
    precision: Precision,
    blocks: usize,
}

impl Filling<'_> {
    /// Quantises a row of inputs.
    ///
    /// # Safety
    /// No other thread has this row, and nobody holds what [`Filling::filled`] gave.
    pub unsafe fn put(&self, isa: Isa, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.blocks * BLOCK);
        let Place { at, step } = self.places[row];
        // SAFETY: codes and headers were sized for all rows. A row's blocks are at its place in its group, a
        // group's rows apart: no two rows share one, and this row is the caller's alone.
        let codes = unsafe { self.codes.get().add(at) };
        let last = at + (self.blocks - 1) * step + self.precision.rows() - 1;
        assert!(last < self.headers.blocks);
        let target = RowTarget { codes, headers: self.headers, first: at, step };
        quantize_row(isa, values, self.precision, &target);
    }

    /// The rows.
    ///
    /// # Safety
    /// Every row was put, and this thread has met those that did.
    pub unsafe fn filled(&self) -> Quantized<'_> {
        let blocks = self.headers.blocks;
        // SAFETY: there are as many, and nobody writes them any more.
        let codes = unsafe { std::slice::from_raw_parts(self.codes.get().cast(), blocks * BLOCK) };
        // SAFETY: as above.
        let headers = unsafe { self.headers.read() };
        Quantized { codes, headers, groups: self.groups, blocks: self.blocks }
    }
}

/// Quantised rows.
#[derive(Clone, Copy)]
pub struct Quantized<'a> {
    codes: &'a [i8],
    headers: Headers<'a>,
    groups: &'a [ColumnGroup],
    /// Of a row.
    blocks: usize,
}

impl<'a> Quantized<'a> {
    /// Quantised rows in all groups.
    pub fn rows(&self) -> usize {
        self.groups.last().map_or(0, |group| group.first + group.count)
    }

    pub fn groups(&self) -> &'a [ColumnGroup] {
        self.groups
    }

    /// Codes `[block][row of group][32]` and headers `[block][row of group]` of a group.
    pub fn group(&self, group: ColumnGroup) -> (&'a [i8], Headers<'a>) {
        let range = group.first * self.blocks..(group.first + group.count) * self.blocks;
        (&self.codes[range.start * BLOCK..range.end * BLOCK], self.headers.range(range))
    }
}

/// A pointer that worker threads may share, each for its own part.
pub(crate) struct SendPtr<T>(pub *mut T);
// SAFETY: whoever dereferences it proves that threads touch disjoint parts.
unsafe impl<T> Sync for SendPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Send for SendPtr<T> {}

impl<T> Clone for SendPtr<T> {
    fn clone(&self) -> SendPtr<T> {
        *self
    }
}

impl<T> Copy for SendPtr<T> {}

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
#[derive(Clone, Copy)]
struct RowTarget<'a> {
    codes: *mut [i8; BLOCK],
    headers: HeadersMut<'a>,
    /// Place of the first block's header.
    first: usize,
    step: usize,
}

/// Blocks that are quantised together, so that none waits for another's divisions.
const TOGETHER: usize = 8;

per_isa!(fn quantize_row = quantize_row_body(values: &[f32], precision: Precision, target: &RowTarget<'_>));

#[inline(always)]
fn quantize_row_body<S: Simd + Rounding>(values: &[f32], precision: Precision, target: &RowTarget<'_>) {
    // Written bytes could be its own, for all the compiler knows, were it not copied.
    let target = *target;
    let (eights, left) = values.as_chunks::<BLOCK>().0.as_chunks::<TOGETHER>();
    let mut block = 0;
    for values in eights {
        target.put::<S, TOGETHER>(block, values, precision);
        block += TOGETHER;
    }
    for values in left {
        target.put::<S, 1>(block, std::array::from_ref(values), precision);
        block += 1;
    }
}

impl RowTarget<'_> {
    /// Quantises blocks `first..first + N` of the row.
    #[inline(always)]
    fn put<S: Rounding, const N: usize>(
        &self,
        first: usize,
        values: &[[f32; BLOCK]; N],
        precision: Precision,
    ) {
        let at = first * self.step;
        let left = self.put_at::<S, N>(at, values, precision == Precision::Int15);
        if precision == Precision::Int15 {
            self.put_at::<S, N>(at + 1, &left, false);
        }
    }

    /// Quantises blocks to places from `at` on; returns what that leaves over, if wanted.
    #[inline(always)]
    fn put_at<S: Rounding, const N: usize>(
        &self,
        at: usize,
        values: &[[f32; BLOCK]; N],
        wants_left: bool,
    ) -> [[f32; BLOCK]; N] {
        let largest = S::largest_magnitudes(values);
        // Loops, as closures of arrays' methods are not always compiled in place.
        let mut scales = [Scale::default(); N];
        for (scale, largest) in scales.iter_mut().zip(largest) {
            *scale = Scale::of(largest);
        }
        let mut left = [[0.0; BLOCK]; N];
        for i in 0..N {
            let at = at + i * self.step;
            // SAFETY: see the type.
            let codes = unsafe { &mut *self.codes.add(at) };
            let sums = S::round(&values[i], scales[i].inverse, codes);
            if wants_left {
                left[i] = left_over(&values[i], codes, scales[i].scale);
            }
            // SAFETY: as above.
            unsafe { self.headers.put(self.first + at, BlockHeader { scale: scales[i].scale, sums }) };
        }
        left
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

/// What a step of a block's codes is worth, and how many of them a value of 1 is.
#[derive(Clone, Copy, Default)]
struct Scale {
    scale: f32,
    inverse: f32,
}

impl Scale {
    /// Symmetric: max|x| / 127. Codes are rounded to nearest, ties to even. Values that are no numbers become
    /// code 0.
    #[inline(always)]
    fn of(largest: f32) -> Scale {
        let inverse = if largest > 0.0 && largest.is_finite() { CODE_MAX / largest } else { 0.0 };
        Scale { inverse, scale: if inverse > 0.0 { largest / CODE_MAX } else { 0.0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;
    use crate::testing::for_each_isa;

    fn rows_of(rows: usize, columns: usize) -> Tensor {
        let mut x = Tensor::zeros(rows, columns);
        let values = x.values_mut().iter_mut().enumerate();
        values.for_each(|(i, value)| *value = ((i * 37 % 101) as f32 - 50.0) / 7.0);
        x
    }

    fn fill<'a>(isa: Isa, filling: &'a Filling<'_>, x: &Tensor) -> Quantized<'a> {
        // SAFETY: this thread has all rows.
        (0..x.rows()).for_each(|row| unsafe { filling.put(isa, row, x.row(row)) });
        // SAFETY: all were put above.
        unsafe { filling.filled() }
    }

    #[test]
    fn codes_and_sums_describe_the_row() {
        for rows in [1, 2, 5, 40] {
            let columns = 256;
            let x = rows_of(rows, columns);
            let mut room = Room::default();
            let filling = room.begin(rows, columns, Precision::Int8, &[4, 3, 2, 1]);
            let quantized = fill(Isa::best(), &filling, &x);
            assert_eq!(quantized.groups().iter().map(|group| group.count).sum::<usize>(), rows);
            for &group in quantized.groups() {
                let (codes, headers) = quantized.group(group);
                for row in 0..group.count {
                    for block in 0..columns / BLOCK {
                        let at = block * group.count + row;
                        let scale = headers.scales[at];
                        let codes = &codes[at * BLOCK..][..BLOCK];
                        let sum: i32 = codes.iter().map(|&code| i32::from(code)).sum();
                        assert_eq!(headers.offsets[at], -OFFSET * sum);
                        assert_eq!(headers.half_offsets[at].iter().sum::<i32>(), -HALF_OFFSET * sum);
                        assert_eq!(headers.weighted[at], sum as f32 * scale);
                        for (i, &code) in codes.iter().enumerate() {
                            let value = x.row(group.first + row)[block * BLOCK + i];
                            assert!((value - f32::from(code) * scale).abs() <= scale * 0.5001);
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
        let mut room = Room::default();
        let filling = room.begin(rows, columns, Precision::Int15, &[4, 3, 2, 1]);
        let quantized = fill(Isa::best(), &filling, &x);
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
                    f32::from(codes[place * BLOCK + k]) * headers.scales[place]
                };
                let largest = headers.scales[block * group.count + 2 * row] * 127.0;
                assert!((part(0) + part(1) - value).abs() <= largest / 60_000.0, "{value}");
            }
        }
    }

    #[test]
    fn zeros_and_non_finite_values_stay_defined() {
        for bad in [0.0, f32::NAN, f32::INFINITY] {
            let mut x = Tensor::zeros(1, BLOCK);
            x.values_mut()[3] = bad;
            for_each_isa(|isa| {
                let mut room = Room::default();
                let filling = room.begin(1, BLOCK, Precision::Int8, &[1]);
                let quantized = fill(isa, &filling, &x);
                let (codes, headers) = quantized.group(quantized.groups()[0]);
                assert_eq!((codes, headers.scales), (&[0; BLOCK][..], &[0.0][..]));
            });
        }
    }
}
