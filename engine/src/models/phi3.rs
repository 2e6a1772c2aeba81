//! Phi-3 and Phi-4-mini: llama whose q, k and v are one matrix, and gate and up another; a head may be
//! turned in part; long contexts by longrope.

use crate::EngineError;
use crate::model::Network;
use crate::models::decoder::{self, Options};
use crate::models::registry::Parts;

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    decoder::build(parts, &Options { fused_gate_up: true, ..Options::default() })
}
