//! Turning pairs of values by precomputed angles (see [`crate::RopeTable`]).

use super::norm;
use crate::Isa;
use crate::rope::RopeStyle;
use crate::simd::{Simd, per_isa};
use crate::tensor::{Tensor, Vector};

/// What is done to a head of q or k before attention: normed, then turned.
#[derive(Clone, Copy)]
pub struct HeadTurn<'a> {
    /// Gain and epsilon of an RMS norm over each head.
    pub norm: Option<(&'a Vector, f32)>,
    pub style: RopeStyle,
    /// Each row's cosines, then its sines (see [`crate::RopeTable::angles`]).
    pub angles: &'a Tensor,
}

impl HeadTurn<'_> {
    /// # Panics
    /// When its parts do not fit heads of `head_dim` in `rows` rows.
    pub(crate) fn check(&self, rows: usize, head_dim: usize) {
        assert!(self.angles.rows() == rows && self.angles.columns() <= head_dim);
        assert!(self.norm.is_none_or(|(gain, _)| gain.len() == head_dim), "a gain for each value of a head");
    }

    /// Norms and turns one head of `row`, in place.
    pub(crate) fn apply(&self, isa: Isa, row: usize, head: &mut [f32]) {
        if let Some((gain, eps)) = self.norm {
            norm::rms_norm(isa, head, gain.values(), eps);
        }
        let angles = self.angles.row(row);
        let (cosines, sines) = angles.split_at(angles.len() / 2);
        rotate(isa, head, head.len(), self.style, cosines, sines);
    }
}

per_isa!(
    /// Turns each head (`head_dim` values) of a row by the row's `cosines` and `sines`; values past the
    /// turned pairs stay.
    pub fn rotate = rotate_body(row: &mut [f32], head_dim: usize, style: RopeStyle, cosines: &[f32], sines: &[f32])
);

#[inline(always)]
fn rotate_body<S: Simd>(row: &mut [f32], head_dim: usize, style: RopeStyle, cosines: &[f32], sines: &[f32]) {
    let pairs = cosines.len();
    for head in row.chunks_exact_mut(head_dim) {
        let turned = &mut head[..2 * pairs];
        match style {
            RopeStyle::Half => {
                let (first, second) = turned.split_at_mut(pairs);
                for (((x, y), cosine), sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                    (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
                }
            }
            RopeStyle::Interleaved => {
                for (([x, y], cosine), sine) in
                    turned.as_chunks_mut::<2>().0.iter_mut().zip(cosines).zip(sines)
                {
                    (*x, *y) = (*x * cosine - *y * sine, *x * sine + *y * cosine);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KvCache, KvFormat, KvLayout, PagedRows};
    use crate::ops::attention::{AttentionParams, paged};
    use crate::pool::WorkerPool;
    use crate::rope::RopeTable;
    use crate::testing::{Seeded, for_each_isa};

    const EPS: f32 = 1e-5;

    struct Case {
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        style: RopeStyle,
        is_normed: bool,
        /// (past, rows) of each sequence.
        sequences: &'static [(usize, usize)],
    }

    fn random_tensor(rows: usize, columns: usize, random: &mut Seeded) -> Tensor {
        let mut tensor = Tensor::zeros(rows, columns);
        random.fill(tensor.values_mut(), -3.0, 3.0);
        tensor
    }

    /// What [`HeadTurn`] says, step by step, stored.
    fn turned(turn: &HeadTurn<'_>, x: &Tensor, head_dim: usize) -> Tensor {
        let mut out = Tensor::zeros(x.rows(), x.columns());
        out.values_mut().copy_from_slice(x.values());
        let pairs = turn.angles.columns() / 2;
        for row in 0..x.rows() {
            for head in out.row_mut(row).chunks_exact_mut(head_dim) {
                if let Some((gain, eps)) = turn.norm {
                    norm::rms_norm(Isa::Scalar, head, gain.values(), eps);
                }
                for pair in 0..pairs {
                    let (i, j) = match turn.style {
                        RopeStyle::Half => (pair, pairs + pair),
                        RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
                    };
                    let (x, y) = (head[i], head[j]);
                    let (cosine, sine) = (turn.angles.row(row)[pair], turn.angles.row(row)[pairs + pair]);
                    (head[i], head[j]) = (x * cosine - y * sine, x * sine + y * cosine);
                }
            }
        }
        out
    }

    fn check(case: &Case, format: KvFormat, seed: u64) {
        let Case { heads, kv_heads, head_dim, rotary_dim, style, is_normed, sequences } = *case;
        let mut random = Seeded::new(seed);
        let (mut rows, mut first_row, mut pages) = (Vec::new(), 0, 0..100);
        for &(past, count) in sequences {
            let needed = (past + count).div_ceil(crate::PAGE_TOKENS);
            rows.push(PagedRows {
                first_row,
                rows: count,
                past,
                pages: pages.by_ref().take(needed).collect(),
            });
            first_row += count;
        }
        let positions: Vec<u32> =
            sequences.iter().flat_map(|&(past, count)| past as u32..(past + count) as u32).collect();
        let mut angles = Tensor::default();
        RopeTable::new(style, rotary_dim, 10_000.0).angles(&positions, &mut angles);
        let mut gain = vec![0.0; head_dim];
        random.fill(&mut gain, -2.0, 2.0);
        let gain = Vector::new(gain);
        let turn = HeadTurn { norm: is_normed.then_some((&gain, EPS)), style, angles: &angles };
        let q = random_tensor(first_row, heads * head_dim, &mut random);
        let [k, v] = [(); 2].map(|()| random_tensor(first_row, kv_heads * head_dim, &mut random));

        let cache = || KvCache::new(KvLayout { layers: 2, kv_heads, head_dim, format }, pages.start as usize);
        let params = AttentionParams { heads, kv_heads, head_dim, scale: 0.3, window: None };
        let (mut stored, mut expected, alone) = (cache(), Tensor::default(), WorkerPool::new(1));
        let turned_k = turned(&turn, &k, head_dim);
        stored.write_rows(Isa::Scalar, &alone, 1, [&turned_k, &v], None, &rows);
        let turned_q = turned(&turn, &q, head_dim);
        paged(Isa::Scalar, &alone, &turned_q, None, &stored, 1, &rows, &params, &mut expected);
        for_each_isa(|isa| {
            for threads in [1, 3] {
                let pool = WorkerPool::new(threads);
                let what =
                    format!("{head_dim} {style:?} {format:?} on {isa} with {threads} threads, seed {seed}");
                let mut kv = cache();
                kv.write_rows(isa, &pool, 1, [&k, &v], Some(&turn), &rows);
                assert!(kv.words() == stored.words(), "keys and values: {what}");
                let mut out = Tensor::default();
                paged(isa, &pool, &q, Some(&turn), &kv, 1, &rows, &params, &mut out);
                assert!(out.values() == expected.values(), "attention: {what}");
            }
        });
    }

    /// Turning on the way into pages and into attention gives the bits of turning, storing and reading.
    #[test]
    fn heads_turned_on_the_way_are_those_that_were_turned_before() {
        use RopeStyle::{Half, Interleaved};
        // Steps of few values, which one thread writes, and of many.
        let (few, many): (&[_], &[_]) = (&[(30, 5)], &[(0, 40), (70, 1), (31, 3)]);
        let table = [
            (6, 2, 64, 64, Half, true, many),
            (6, 2, 64, 64, Interleaved, false, many),
            (4, 4, 80, 20, Half, true, many),
            (3, 1, 17, 8, Interleaved, true, few),
            (3, 1, 17, 10, Half, false, few),
            (8, 1, 256, 256, Half, true, few),
        ];
        for (seed, (heads, kv_heads, head_dim, rotary_dim, style, is_normed, sequences)) in (0..).zip(table) {
            let case = Case { heads, kv_heads, head_dim, rotary_dim, style, is_normed, sequences };
            for format in KvFormat::ALL {
                check(&case, format, seed);
            }
        }
    }
}
