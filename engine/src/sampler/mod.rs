//! From a row of logits to the next token.
//!
//! In this order, which is vLLM's: masked tokens and `logit_bias`, penalties, temperature, `min_p`,
//! `top_k`, `top_p`, one draw. Everything that changes logits touches only the tokens concerned and is
//! undone afterwards, so log-probabilities are those of the model itself. No input panics: NaN counts
//! as impossible, +inf as certain.
//!
//! | file | what is in it |
//! |---|---|
//! | `choose.rs` | greedy choice, truncation, the draw |
//! | `logprobs.rs` | log-softmax of one token and the most likely ones |
//! | `random.rs` | random numbers by seed and token index |

mod choose;
mod logprobs;
pub mod random;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use kernels::Softmax;

use self::choose::ChooseScratch;
pub use self::logprobs::{LOGPROB_FLOOR, token_logprob};
use self::random::{CounterRandom, draw_seed};
use crate::request::SamplingParams;

/// Chooses the tokens of one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    random: CounterRandom,
    /// Tokens that may not come before `min_tokens` are generated.
    masked: Vec<u32>,
    min_tokens: usize,
    /// Tokens chosen so far.
    generated: usize,
    /// Tokens penalties apply to, with how often each was generated (0: only in the prompt). Empty
    /// when there are no penalties.
    seen: HashMap<u32, u32>,
}

/// What all samplers of a thread share: buffers, so that a token costs no allocation, and the passes over
/// rows.
#[derive(Debug)]
pub struct SamplerScratch {
    softmax: Softmax,
    /// Logits as they were before they were changed, in order of change.
    undo: Vec<(u32, f32)>,
    choose: ChooseScratch,
}

impl SamplerScratch {
    /// For rows of up to so many logits without an allocation.
    pub fn new(softmax: Softmax, vocabulary: usize) -> SamplerScratch {
        SamplerScratch { softmax, undo: Vec::new(), choose: ChooseScratch::new(vocabulary) }
    }

    /// Makes room for what this sampler changes.
    pub fn reserve(&mut self, sampler: &Sampler) {
        self.undo.clear();
        self.undo.reserve(sampler.changes_max());
    }

    pub fn softmax(&self) -> Softmax {
        self.softmax
    }
}

impl Sampler {
    /// For a sequence that begins with `prompt`; `masked` are its stop tokens.
    pub fn new(params: SamplingParams, prompt: &[u32], masked: Vec<u32>, min_tokens: usize) -> Sampler {
        let random = CounterRandom::new(params.seed.unwrap_or_else(draw_seed));
        let seen = match params.repetition_penalty != 1.0 {
            true => prompt.iter().map(|&token| (token, 0)).collect(),
            false => HashMap::new(),
        };
        Sampler { params, random, masked, min_tokens, generated: 0, seen }
    }

    /// Makes room for so many tokens.
    pub fn reserve(&mut self, tokens: usize) {
        if self.penalises() {
            self.seen.reserve(tokens);
        }
    }

    /// Chooses the next token. `logits` are left as they were.
    pub fn choose(&mut self, logits: &mut [f32], scratch: &mut SamplerScratch) -> u32 {
        let token = self.peek(logits, 0, scratch);
        self.accept(token);
        token
    }

    /// What would be chosen from these logits `ahead` tokens after the next one, by the random number
    /// of that token: from like logits the same token.
    pub fn peek(&self, logits: &mut [f32], ahead: usize, scratch: &mut SamplerScratch) -> u32 {
        scratch.reserve(self);
        self.adjust(logits, &mut scratch.undo);
        let uniform = self.random.uniform((self.generated + ahead) as u64);
        let token = choose::choose(scratch.softmax, logits, &self.params, uniform, &mut scratch.choose);
        for &(token, logit) in scratch.undo.iter().rev() {
            logits[token as usize] = logit;
        }
        token
    }

    /// Most logits it changes, as long as its memory of what was seen does not grow.
    fn changes_max(&self) -> usize {
        self.params.logit_bias.len() + self.seen.capacity() + self.masked.len()
    }

    fn accept(&mut self, token: u32) {
        self.generated += 1;
        if self.penalises() {
            *self.seen.entry(token).or_insert(0) += 1;
        }
    }

    fn penalises(&self) -> bool {
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.params;
        repetition_penalty != 1.0 || presence_penalty != 0.0 || frequency_penalty != 0.0
    }

    /// Applies mask, bias and penalties.
    fn adjust(&self, logits: &mut [f32], undo: &mut Vec<(u32, f32)>) {
        let mut change = |token: u32, new: &dyn Fn(f32) -> f32| {
            if let Some(logit) = logits.get_mut(token as usize) {
                undo.push((token, *logit));
                *logit = new(*logit);
            }
        };
        for &(token, bias) in &self.params.logit_bias {
            change(token, &|logit| logit + bias);
        }
        for (&token, &count) in &self.seen {
            change(token, &|logit| self.penalised(logit, count));
        }
        if self.generated < self.min_tokens {
            self.masked.iter().for_each(|&token| change(token, &|_| f32::NEG_INFINITY));
        }
    }

    /// Repetition: divides what speaks for a token, multiplies what speaks against it. The other two
    /// count generated tokens only.
    fn penalised(&self, logit: f32, count: u32) -> f32 {
        let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.params;
        let logit = if logit > 0.0 { logit / repetition_penalty } else { logit * repetition_penalty };
        match count {
            0 => logit,
            _ => logit - presence_penalty - frequency_penalty * count as f32,
        }
    }
}
