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
