//! Qwen 2 and 2.5, dense: llama with biases on q, k and v.

use crate::EngineError;
use crate::model::Network;
use crate::models::decoder::{self, Options};
use crate::models::registry::Parts;

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    decoder::build(parts, &Options { qkv_bias_required: true, ..Options::default() })
}
