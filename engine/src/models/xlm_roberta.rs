//! XLM-RoBERTa and RoBERTa: BERT whose positions are counted from the row after padding's.
//!
//! GGUF converters cut the unused rows off and call the result `bert`, so this concerns Hugging Face
//! checkpoints only.

use kernels::Activation;

use crate::EngineError;
use crate::model::Network;
use crate::models::config::Hyperparameters;
use crate::models::encoder::{self, Options};
use crate::models::registry::Parts;

/// Padding's token id when config.json leaves it out.
pub const FALLBACK: &[(&str, f64)] = &[("pad_token_id", 1.0)];

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    let first_position = first_position(&parts.hyperparameters);
    let options = Options { activation: Activation::GeluErf, first_position, rotary: false, gated: false };
    encoder::build(parts, &options)
}

/// Rows of the position table that tokens can take: those after padding's.
pub fn context(hyperparameters: &Hyperparameters) -> usize {
    hyperparameters.context_tokens.saturating_sub(first_position(hyperparameters))
}

fn first_position(hyperparameters: &Hyperparameters) -> usize {
    hyperparameters.padding_token.unwrap_or(1).saturating_add(1)
}
