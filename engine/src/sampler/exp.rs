//! Exponentials over whole rows of logits, in a form the compiler turns into vector instructions.
//!
//! libm's `expf` is called once a value; a vocabulary has up to 262,144 of them and every sampled token
//! needs all. Sums run in fixed lanes, so they are the same on every machine and in every batch.

/// e^x for x <= 0, relative error below 1.5e-6 down to -20 and 1e-5 down to -87; 0 below that, and
/// for NaN.
///
/// 2^(x·log2 e) with the fraction's power from its Taylor series; the first term left out is 1.2e-7.
fn exp_nonpositive(x: f32) -> f32 {
    /// Adding and subtracting 1.5 · 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let power = x.max(-87.0) * std::f32::consts::LOG2_E;
    // Its low bits are the integer; a conversion would keep the compiler from whole registers.
    let shifted = power + ROUND;
    let whole = shifted - ROUND;
    let y = (power - whole) * std::f32::consts::LN_2;
    let series = 1.0 / 720.0;
    let series = series * y + 1.0 / 120.0;
    let series = series * y + 1.0 / 24.0;
    let series = series * y + 1.0 / 6.0;
    let series = series * y + 0.5;
    let series = (series * y + 1.0) * y + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x >= -87.0 { series * scale } else { 0.0 }
}

/// Greatest value, NaN ignored; -inf for none.
pub fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max })
}

/// Sum of e^(value - max).
pub fn sum_of_exponentials(values: &[f32], max: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += exp_nonpositive(value - max);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&value| exp_nonpositive(value - max)).sum::<f32>()
}

/// e^((value - max) · factor) of every value into `weights`.
pub fn exponentials(values: &[f32], max: f32, factor: f32, weights: &mut Vec<f32>) {
    weights.clear();
    weights.extend(values.iter().map(|&value| exp_nonpositive((value - max) * factor)));
}

/// Sum in fixed lanes.
pub fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane += value);
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_close_to_the_exponential() {
        for i in 0..200_000 {
            let x = -(i as f32) * 86.9 / 200_000.0;
            let truth = f64::from(x).exp();
            let error = ((f64::from(exp_nonpositive(x)) - truth) / truth).abs();
            let bound = if x > -20.0 { 1.5e-6 } else { 1e-5 };
            assert!(error < bound, "e^{x}: relative error {error:e}");
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
    }

    #[test]
    fn is_zero_where_it_underflows_and_for_nan() {
        for x in [-87.1, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp_nonpositive(x), 0.0, "{x}");
        }
    }

    #[test]
    fn sums_and_maxima_cover_every_length() {
        for length in [0usize, 1, 15, 16, 17, 31, 32, 50] {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7919) % 23) as f32 - 30.0).collect();
            let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(maximum(&values), max);
            assert_eq!(sum(&values), values.iter().sum::<f32>());
            let truth: f64 = values.iter().map(|&v| f64::from(v - max).exp()).sum();
            assert!((f64::from(sum_of_exponentials(&values, max)) - truth).abs() <= 1e-6 * truth);
        }
        assert_eq!(maximum(&[f32::NAN, 1.0, f32::NAN]), 1.0);
    }
}
