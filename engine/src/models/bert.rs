//! BERT and its distilled kin (MiniLM, BGE, E5, GTE): learned positions, GELU feed-forward.

use kernels::Activation;

use crate::EngineError;
use crate::model::Network;
use crate::models::encoder::{self, Options};
use crate::models::registry::Parts;

/// Of RoBERTa too.
pub const REFUSED: &[&str] = &["is_decoder", "add_cross_attention"];

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    let options = Options { activation: Activation::GeluErf, first_position: 0, rotary: false, gated: false };
    encoder::build(parts, &options)
}
