//! Gemma 3, text only: embeddings scaled by √hidden, norms before and after both halves, a norm on each
//! head of q and k, five windowed layers to each full one with a rotary base of their own.
//!
//! Checkpoints store norm gains less one; GGUF converters add it.

use kernels::Activation;

use crate::EngineError;
use crate::model::Network;
use crate::models::decoder::{self, Options};
use crate::models::registry::Parts;

/// What readers assume when GGUF metadata or config.json leaves a key out (the published 4B's
/// config.json leaves out most).
pub const FALLBACK: &[(&str, f64)] = &[
    ("rope.freq_base", 1e6),
    ("rope.freq_base_swa", 1e4),
    ("attention.sliding_window_pattern", 6.0),
    ("rope_theta", 1e6),
    ("rope_local_base_freq", 1e4),
    ("sliding_window_pattern", 6.0),
    ("num_attention_heads", 8.0),
    ("num_key_value_heads", 4.0),
    ("head_dim", 256.0),
    ("query_pre_attn_scalar", 256.0),
    ("rms_norm_eps", 1e-6),
    ("max_position_embeddings", 131_072.0),
];

pub const REFUSED: &[&str] =
    &["use_bidirectional_attention", "attn_logit_softcapping", "final_logit_softcapping"];

/// Layers of the 27B network, whose GGUF files do not say that its attention is scaled by
/// hidden / heads instead of by the head size.
const LAYERS_27B: usize = 62;

pub fn build(parts: &Parts<'_>) -> Result<Network, EngineError> {
    let h = &parts.hyperparameters;
    let wide_scale = (parts.weights.is_gguf() && h.layers == LAYERS_27B)
        .then(|| 1.0 / (h.hidden as f32 / h.heads as f32).sqrt());
    let options = Options {
        activation: Activation::GeluTanh,
        embedding_scale: (h.hidden as f32).sqrt(),
        head_norms: true,
        post_norms: true,
        norm_offset: if parts.weights.is_gguf() { 0.0 } else { 1.0 },
        attention_scale: wide_scale,
        ..Options::default()
    };
    decoder::build(parts, &options)
}
