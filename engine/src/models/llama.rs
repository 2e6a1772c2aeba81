//! Llama 2 and 3.x, SmolLM2, Mistral: RMS norms before both halves, rotary attention with shared
//! key-value heads, SiLU-gated feed-forward.
//!
//! GGUF converters permute the rows of q and k so that the values turned together are neighbours;
//! Hugging Face checkpoints keep them half a head apart.

use kernels::RopeStyle;

use crate::EngineError;
use crate::model::Network;
use crate::models::decoder::{self, Options};
use crate::models::registry::Parts;

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    let rope_style = if parts.weights.is_gguf() { RopeStyle::Interleaved } else { RopeStyle::Half };
    decoder::build(parts, &Options { rope_style, ..Options::default() })
}
