//! Element-wise non-linearities, alone and as the gate of a feed-forward layer.

use crate::simd::{LANES, Simd, exp, per_isa};

/// Element-wise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x)
    Silu,
    /// 0.5x(1 + tanh(√(2/π)(x + 0.044715x³))): `gelu_pytorch_tanh`, `gelu_new`
    GeluTanh,
    /// x · Φ(x): `gelu`
    GeluErf,
}

impl Activation {
    #[inline(always)]
    fn lanes<S: Simd>(self, x: S::F) -> S::F {
        match self {
            Activation::Silu => silu::<S>(x),
            Activation::GeluTanh => gelu_tanh::<S>(x),
            Activation::GeluErf => gelu_erf::<S>(x),
        }
    }
}

#[inline(always)]
fn silu<S: Simd>(x: S::F) -> S::F {
    // Times -1 and not 0 - x, which has another sign at 0.
    let e = exp::<S>(S::mul(x, S::splat(-1.0)));
    S::div(x, S::add(S::splat(1.0), e))
}

/// √(2/π)
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

#[inline(always)]
fn gelu_tanh<S: Simd>(x: S::F) -> S::F {
    let cubic = S::mul(S::mul(S::splat(0.044_715), x), x);
    let e = exp::<S>(S::mul(S::splat(2.0 * SQRT_2_OVER_PI), S::mul_add(cubic, x, x)));
    // 0.5(1 + tanh(u)) = 1 - 1 / (e^2u + 1)
    S::sub(x, S::div(x, S::add(e, S::splat(1.0))))
}

/// Error function after Abramowitz and Stegun 7.1.26, |error| < 1.5e-7 before rounding.
#[inline(always)]
fn gelu_erf<S: Simd>(x: S::F) -> S::F {
    let e = exp::<S>(S::mul(S::splat(-0.5), S::mul(x, x)));
    let one = S::splat(1.0);
    let slope = S::splat(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2);
    let t = S::div(one, S::add(S::mul(S::abs(x), slope), one));
    let mut p = S::splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = S::mul_add(p, t, S::splat(coefficient));
    }
    // Half of erfc(|x|/√2): the tail's probability.
    let tail = S::mul(S::mul(S::mul(S::splat(0.5), p), t), e);
    S::mul(x, S::where_less(x, S::splat(0.0), tail, S::sub(one, tail)))
}

per_isa!(
    /// values = activation(values)
    pub fn activate = activate_body(activation: Activation, values: &mut [f32])
);

#[inline(always)]
fn activate_body<S: Simd>(activation: Activation, values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        S::store(activation.lanes::<S>(S::load(chunk)), chunk);
    }
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    S::store(activation.lanes::<S>(S::load(&last)), &mut last);
    rest.copy_from_slice(&last[..rest.len()]);
}

per_isa!(
    /// out = activation(gate) · up
    pub fn gated_into = gated_into_body(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32])
);

#[inline(always)]
fn gated_into_body<S: Simd>(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len());
    let (gates, gates_left) = gate.as_chunks::<LANES>();
    let (ups, ups_left) = up.as_chunks::<LANES>();
    let (outs, outs_left) = out.as_chunks_mut::<LANES>();
    for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
        S::store(S::mul(activation.lanes::<S>(S::load(gate)), S::load(up)), out);
    }
    let mut last = [0.0; LANES];
    last[..gates_left.len()].copy_from_slice(gates_left);
    S::store(activation.lanes::<S>(S::load(&last)), &mut last);
    for ((out, active), up) in outs_left.iter_mut().zip(last).zip(ups_left) {
        *out = active * up;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::{Seeded, for_each_isa, relative_error};

    /// erf by its series (|x| < 3) or 1 - the asymptotic tail; only for the test.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        if x.abs() > 5.0 { x.signum() } else { sum * 2.0 / std::f64::consts::PI.sqrt() }
    }

    /// The function itself.
    pub fn exact(activation: Activation, x: f32) -> f32 {
        let x = f64::from(x);
        let value = match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        };
        value as f32
    }

    #[test]
    fn close_to_the_exact_functions_at_every_length() {
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
            for length in [0, 1, 15, 16, 17, 100] {
                for range in [1.0, 6.0, 200.0] {
                    let mut x = vec![0.0; length];
                    Seeded::new(length as u64).fill(&mut x, -range, range);
                    let expected: Vec<f32> = x.iter().map(|&x| exact(activation, x)).collect();
                    for_each_isa(|isa| {
                        let mut found = x.clone();
                        activate(isa, activation, &mut found);
                        let error = relative_error(&found, &expected);
                        assert!(
                            error < 1e-6,
                            "{activation:?} on {isa}, {length} values to {range}: {error:e}"
                        );
                    });
                }
            }
        }
    }
}
