//! Sizes and constants of a network, parsed once and range-checked.
//!
//! [`Hyperparameters::read`] is the only place that knows the keys of GGUF metadata and of
//! `config.json`; architectures see the typed result. What a file leaves out takes the architecture's
//! own fallback (see [`crate::models::registry::Architecture::fallback`]).

mod rope;
#[cfg(test)]
mod tests;

use kernels::Activation;
use serde_json::Value;

use crate::models::fields::{Fields, Key};
use crate::models::rope::Rope;

pub use rope::RopeFactors;

/// A network's description.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    pub layers: usize,
    /// Values of a row of the residual stream.
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Rows of the embedding; GGUF leaves it to the tensor.
    pub vocabulary: Option<usize>,
    pub context_tokens: usize,
    pub norm_eps: f32,
    /// `None` when the file does not say.
    pub activation: Option<Activation>,
    /// Factor on q·k; `None` is 1/√head_dim.
    pub attention_scale: Option<f32>,
    pub rope: Rope,
    /// Base of the rotary embedding of windowed layers, where it has one of its own.
    pub local_rope_base: Option<f32>,
    /// Sliding window in tokens.
    pub window: Option<usize>,
    /// Which layers the window applies to, one entry a layer; `None` is all.
    pub windowed_layers: Option<Vec<bool>>,
    /// Token id of padding (xlm-roberta counts positions from it).
    pub padding_token: Option<usize>,
    /// Whether the output projection is the embedding, where the file says so.
    pub tied_embeddings: Option<bool>,
    /// Pooling of an encoder, as GGUF numbers it.
    pub pooling_type: Option<usize>,
}

const LAYERS: Key = key(&["block_count"], &["num_hidden_layers", "n_layer"]);
const HIDDEN: Key = key(&["embedding_length"], &["hidden_size", "n_embd"]);
const INTERMEDIATE: Key = key(&["feed_forward_length"], &["intermediate_size", "n_inner"]);
const HEADS: Key = key(&["attention.head_count"], &["num_attention_heads", "n_head"]);
const KV_HEADS: Key = key(&["attention.head_count_kv"], &["num_key_value_heads"]);
const HEAD_DIM: Key = key(&["attention.key_length"], &["head_dim"]);
const VALUE_DIM: Key = key(&["attention.value_length"], &[]);
const VOCABULARY: Key = key(&[], &["vocab_size"]);
const CONTEXT: Key = key(&["context_length"], &["max_position_embeddings", "n_positions"]);
const NORM_EPS: Key = key(
    &["attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"],
    &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"],
);
const ACTIVATION: Key = key(&[], &["hidden_activation", "hidden_act", "activation_function"]);
const SCALE: Key = key(&["attention.scale"], &[]);
const QUERY_SCALAR: Key = key(&[], &["query_pre_attn_scalar"]);
const WINDOW: Key = key(&["attention.sliding_window"], &["sliding_window"]);
const USE_WINDOW: Key = key(&[], &["use_sliding_window"]);
const WINDOW_PATTERN: Key =
    key(&["attention.sliding_window_pattern"], &["sliding_window_pattern", "_sliding_window_pattern"]);
const WINDOW_FROM_LAYER: Key = key(&[], &["max_window_layers"]);
const LAYER_TYPES: Key = key(&[], &["layer_types"]);
const PADDING: Key = key(&[], &["pad_token_id"]);
const TIED: Key = key(&[], &["tie_word_embeddings"]);
const POOLING: Key = key(&["pooling_type"], &[]);

const LOCAL_ROPE_BASE: Key =
    key(&["rope.freq_base_swa"], &["rope_parameters.sliding_attention.rope_theta", "rope_local_base_freq"]);
const fn key(gguf: &'static [&'static str], json: &'static [&'static str]) -> Key {
    Key { gguf, json }
}

impl Hyperparameters {
    /// Reads and checks every value.
    ///
    /// # Errors
    /// A sentence naming the key or the value that is missing, mistyped or out of range.
    pub fn read(fields: &Fields, factors: RopeFactors) -> Result<Hyperparameters, String> {
        let need = |key: &Key| fields.required(key, fields.count(key)?);
        let (hidden, heads) = (need(&HIDDEN)?, need(&HEADS)?);
        let layers = need(&LAYERS)?;
        let head_dim = match fields.count(&HEAD_DIM)? {
            Some(values) => values,
            None if heads == 0 || !hidden.is_multiple_of(heads) => {
                return Err(format!("{hidden} hidden values do not divide into {heads} heads"));
            }
            None => hidden / heads,
        };
        let context_tokens = need(&CONTEXT)?;
        let window = read_window(fields)?;
        let hyperparameters = Hyperparameters {
            layers,
            hidden,
            intermediate: intermediate(fields, hidden)?,
            heads,
            kv_heads: fields.count(&KV_HEADS)?.unwrap_or(heads),
            head_dim,
            vocabulary: fields.count(&VOCABULARY)?,
            context_tokens,
            norm_eps: fields.required(&NORM_EPS, fields.number(&NORM_EPS)?)?,
            activation: fields.text(&ACTIVATION)?.map(activation).transpose()?,
            attention_scale: attention_scale(fields)?,
            rope: rope::read_rope(fields, head_dim, context_tokens, factors)?,
            local_rope_base: fields.number(&LOCAL_ROPE_BASE)?,
            window,
            windowed_layers: read_windowed_layers(fields, layers)?,
            padding_token: fields.count(&PADDING)?,
            tied_embeddings: fields.flag(&TIED)?,
            pooling_type: fields.count(&POOLING)?,
        };
        hyperparameters.check(fields.count(&VALUE_DIM)?)?;
        Ok(hyperparameters)
    }

    /// The window of one layer.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        let windowed = self.windowed_layers.as_ref().is_none_or(|layers| layers[layer]);
        self.window.filter(|_| windowed)
    }

    fn check(&self, value_dim: Option<usize>) -> Result<(), String> {
        for (name, value, max) in [
            ("layers", self.layers, 1 << 10),
            ("hidden values", self.hidden, 1 << 17),
            ("feed-forward values", self.intermediate, 1 << 20),
            ("attention heads", self.heads, 1 << 10),
            ("key-value heads", self.kv_heads, 1 << 10),
            ("values a head", self.head_dim, kernels::HEAD_DIM_MAX),
            ("vocabulary entries", self.vocabulary.unwrap_or(1), 1 << 24),
            ("context tokens", self.context_tokens, 1 << 28),
            ("window tokens", self.window.unwrap_or(1), 1 << 28),
        ] {
            if value == 0 || value > max {
                return Err(format!("{value} {name}; 1 to {max} are possible"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(format!("{heads} attention heads do not divide among {kv_heads} key-value heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("heads of {} values; an even number is needed", self.head_dim));
        }
        if value_dim.is_some_and(|values| values != self.head_dim) {
            return Err(format!("keys of {} values and values of {value_dim:?}", self.head_dim));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(format!("a norm epsilon of {}; it lies between 0 and 1", self.norm_eps));
        }
        if self.attention_scale.is_some_and(|scale| !(scale > 0.0 && scale.is_finite())) {
            return Err(format!("an attention scale of {:?}", self.attention_scale));
        }
        self.rope.check(self.head_dim)?;
        Rope { base: self.local_rope_base.unwrap_or(self.rope.base), ..self.rope.clone() }
            .check(self.head_dim)
    }
}

/// nomic's `n_inner` may be null for four times the hidden size.
fn intermediate(fields: &Fields, hidden: usize) -> Result<usize, String> {
    match fields.count(&INTERMEDIATE)? {
        Some(values) => Ok(values),
        None if fields.value(&key(&[], &["n_embd"])).is_some() => Ok(hidden.saturating_mul(4)),
        None => fields.required(&INTERMEDIATE, None),
    }
}

fn activation(name: &str) -> Result<Activation, String> {
    match name {
        "silu" | "swish" | "swiglu" => Ok(Activation::Silu),
        "gelu" | "geglu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        other => Err(format!("activation `{other}` is not supported")),
    }
}

fn attention_scale(fields: &Fields) -> Result<Option<f32>, String> {
    let scalar = fields.number(&QUERY_SCALAR)?;
    Ok(fields.number(&SCALE)?.filter(|scale| *scale != 0.0).or(scalar.map(|scalar| 1.0 / scalar.sqrt())))
}

fn read_window(fields: &Fields) -> Result<Option<usize>, String> {
    if fields.flag(&USE_WINDOW)? == Some(false) {
        return Ok(None);
    }
    Ok(fields.count(&WINDOW)?.filter(|tokens| *tokens > 0))
}

fn read_windowed_layers(fields: &Fields, layers: usize) -> Result<Option<Vec<bool>>, String> {
    // Bounded before anything of this length is made.
    if layers > 1 << 10 {
        return Ok(None);
    }
    if let Some((name, value)) = fields.value(&LAYER_TYPES).or_else(|| fields.value(&WINDOW_PATTERN))
        && let Value::Array(list) = value
    {
        let listed: Vec<bool> = list
            .iter()
            .map(|entry| entry.as_bool() == Some(true) || entry.as_str() == Some("sliding_attention"))
            .collect();
        if listed.len() != layers {
            return Err(format!("`{name}` lists {} layers of {layers}", listed.len()));
        }
        return Ok(Some(listed));
    }
    if let Some(period) = fields.count(&WINDOW_PATTERN)? {
        // Every `period`-th layer sees everything.
        return Ok(Some((1..=layers).map(|layer| period == 0 || layer % period != 0).collect()));
    }
    let first = fields.count(&WINDOW_FROM_LAYER)?;
    Ok(first.map(|first| (0..layers).map(|layer| layer >= first).collect()))
}
