//! nomic-bert: BERT with rotary positions and a SiLU-gated feed-forward half.

use kernels::Activation;

use crate::EngineError;
use crate::model::Network;
use crate::models::encoder::{self, Options};
use crate::models::registry::Parts;

/// What `transformers` assumes when config.json leaves a key out.
pub const FALLBACK: &[(&str, f64)] = &[("rope_theta", 1000.0), ("layer_norm_eps", 1e-12)];

pub const REFUSED: &[&str] =
    &["prenorm", "causal", "parallel_block", "use_rms_norm", "rotary_emb_interleaved", "num_experts"];

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    let options = Options { activation: Activation::Silu, first_position: 0, rotary: true, gated: true };
    encoder::build(parts, &options)
}
