//! Qwen 3, dense: llama with a norm on each head of q and k, and a head size of its own.

use crate::EngineError;
use crate::model::Network;
use crate::models::decoder::{self, Options};
use crate::models::registry::Parts;

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    decoder::build(parts, &Options { head_norms: true, ..Options::default() })
}
