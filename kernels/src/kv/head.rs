//! One head's keys and values inside one page: where they lie, and how a token's are stored.
//!
//! | part | order | what |
//! |---|---|---|
//! | keys | `[pairs][PAGE_TOKENS]` | a pair is dimensions `d` and `d + pairs` of one token |
//! | key scales | `[PAGE_TOKENS]` | f32 |
//! | values | `[PAGE_TOKENS / 2][padded_dim]` | a pair is tokens `t` and `t + 16` of one dimension |
//! | value scales | `[PAGE_TOKENS]` | f32 |
//!
//! Integers lie in pairs because that is what the dot-product instructions multiply (`vpmaddwd`,
//! `vpdpwssd`), with 16 tokens or dimensions in one register.

use crate::ops::attention::HEAD_DIM_MAX;
use crate::simd::{LANES, Simd, per_isa};

use super::{KvFormat, PAGE_TOKENS};

/// Rows of a page's values.
pub(crate) const VALUE_ROWS: usize = PAGE_TOKENS / 2;

/// Length of keys and queries as integers. Their products are summed in 32 bits: by Cauchy and Schwarz
/// no partial sum exceeds the product of lengths, each at most this and 0.5·√HEAD_DIM_MAX of rounding.
const LENGTH: f32 = 32_700.0;

/// Largest integer of a value in 16 bits. Two bits are left to the weights that values are multiplied by:
/// an average of many needs them more.
pub(crate) const VALUE_UNITS: f32 = 16_383.0;

/// Adding 1.5·2^23 rounds to the nearest integer and leaves it in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// Sizes of one head's part of a page, in words of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadLayout {
    pub format: KvFormat,
    pub head_dim: usize,
}

/// One head's part of a page; integers as the format packs them.
#[derive(Clone, Copy, Default)]
pub(crate) struct HeadPage<'a> {
    pub keys: &'a [u32],
    pub key_scales: &'a [u32],
    pub values: &'a [u32],
    pub value_scales: &'a [u32],
}

impl HeadLayout {
    /// Pairs of dimensions; an odd last one has a zero beside it.
    pub fn pairs(&self) -> usize {
        self.head_dim.div_ceil(2)
    }

    /// Length of a row of values: whole registers, zeros at the end.
    pub fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn key_words(&self) -> usize {
        self.pairs() * PAGE_TOKENS / self.format.pairs_in_word()
    }

    fn value_words(&self) -> usize {
        VALUE_ROWS * self.padded_dim() / self.format.pairs_in_word()
    }

    /// All of it. A multiple of 16, so that each part begins on a cache line.
    pub fn words(&self) -> usize {
        self.key_words() + self.value_words() + 2 * PAGE_TOKENS
    }

    /// The same head as 16-bit integers.
    pub fn widened(&self) -> HeadLayout {
        HeadLayout { format: KvFormat::Int16, ..*self }
    }

    pub fn view<'a>(&self, words: &'a [u32]) -> HeadPage<'a> {
        let (keys, rest) = words[..self.words()].split_at(self.key_words());
        let (key_scales, rest) = rest.split_at(PAGE_TOKENS);
        let (values, value_scales) = rest.split_at(self.value_words());
        HeadPage { keys, key_scales, values, value_scales }
    }
}

/// The values, [`LANES`] at a time, zeros at the end.
#[inline(always)]
fn parts<S: Simd>(values: &[f32]) -> impl Iterator<Item = S::F> {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    chunks.iter().map(|chunk| S::load(chunk)).chain((!rest.is_empty()).then(|| S::load(&last)))
}

/// Σ x², in a fixed order.
#[inline(always)]
fn sum_of_squares<S: Simd>(values: &[f32]) -> f32 {
    S::sum(parts::<S>(values).fold(S::splat(0.0), |total, part| S::mul_add(part, part, total)))
}

/// Writes a head's values as words of two 16-bit integers, dimensions `d` and `d + words.len()`, and
/// returns what one unit of them is worth. A head that is not finite is worth infinity or NaN, which
/// then spreads.
#[inline(always)]
pub(crate) fn to_pairs<S: Simd>(head: &[f32], words: &mut [u32]) -> f32 {
    let length = sum_of_squares::<S>(head).sqrt();
    let inverse = if length > 0.0 { LENGTH / length } else { 0.0 };
    let (low, high) = head.split_at(words.len());
    let rounded = |values: &_| S::mul_add(S::load(values), S::splat(inverse), S::splat(ROUND));
    let whole = low.as_chunks().0.iter().zip(high.as_chunks().0);
    let mut done = 0;
    for ((low, high), words) in whole.zip(words.as_chunks_mut::<LANES>().0) {
        *words = S::pack(rounded(low), rounded(high));
        done += LANES;
    }
    for (d, word) in words.iter_mut().enumerate().skip(done) {
        let code = |value: Option<&f32>| value.map_or(0, |value| value.mul_add(inverse, ROUND).to_bits());
        *word = code(low.get(d)) & 0xFFFF | code(high.get(d)) << 16;
    }
    length / LENGTH
}

/// What one of `units` integers of the largest value is worth, and its inverse (0 for zeros).
#[inline(always)]
fn scale_by_largest<S: Simd>(head: &[f32], units: f32) -> (f32, f32) {
    let largest = S::largest(parts::<S>(head).fold(S::splat(0.0), |max, part| S::larger(S::abs(part), max)));
    match sum_of_squares::<S>(head).is_nan() {
        true => (f32::NAN, 0.0),
        false => (largest / units, if largest > 1e-30 { units / largest } else { 0.0 }),
    }
}

per_isa!(
    /// Stores one token's key and value (`head_dim` each) at `slot` of a head's part of a page.
    pub(crate) fn store = store_body(part: &mut [u32], layout: &HeadLayout, slot: usize, key: &[f32], value: &[f32])
);

#[inline(always)]
fn store_body<S: Simd>(part: &mut [u32], layout: &HeadLayout, slot: usize, key: &[f32], value: &[f32]) {
    let (keys, rest) = part.split_at_mut(layout.key_words());
    let (key_scales, rest) = rest.split_at_mut(PAGE_TOKENS);
    let (values, value_scales) = rest.split_at_mut(layout.value_words());
    let (key_scale, value_scale) = match layout.format {
        KvFormat::Int16 => (store_key_16::<S>(keys, slot, key), store_value_16::<S>(values, slot, value)),
        KvFormat::Int8 => (store_key_8::<S>(keys, slot, key), store_value_8::<S>(values, slot, value)),
    };
    key_scales[slot] = key_scale.to_bits();
    value_scales[slot] = value_scale.to_bits();
}

#[inline(always)]
fn store_key_16<S: Simd>(keys: &mut [u32], slot: usize, key: &[f32]) -> f32 {
    let mut words = [0; HEAD_DIM_MAX / 2];
    let words = &mut words[..keys.len() / PAGE_TOKENS];
    let scale = to_pairs::<S>(key, words);
    for (tokens, word) in keys.as_chunks_mut::<PAGE_TOKENS>().0.iter_mut().zip(words) {
        tokens[slot] = *word;
    }
    scale
}

#[inline(always)]
fn store_value_16<S: Simd>(values: &mut [u32], slot: usize, value: &[f32]) -> f32 {
    let (scale, inverse) = scale_by_largest::<S>(value, VALUE_UNITS);
    let (shift, kept) = if slot < VALUE_ROWS { (0, 0xFFFF_0000) } else { (16, 0xFFFF) };
    let row_words = values.len() / VALUE_ROWS;
    let row = &mut values[slot % VALUE_ROWS * row_words..][..row_words];
    for (word, value) in row.iter_mut().zip(value) {
        let code = value.mul_add(inverse, ROUND).to_bits() & 0xFFFF;
        *word = *word & kept | code << shift;
    }
    scale
}

/// Largest integer of [`KvFormat::Int8`].
const UNITS_8: f32 = 127.0;

#[inline(always)]
fn store_key_8<S: Simd>(keys: &mut [u32], slot: usize, key: &[f32]) -> f32 {
    let (scale, inverse) = scale_by_largest::<S>(key, UNITS_8);
    let code = |value: Option<&f32>| value.map_or(0, |value| value.mul_add(inverse, ROUND).to_bits() & 0xFF);
    let rows = keys.as_chunks_mut::<{ PAGE_TOKENS / 2 }>().0;
    let pairs = rows.len();
    let shift = 16 * (slot % 2);
    for (pair, row) in rows.iter_mut().enumerate() {
        let codes = code(key.get(pair)) | code(key.get(pairs + pair)) << 8;
        let word = &mut row[slot / 2];
        *word = *word & !(0xFFFF << shift) | codes << shift;
    }
    scale
}

#[inline(always)]
fn store_value_8<S: Simd>(values: &mut [u32], slot: usize, value: &[f32]) -> f32 {
    let (scale, inverse) = scale_by_largest::<S>(value, UNITS_8);
    let row_words = values.len() / VALUE_ROWS;
    let row = &mut values[slot % VALUE_ROWS * row_words..][..row_words];
    for (d, value) in value.iter().enumerate() {
        let shift = 16 * (d % 2) + 8 * (slot / VALUE_ROWS);
        let code = value.mul_add(inverse, ROUND).to_bits() & 0xFF;
        row[d / 2] = row[d / 2] & !(0xFF << shift) | code << shift;
    }
    scale
}
