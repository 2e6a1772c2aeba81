//! The stack that text encoders share: bidirectional attention, layer norms after both halves.
//!
//! One call: embed all sequences' tokens as rows one after another, then in each layer
//! x = norm(x + attention(x)) and x = norm(x + feed_forward(x)), then pool. No padding: a row is a
//! token, and attention stays inside its sequence.

use std::ops::Range;

use kernels::{
    Activation, AttentionParams, Device, Input, Linear, RopeStyle, RopeTable, Table, Tensor, Vector,
};

use crate::EngineError;
use crate::batch::Encoder;
use crate::model::Network;
use crate::models::config::Hyperparameters;
use crate::models::parallel;
use crate::models::pooling::Pooling;
use crate::models::registry::Parts;
use crate::models::weights::Weights;

/// How an architecture differs from BERT.
pub struct Options {
    /// Of the feed-forward half, unless the file names another.
    pub activation: Activation,
    /// Row of the position table that the first token takes.
    pub first_position: usize,
    /// Positions by rotation of q and k instead of a table.
    pub rotary: bool,
    /// Feed-forward is activation(gate) · up instead of activation(up).
    pub gated: bool,
}

struct EncoderStack {
    device: Device,
    attention: AttentionParams,
    norm_eps: f32,
    activation: Activation,
    embedding: Table,
    positions: Option<PositionTable>,
    token_types: Option<Table>,
    embedding_norm: LayerNorm,
    rope: Option<RopeTable>,
    layers: Vec<Layer>,
    pooling: Pooling,
    scratch: Scratch,
}

struct PositionTable {
    table: Table,
    first: usize,
}

struct LayerNorm {
    gain: Vector,
    bias: Vector,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

/// Rows of one call, and its tensors (rows x width).
#[derive(Default)]
struct Scratch {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// Row of the position or token type table of each token.
    table_rows: Vec<u32>,
    segments: Vec<Range<usize>>,
    x: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    gate: Tensor,
    up: Tensor,
    angles: Tensor,
}

/// Packs an encoder's weights.
///
/// # Errors
/// `BadFile` for a tensor that is missing or of another shape than the metadata says.
pub fn build(parts: &Parts<'_>, options: &Options) -> Result<Network, EngineError> {
    let (h, weights) = (&parts.hyperparameters, &parts.weights);
    let positions = (!options.rotary).then(|| build_positions(parts, options)).transpose()?;
    // Every row takes type 0, so a file without the table is one whose types add nothing.
    let token_types = weights.has("token_types")?.then(|| weights.table("token_types", None, h.hidden));
    let threads = weights.device().packing_threads();
    let layers = parallel::each(threads, h.layers, |layer| build_layer(h, weights, options, layer))?;
    Ok(Network::Encoder(Box::new(EncoderStack {
        device: weights.device().clone(),
        attention: AttentionParams {
            heads: h.heads,
            kv_heads: h.kv_heads,
            head_dim: h.head_dim,
            scale: h.attention_scale.unwrap_or(1.0 / (h.head_dim as f32).sqrt()),
            window: None,
        },
        norm_eps: h.norm_eps,
        activation: h.activation.unwrap_or(options.activation),
        embedding: weights.table("token_embd", h.vocabulary, h.hidden)?,
        positions,
        token_types: token_types.transpose()?,
        embedding_norm: layer_norm(weights, "token_embd_norm", h.hidden)?,
        rope: options.rotary.then(|| h.rope.table(RopeStyle::Half, parts.context_tokens)),
        layers,
        pooling: parts.pooling,
        scratch: Scratch::default(),
    })))
}

fn build_positions(parts: &Parts<'_>, options: &Options) -> Result<PositionTable, EngineError> {
    let (h, weights) = (&parts.hyperparameters, &parts.weights);
    let table = weights.table("position_embd", None, h.hidden)?;
    let first = options.first_position;
    if table.rows() < parts.context_tokens.saturating_add(first) {
        return Err(weights.bad(format!(
            "the position table has {} rows, too few for {} tokens from row {first}",
            table.rows(),
            parts.context_tokens
        )));
    }
    Ok(PositionTable { table, first })
}

fn layer_norm(weights: &Weights<'_>, name: &str, length: usize) -> Result<LayerNorm, EngineError> {
    Ok(LayerNorm {
        gain: weights.vector(&format!("{name}.weight"), length, 0.0)?,
        bias: weights.vector(&format!("{name}.bias"), length, 0.0)?,
    })
}

fn build_layer(
    h: &Hyperparameters,
    weights: &Weights<'_>,
    options: &Options,
    layer: usize,
) -> Result<Layer, EngineError> {
    let name = |tensor: &str| format!("blk.{layer}.{tensor}");
    let [query, key, value] = weights.query_key_value(h, layer)?;
    let linear = |tensor: &str, outputs, inputs| weights.linear(&name(tensor), outputs, inputs);
    Ok(Layer {
        query,
        key,
        value,
        output: linear("attn_output", h.hidden, h.heads * h.head_dim)?,
        attention_norm: layer_norm(weights, &name("attn_output_norm"), h.hidden)?,
        gate: options.gated.then(|| linear("ffn_gate", h.intermediate, h.hidden)).transpose()?,
        up: linear("ffn_up", h.intermediate, h.hidden)?,
        down: linear("ffn_down", h.hidden, h.intermediate)?,
        output_norm: layer_norm(weights, &name("layer_output_norm"), h.hidden)?,
    })
}

impl Encoder for EncoderStack {
    fn dimensions(&self) -> usize {
        self.embedding.columns()
    }

    fn vocabulary(&self) -> usize {
        self.embedding.rows()
    }

    fn weight_bytes(&self) -> usize {
        let layer = |layer: &Layer| -> usize {
            let Layer { query, key, value, output, gate, up, down, .. } = layer;
            [query, key, value, output, up, down].into_iter().chain(gate).map(Linear::bytes).sum()
        };
        self.layers.iter().map(layer).sum()
    }

    fn forward(&mut self, sequences: &[&[u32]], out: &mut Tensor) {
        self.scratch.lay_out(sequences);
        self.embed();
        let EncoderStack { device, scratch: s, .. } = self;
        let step =
            Step { device, eps: self.norm_eps, attention: self.attention, activation: self.activation };
        if let Some(rope) = &self.rope {
            rope.angles(&s.positions, &mut s.angles);
        }
        let mut before = None;
        for layer in &self.layers {
            step.attend(layer, before, self.rope.as_ref(), s);
            step.feed_forward(layer, s);
            before = Some(&layer.output_norm);
        }
        if let Some(LayerNorm { gain, bias }) = before {
            step.device.add(&mut s.x, &s.delta);
            step.device.layer_norm(&mut s.x, gain, bias, step.eps);
        }
        self.pooling.apply(&s.x, &s.segments, out);
    }
}

impl EncoderStack {
    /// x = norm(token + position + type embedding)
    fn embed(&mut self) {
        let EncoderStack { device, scratch: s, .. } = self;
        device.embed(&self.embedding, &s.tokens, 1.0, &mut s.x);
        if let Some(PositionTable { table, first }) = &self.positions {
            s.table_rows.clear();
            s.table_rows.extend(s.positions.iter().map(|position| position + *first as u32));
            device.embed(table, &s.table_rows, 1.0, &mut s.delta);
            device.add(&mut s.x, &s.delta);
        }
        if let Some(table) = &self.token_types {
            s.table_rows.clear();
            s.table_rows.resize(s.tokens.len(), 0);
            device.embed(table, &s.table_rows, 1.0, &mut s.delta);
            device.add(&mut s.x, &s.delta);
        }
        let LayerNorm { gain, bias } = &self.embedding_norm;
        device.layer_norm(&mut s.x, gain, bias, self.norm_eps);
    }
}

impl Scratch {
    /// Rows of all sequences, one after another.
    fn lay_out(&mut self, sequences: &[&[u32]]) {
        self.tokens.clear();
        self.positions.clear();
        self.segments.clear();
        for sequence in sequences {
            let start = self.tokens.len();
            self.tokens.extend_from_slice(sequence);
            self.positions.extend(0..sequence.len() as u32);
            self.segments.push(start..self.tokens.len());
        }
    }
}

/// What all layers of a call share.
struct Step<'a> {
    device: &'a Device,
    eps: f32,
    attention: AttentionParams,
    activation: Activation,
}

impl Step<'_> {
    /// delta = attention(x), after x = norm(x + delta) of the layer before, if there is one.
    fn attend(&self, layer: &Layer, before: Option<&LayerNorm>, rope: Option<&RopeTable>, s: &mut Scratch) {
        let device = self.device;
        let x = match before {
            Some(norm) => self.normed(norm, &mut s.x, &s.delta),
            None => Input::Rows(&s.x),
        };
        device.linear(x, &mut [(&layer.query, &mut s.q), (&layer.key, &mut s.k), (&layer.value, &mut s.v)]);
        if let Some(rope) = rope {
            device.rope(&mut s.q, self.attention.head_dim, rope.style, &s.angles);
            device.rope(&mut s.k, self.attention.head_dim, rope.style, &s.angles);
        }
        let out = &mut s.attended;
        device.attention_bidirectional(&s.q, &s.k, &s.v, &s.segments, &self.attention, out);
        device.linear(&s.attended, &mut [(&layer.output, &mut s.delta)]);
    }

    /// x = norm(x + delta), delta = feed_forward(x)
    fn feed_forward(&self, layer: &Layer, s: &mut Scratch) {
        let (device, activation) = (self.device, self.activation);
        let x = self.normed(&layer.attention_norm, &mut s.x, &s.delta);
        let inner = match &layer.gate {
            Some(gate) => {
                device.linear(x, &mut [(gate, &mut s.gate), (&layer.up, &mut s.up)]);
                Input::Gated { activation, gate: &s.gate, up: &s.up }
            }
            None => {
                device.linear(x, &mut [(&layer.up, &mut s.up)]);
                Input::Active { activation, x: &s.up }
            }
        };
        device.linear(inner, &mut [(&layer.down, &mut s.delta)]);
    }

    /// x = norm(x + delta)
    fn normed<'a>(&self, norm: &'a LayerNorm, x: &'a mut Tensor, delta: &'a Tensor) -> Input<'a> {
        Input::LayerNormed { x, addend: delta, gain: &norm.gain, bias: &norm.bias, eps: self.eps }
    }
}
