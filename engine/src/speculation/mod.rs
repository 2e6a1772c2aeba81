//! Speculative decoding: guesses at a sequence's next tokens, computed as further rows of its step, so
//! that one reading of the weights can yield several tokens (Leviathan et al. 2023).
//!
//! **Exact.** A guess never changes what is generated: the sampler chooses each token from the logits
//! before it as it would have without guesses, and a guess only counts when it is the token chosen. As
//! the sampler's random numbers are counted by position and a row's logits do not depend on what else
//! is in the step, tokens are the same with and without, sampled ones too.
//!
//! **Adaptive.** How often guesses come true is also counted for those that are not computed, which
//! costs nothing. A guess is computed when its chance is greater than the share of a step's time that
//! one more row costs for what the step yields; what that wastes is kept within a small share of the
//! time spent.
//!
//! | file | what is in it |
//! |---|---|
//! | `lookup.rs` | guesses from what followed the same words before (prompt lookup, Saxena 2023) |
//! | `acceptance.rs` | how often guesses come true |
//! | `cost.rs` | what a step costs by its rows, and the bound on waste |
//! | `guesser.rs` | one sequence's guesses |
//! | `plan.rs` | which guesses of a step are worth their rows |

mod acceptance;
mod cost;
mod guesser;
mod lookup;
mod plan;

use std::ops::Deref;

pub(crate) use self::guesser::Guesser;
pub(crate) use self::plan::{Outcome, Planner, RanStep, Wish};

/// When guesses are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Speculation {
    Off,
    /// When it is likely to save time.
    #[default]
    Adaptive,
    /// All guesses there are, whatever they cost: for tests and measurements.
    Always,
}

/// Guesses of one sequence in one step.
pub const GUESSES_MAX: usize = 8;

/// Guessed tokens of one sequence, in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guesses {
    tokens: [u32; GUESSES_MAX],
    count: usize,
}

impl Guesses {
    /// The first of `guesses`, as many as may be made.
    pub fn new(guesses: &[u32]) -> Guesses {
        let count = guesses.len().min(GUESSES_MAX);
        let mut tokens = [0; GUESSES_MAX];
        tokens[..count].copy_from_slice(&guesses[..count]);
        Guesses { tokens, count }
    }

    pub fn truncate(&mut self, count: usize) {
        self.count = self.count.min(count);
    }

    pub fn pop_first(&mut self) -> Option<u32> {
        let first = self.first().copied()?;
        self.tokens.copy_within(1.., 0);
        self.count -= 1;
        Some(first)
    }

    pub fn clear(&mut self) {
        self.count = 0;
    }
}

impl Deref for Guesses {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.tokens[..self.count]
    }
}
