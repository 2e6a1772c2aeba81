//! Turning pairs of values by precomputed angles (see [`crate::RopeTable`]).

use crate::rope::RopeStyle;
use crate::simd::{Simd, per_isa};

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
