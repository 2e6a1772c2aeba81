//! Every op: formula, shapes, and the ways to compute it.

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
    /// The meaning of the op.
    pub fn scalar(self, x: f32) -> f32 {
        match self {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f32::consts::SQRT_2)),
        }
    }
}

/// Error function, |error| < 1.5e-7 (Abramowitz and Stegun 7.1.26), computed in f64.
fn erf(x: f32) -> f32 {
    let magnitude = f64::from(x.abs());
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let series = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let value = 1.0 - series * (-magnitude * magnitude).exp();
    value.copysign(f64::from(x)) as f32
}

/// Shape and scaling of one attention call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionParams {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Factor on q·k, usually 1/√head_dim.
    pub scale: f32,
    /// Sliding window: position p sees only positions > p - window.
    pub window: Option<usize>,
}
