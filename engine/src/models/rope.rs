//! Rotary embedding of one network: base, turned part of a head, and how it was stretched to longer
//! contexts. Turns all of that into a [`RopeTable`] when a model is built.
//!
//! Formulas: linear (Chen et al. 2023), yarn (Peng et al. 2023), longrope (Ding et al. 2024), llama3
//! (Llama 3.1's model card); constants and defaults as `transformers` has them.

use std::f32::consts::TAU;

use kernels::{RopeStyle, RopeTable};

/// Rotary embedding as a file describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// θ: wavelengths run from 2π to 2πθ.
    pub base: f32,
    /// Values of a head that are turned; the rest passes through.
    pub dimensions: usize,
    pub scaling: Scaling,
}

/// How frequencies were changed for contexts longer than the network was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f32,
    },
    /// Long wavelengths divided, short ones kept, a ramp between.
    Llama3(Llama3),
    Yarn(Yarn),
    /// One divisor a pair, chosen by the context that is served.
    Long(LongRope),
    /// One divisor a pair (a GGUF's `rope_freqs.weight`).
    Divisors(Vec<f32>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    pub factor: f32,
    /// Pairs that turn less often than this within the original context are divided by `factor`.
    pub low_frequency_factor: f32,
    /// Pairs that turn more often than this keep their frequency.
    pub high_frequency_factor: f32,
    pub original_context: usize,
}

impl Llama3 {
    fn stretch(&self, frequency: f32) -> f32 {
        let (low, high) = (self.low_frequency_factor, self.high_frequency_factor);
        let turns = self.original_context as f32 * frequency / TAU;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / self.factor + kept * frequency
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f32,
    pub original_context: usize,
    /// Pairs that turn more often than this within the original context keep their frequency.
    pub beta_fast: f32,
    /// Pairs that turn less often than this are divided by `factor`.
    pub beta_slow: f32,
    /// Factor on cosine and sine; `None` is 0.1 ln(factor) + 1.
    pub magnitude: Option<f32>,
    /// Whether the ramp's ends are rounded outwards to whole pairs.
    pub truncate: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    pub short: Vec<f32>,
    pub long: Vec<f32>,
    pub original_context: usize,
    /// Factor on cosine and sine.
    pub magnitude: f32,
}

impl LongRope {
    /// √(1 + ln(stretch) / ln(original)), the factor when a file states none.
    pub fn default_magnitude(stretch: f32, original_context: usize) -> f32 {
        if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / (original_context as f32).ln()).sqrt() }
    }
}

impl Rope {
    /// Frequencies for a served context of `context_tokens`.
    ///
    /// Only longrope depends on it: its long divisors are taken when the context exceeds the original
    /// one. The choice is made once, so keys already in the cache stay comparable with later ones.
    pub fn table(&self, style: RopeStyle, context_tokens: usize) -> RopeTable {
        let mut table = RopeTable::new(style, self.dimensions, self.base);
        match &self.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => {
                table.inverse_frequencies.iter_mut().for_each(|value| *value /= factor);
            }
            Scaling::Llama3(llama3) => {
                table.inverse_frequencies.iter_mut().for_each(|value| *value = llama3.stretch(*value));
            }
            Scaling::Yarn(yarn) => {
                self.stretch_yarn(yarn, &mut table.inverse_frequencies);
                table.magnitude = yarn.magnitude.unwrap_or(0.1 * yarn.factor.max(1.0).ln() + 1.0);
            }
            Scaling::Long(long) => {
                let divisors = if context_tokens > long.original_context { &long.long } else { &long.short };
                divide(&mut table.inverse_frequencies, divisors);
                table.magnitude = long.magnitude;
            }
            Scaling::Divisors(divisors) => divide(&mut table.inverse_frequencies, divisors),
        }
        table
    }

    fn stretch_yarn(&self, yarn: &Yarn, frequencies: &mut [f32]) {
        let dimensions = self.dimensions as f32;
        let pair_of = |turns: f32| {
            dimensions * (yarn.original_context as f32 / (turns * TAU)).ln() / (2.0 * self.base.ln())
        };
        let (mut low, mut high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(0.0);
        high = high.min(dimensions - 1.0);
        if low == high {
            high += 0.001; // a step instead of a division by zero
        }
        for (i, frequency) in frequencies.iter_mut().enumerate() {
            let stretched = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
            *frequency = *frequency / yarn.factor * stretched + *frequency * (1.0 - stretched);
        }
    }

    /// Checks every range; `head_dim` bounds the turned part.
    ///
    /// # Errors
    /// A sentence naming the value.
    pub fn check(&self, head_dim: usize) -> Result<(), String> {
        let Rope { base, dimensions, scaling } = self;
        if !(base.is_finite() && *base > 1.0) {
            return Err(format!("rotary base {base} is not above 1"));
        }
        if *dimensions == 0 || dimensions % 2 != 0 || *dimensions > head_dim {
            return Err(format!(
                "{dimensions} rotary dimensions are not an even part of heads of {head_dim} values"
            ));
        }
        scaling.check(dimensions / 2)
    }
}

impl Scaling {
    fn check(&self, pairs: usize) -> Result<(), String> {
        match self {
            Scaling::None => Ok(()),
            Scaling::Linear { factor } => positive("rotary scaling factor", *factor),
            Scaling::Llama3(llama3) => {
                let (low, high) = (llama3.low_frequency_factor, llama3.high_frequency_factor);
                positive("rotary scaling factor", llama3.factor)?;
                positive("low frequency factor", low)?;
                positive("high minus low frequency factor", high - low)?;
                original("rotary scaling's original context", llama3.original_context)
            }
            Scaling::Yarn(yarn) => {
                positive("rotary scaling factor", yarn.factor)?;
                positive("beta_fast", yarn.beta_fast)?;
                positive("beta_slow", yarn.beta_slow)?;
                positive("attention factor", yarn.magnitude.unwrap_or(1.0))?;
                original("rotary scaling's original context", yarn.original_context)
            }
            Scaling::Long(long) => {
                original("rotary scaling's original context", long.original_context)?;
                positive("attention factor", long.magnitude)?;
                divisors("short rotary factors", &long.short, pairs)?;
                divisors("long rotary factors", &long.long, pairs)
            }
            Scaling::Divisors(values) => divisors("rope_freqs.weight", values, pairs),
        }
    }
}

fn divide(frequencies: &mut [f32], divisors: &[f32]) {
    for (frequency, divisor) in frequencies.iter_mut().zip(divisors) {
        *frequency /= divisor;
    }
}

fn positive(what: &str, value: f32) -> Result<(), String> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(format!("{what} {value} is not above 0")) }
}

fn original(what: &str, tokens: usize) -> Result<(), String> {
    if tokens > 1 { Ok(()) } else { Err(format!("{what} of {tokens} tokens is too short")) }
}

fn divisors(what: &str, values: &[f32], pairs: usize) -> Result<(), String> {
    if values.len() != pairs {
        return Err(format!("{what} are {} values, {pairs} are needed", values.len()));
    }
    values.iter().try_for_each(|value| positive(what, *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(base: f32, scaling: Scaling) -> Rope {
        Rope { base, dimensions: 16, scaling }
    }

    fn yarn(factor: f32, original_context: usize) -> Yarn {
        let (beta_fast, beta_slow) = (32.0, 1.0);
        Yarn { factor, original_context, beta_fast, beta_slow, magnitude: None, truncate: true }
    }

    /// Expected values are those of `ROPE_INIT_FUNCTIONS` in transformers 5.23.
    #[test]
    #[expect(clippy::excessive_precision, reason = "as the reference prints them")]
    fn scaled_frequencies() {
        let check = |rope: Rope, expected: [f32; 8], magnitude: f32| {
            rope.check(16).unwrap();
            let table = rope.table(RopeStyle::Half, 4096);
            for (found, expected) in table.inverse_frequencies.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 1e-5, "{rope:?}: {found}, not {expected}");
            }
            assert!((table.magnitude - magnitude).abs() < 1e-6, "{rope:?}: {}", table.magnitude);
        };
        check(
            rope(1e4, Scaling::Linear { factor: 4.0 }),
            [0.25, 0.079056941, 0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-5],
            1.0,
        );
        let llama3 = Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192,
        };
        check(
            rope(5e5, Scaling::Llama3(llama3)),
            [
                1.0,
                0.19392276,
                0.037606031,
                0.0072926651,
                0.00052484602,
                3.4281024e-5,
                6.6478697e-6,
                1.2891732e-6,
            ],
            1.0,
        );
        check(
            rope(1e4, Scaling::Yarn(yarn(4.0, 1024))),
            [1.0, 0.31622776, 0.08125, 0.019764237, 0.004375, 0.00079056947, 0.00025, 7.9056947e-5],
            1.1386294,
        );
        let untruncated = Yarn {
            beta_fast: 16.0,
            beta_slow: 2.0,
            truncate: false,
            magnitude: Some(1.5),
            ..yarn(4.0, 1024)
        };
        check(
            rope(1e4, Scaling::Yarn(untruncated)),
            [1.0, 0.31622776, 0.1, 0.018701805, 0.0025, 0.00079056947, 0.00025, 7.9056947e-5],
            1.5,
        );
    }

    #[test]
    fn longrope_takes_its_divisors_by_the_served_context() {
        let long = LongRope { short: vec![1.0; 8], long: vec![2.0; 8], original_context: 32, magnitude: 1.2 };
        let rope = rope(1e4, Scaling::Long(long));
        for (context, first) in [(32, 1.0), (33, 0.5)] {
            let table = rope.table(RopeStyle::Half, context);
            assert_eq!((table.inverse_frequencies[0], table.magnitude), (first, 1.2));
        }
    }

    #[test]
    fn hostile_values_are_refused() {
        let check = |rope: Rope, expected: &str| {
            let reason = rope.check(16).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        };
        let long = |length| LongRope {
            short: vec![1.0; length],
            long: vec![1.0; 8],
            original_context: 32,
            magnitude: 1.0,
        };
        check(rope(f32::NAN, Scaling::None), "base");
        check(rope(1.0, Scaling::None), "base");
        check(Rope { dimensions: 18, ..rope(1e4, Scaling::None) }, "18 rotary");
        check(Rope { dimensions: 7, ..rope(1e4, Scaling::None) }, "7 rotary");
        check(Rope { dimensions: 0, ..rope(1e4, Scaling::None) }, "0 rotary");
        check(rope(1e4, Scaling::Linear { factor: 0.0 }), "factor");
        check(rope(1e4, Scaling::Yarn(yarn(-1.0, 1024))), "factor");
        check(rope(1e4, Scaling::Yarn(yarn(4.0, 0))), "original context");
        check(rope(1e4, Scaling::Long(long(7))), "7 values, 8");
        check(rope(1e4, Scaling::Divisors(vec![0.0; 8])), "rope_freqs");
    }
}
