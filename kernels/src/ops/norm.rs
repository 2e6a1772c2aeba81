//! RMS norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016).

use crate::simd::{LANES, Simd, per_isa};

per_isa!(
    /// Each group of `weight.len()` values: x / √(mean(x²) + eps) · weight
    pub fn rms_norm = rms_norm_body(values: &mut [f32], weight: &[f32], eps: f32)
);

#[inline(always)]
fn rms_norm_body<S: Simd>(values: &mut [f32], weight: &[f32], eps: f32) {
    for group in values.chunks_exact_mut(weight.len().max(1)) {
        let mean = sum_of::<S>(group, |x, total| S::mul_add(x, x, total)) / weight.len() as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        for (value, gain) in group.iter_mut().zip(weight) {
            *value = *value * factor * gain;
        }
    }
}

per_isa!(
    /// out = x / √(mean(x²) + eps) · weight, the same bits as [`rms_norm`]
    pub fn rms_norm_into = rms_norm_into_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32])
);

#[inline(always)]
fn rms_norm_into_body<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of::<S>(x, |x, total| S::mul_add(x, x, total)) / weight.len() as f32;
    let factor = 1.0 / (mean + eps).sqrt();
    for ((out, value), gain) in out.iter_mut().zip(x).zip(weight) {
        *out = *value * factor * gain;
    }
}

per_isa!(
    /// x += y
    pub fn add = add_body(x: &mut [f32], y: &[f32])
);

#[inline(always)]
fn add_body<S: Simd>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

per_isa!(
    /// Each group of `weight.len()` values: (x - mean) / √(variance + eps) · weight + bias
    pub fn layer_norm = layer_norm_body(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f32)
);

#[inline(always)]
fn layer_norm_body<S: Simd>(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    for group in values.chunks_exact_mut(weight.len().max(1)) {
        let count = weight.len() as f32;
        // Two passes: one-pass variance cancels when |mean| >> std.
        let mean = sum_of::<S>(group, S::add) / count;
        let square = |x, total| {
            let apart = S::sub(x, S::splat(mean));
            S::mul_add(apart, apart, total)
        };
        let variance = sum_of::<S>(group, square) / count;
        let factor = 1.0 / (variance + eps).sqrt();
        for ((value, gain), bias) in group.iter_mut().zip(weight).zip(bias) {
            *value = ((*value - mean) * factor).mul_add(*gain, *bias);
        }
    }
}

/// Folds `add(value, total)` over the values in a fixed order: 16 running totals, then a tree.
#[inline(always)]
fn sum_of<S: Simd>(values: &[f32], add: impl Fn(S::F, S::F) -> S::F) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut totals = S::splat(0.0);
    for chunk in chunks {
        totals = add(S::load(chunk), totals);
    }
    if !rest.is_empty() {
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        totals = S::within(add(S::load(&last), totals), 0, rest.len(), totals);
    }
    S::sum(totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, for_each_isa, relative_error};

    #[test]
    fn norms_match_their_formulas_in_f64() {
        for length in [1, 15, 16, 17, 64, 576] {
            let mut random = Seeded::new(length as u64);
            let (mut x, mut weight, mut bias) = (vec![0.0; 3 * length], vec![0.0; length], vec![0.0; length]);
            random.fill(&mut x, 99.0, 101.0);
            random.fill(&mut weight, -2.0, 2.0);
            random.fill(&mut bias, -1.0, 1.0);
            let (mut rms, mut layer) = (Vec::new(), Vec::new());
            for group in x.chunks_exact(length) {
                let count = length as f64;
                let squares: f64 = group.iter().map(|&x| f64::from(x).powi(2)).sum();
                let mean: f64 = group.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
                let variance: f64 = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
                for i in 0..length {
                    let (x, w, b) = (f64::from(group[i]), f64::from(weight[i]), f64::from(bias[i]));
                    rms.push((x / (squares / count + 1e-5).sqrt() * w) as f32);
                    layer.push(((x - mean) / (variance + 1e-5).sqrt() * w + b) as f32);
                }
            }
            for_each_isa(|isa| {
                let mut found = x.clone();
                rms_norm(isa, &mut found, &weight, 1e-5);
                assert!(relative_error(&found, &rms) < 1e-6, "rms_norm of {length} on {isa}");
                let mut found = x.clone();
                layer_norm(isa, &mut found, &weight, &bias, 1e-5);
                // The mean, near 100, is known to f32 precision only.
                assert!(relative_error(&found, &layer) < 1e-4, "layer_norm of {length} on {isa}");
            });
        }
    }
}
