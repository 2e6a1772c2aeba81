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
