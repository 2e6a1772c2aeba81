//! The stack that decoder-only networks share; an architecture's file states how it differs in
//! [`Options`].
//!
//! One step: embed, then in each layer x += attention(norm(x)) and x += feed_forward(norm(x)), then
//! norm and output projection of those rows whose logits are wanted. What a half adds is added, and the
//! sum normed, where the next product takes it up. Scratch tensors are kept between
//! steps, so a step allocates nothing once it has seen its largest batch.

use std::mem::swap;

use kernels::{
    Activation, Addend, AttentionParams, Device, HeadTurn, Input, KvCache, KvLayout, Linear, RopeStyle,
    RopeTable, Table, Tensor, Vector,
};

use crate::EngineError;
use crate::batch::{Batch, Decoder, WeightCounts};
use crate::model::Network;
use crate::models::config::Hyperparameters;
use crate::models::parallel;
use crate::models::registry::Parts;
use crate::models::rope::{Rope, Scaling};
use crate::models::weights::Weights;

/// How an architecture differs from plain llama.
pub struct Options {
    pub rope_style: RopeStyle,
    /// Of the feed-forward gate, unless the file names another.
    pub activation: Activation,
    pub embedding_scale: f32,
    /// A norm on each head of q and k.
    pub head_norms: bool,
    /// Norms after attention and feed-forward, before the residual is added.
    pub post_norms: bool,
    /// Added to norm gains.
    pub norm_offset: f32,
    /// Gate and up projection are one matrix, `ffn_up`, gate first.
    pub fused_gate_up: bool,
    /// Refuse a file whose q, k and v have no bias.
    pub qkv_bias_required: bool,
    /// Factor on q·k where the file cannot say it.
    pub attention_scale: Option<f32>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            rope_style: RopeStyle::Half,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            head_norms: false,
            post_norms: false,
            norm_offset: 0.0,
            fused_gate_up: false,
            qkv_bias_required: false,
            attention_scale: None,
        }
    }
}

struct DecoderStack {
    device: Device,
    layout: KvLayout,
    /// The window is each layer's own.
    attention: AttentionParams,
    norm_eps: f32,
    activation: Activation,
    embedding: Table,
    embedding_scale: f32,
    /// The rotary embedding of full layers, then that of windowed ones where it differs.
    ropes: Vec<RopeTable>,
    layers: Vec<Layer>,
    output_norm: Vector,
    output: Linear,
    scratch: Scratch,
}

struct Layer {
    window: Option<usize>,
    /// Index into the stack's `ropes`.
    rope: usize,
    attention_norm: Vector,
    query: Linear,
    key: Linear,
    value: Linear,
    head_norms: Option<(Vector, Vector)>,
    output: Linear,
    post_attention_norm: Option<Vector>,
    feed_forward_norm: Vector,
    gate: Linear,
    up: Linear,
    down: Linear,
    post_feed_forward_norm: Option<Vector>,
}

/// Tensors of one step; `rows` is the step's row count.
#[derive(Default)]
struct Scratch {
    /// Residual stream, rows x hidden.
    x: Tensor,
    /// What the last half adds to the residual stream, rows x hidden. The next product adds it.
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    gate: Tensor,
    up: Tensor,
    /// Cosines and sines of each of the stack's `ropes`.
    angles: Vec<Tensor>,
}

/// Packs a decoder's weights.
///
/// # Errors
/// `BadFile` for a tensor that is missing or of another shape than the metadata says.
pub fn build(parts: &Parts<'_>, options: &Options) -> Result<Network, EngineError> {
    let (h, weights) = (&parts.hyperparameters, &parts.weights);
    let embedding = weights.table("token_embd", h.vocabulary, h.hidden)?;
    let (output, layers) = build_matrices(h, weights, options, embedding.rows())?;
    let ropes = rope_tables(h, options.rope_style, parts.context_tokens);
    let scale = options.attention_scale.or(h.attention_scale).unwrap_or(1.0 / (h.head_dim as f32).sqrt());
    Ok(Network::Decoder(Box::new(DecoderStack {
        device: weights.device().clone(),
        layout: KvLayout {
            layers: h.layers,
            kv_heads: h.kv_heads,
            head_dim: h.head_dim,
            format: weights.device().kv_format(),
        },
        attention: AttentionParams {
            heads: h.heads,
            kv_heads: h.kv_heads,
            head_dim: h.head_dim,
            scale,
            window: None,
        },
        norm_eps: h.norm_eps,
        activation: h.activation.unwrap_or(options.activation),
        embedding,
        embedding_scale: options.embedding_scale,
        scratch: Scratch { angles: ropes.iter().map(|_| Tensor::default()).collect(), ..Scratch::default() },
        ropes,
        layers,
        output_norm: weights.vector("output_norm.weight", h.hidden, options.norm_offset)?,
        output,
    })))
}

/// The output projection and all layers, on all of the machine's cores.
fn build_matrices(
    h: &Hyperparameters,
    weights: &Weights<'_>,
    options: &Options,
    vocabulary: usize,
) -> Result<(Linear, Vec<Layer>), EngineError> {
    let mut output = None;
    // The projection is the largest part, so it is begun first.
    let threads = weights.device().packing_threads();
    let parts = parallel::each(threads, h.layers + 1, |part| match part.checked_sub(1) {
        None => build_output(h, weights, vocabulary).map(Part::Output),
        Some(layer) => build_layer(h, weights, options, layer).map(|layer| Part::Layer(Box::new(layer))),
    })?;
    let mut layers = Vec::with_capacity(h.layers);
    for part in parts {
        match part {
            Part::Output(linear) => output = Some(linear),
            Part::Layer(layer) => layers.push(*layer),
        }
    }
    Ok((output.expect("part 0 is the output projection"), layers))
}

enum Part {
    Output(Linear),
    Layer(Box<Layer>),
}

/// The output projection, which is the embedding where the file has no other.
fn build_output(
    h: &Hyperparameters,
    weights: &Weights<'_>,
    vocabulary: usize,
) -> Result<Linear, EngineError> {
    let own = match h.tied_embeddings {
        Some(tied) => !tied,
        None => weights.has("output")?,
    };
    weights.linear(if own { "output" } else { "token_embd" }, vocabulary, h.hidden)
}

fn rope_tables(h: &Hyperparameters, style: RopeStyle, context_tokens: usize) -> Vec<RopeTable> {
    let full = h.rope.table(style, context_tokens);
    match h.local_rope_base {
        // Windowed layers never see far, so their frequencies are not stretched.
        Some(base) => {
            let local = Rope { base, dimensions: h.rope.dimensions, scaling: Scaling::None };
            vec![full, local.table(style, context_tokens)]
        }
        None => vec![full],
    }
}

fn build_layer(
    h: &Hyperparameters,
    weights: &Weights<'_>,
    options: &Options,
    layer: usize,
) -> Result<Layer, EngineError> {
    let name = |tensor: &str| format!("blk.{layer}.{tensor}");
    let norm = |tensor: &str, length| {
        weights.vector(&name(&format!("{tensor}.weight")), length, options.norm_offset)
    };
    let [query, key, value] = weights.query_key_value(h, layer)?;
    if options.qkv_bias_required && !weights.has_bias(&name("attn_q"))? {
        return Err(weights.bad(format!("tensor `{}.bias` is missing", name("attn_q"))));
    }
    let [gate, up] = build_gate_up(h, weights, options, layer)?;
    let window = h.window_of(layer);
    let attention = h.heads * h.head_dim;
    let head_norm = |tensor: &str| norm(tensor, h.head_dim);
    let post_norm = |tensor: &str| options.post_norms.then(|| norm(tensor, h.hidden)).transpose();
    Ok(Layer {
        window,
        rope: usize::from(window.is_some() && h.local_rope_base.is_some()),
        attention_norm: norm("attn_norm", h.hidden)?,
        query,
        key,
        value,
        head_norms: match options.head_norms {
            true => Some((head_norm("attn_q_norm")?, head_norm("attn_k_norm")?)),
            false => None,
        },
        output: weights.linear(&name("attn_output"), h.hidden, attention)?,
        post_attention_norm: post_norm("post_attention_norm")?,
        feed_forward_norm: norm("ffn_norm", h.hidden)?,
        gate,
        up,
        down: weights.linear(&name("ffn_down"), h.hidden, h.intermediate)?,
        post_feed_forward_norm: post_norm("post_ffw_norm")?,
    })
}

fn build_gate_up(
    h: &Hyperparameters,
    weights: &Weights<'_>,
    options: &Options,
    layer: usize,
) -> Result<[Linear; 2], EngineError> {
    let (gate, up) = (format!("blk.{layer}.ffn_gate"), format!("blk.{layer}.ffn_up"));
    let size = h.intermediate;
    if options.fused_gate_up {
        let half = |start| weights.linear_rows(&up, 2 * size, start, size, h.hidden);
        return Ok([half(0)?, half(size)?]);
    }
    Ok([weights.linear(&gate, size, h.hidden)?, weights.linear(&up, size, h.hidden)?])
}

impl Decoder for DecoderStack {
    fn kv_layout(&self) -> KvLayout {
        self.layout
    }

    fn vocabulary(&self) -> usize {
        self.output.outputs()
    }

    fn weight_bytes(&self) -> usize {
        let counts = self.weight_counts();
        counts.layer_bytes + counts.output_bytes
    }

    fn weight_counts(&self) -> WeightCounts {
        let weights = |linear: &Linear| linear.inputs() * linear.outputs();
        let mut counts = WeightCounts {
            output_bytes: self.output.bytes(),
            output_weights: weights(&self.output),
            ..WeightCounts::default()
        };
        for layer in &self.layers {
            let Layer { query, key, value, output, gate, up, down, .. } = layer;
            for linear in [query, key, value, output, gate, up, down] {
                counts.layer_bytes += linear.bytes();
                counts.layer_weights += weights(linear);
            }
        }
        counts
    }

    fn forward(&mut self, batch: &Batch, kv: &mut KvCache, logits: &mut Tensor) {
        let DecoderStack { device, scratch: s, norm_eps: eps, .. } = self;
        let eps = *eps;
        device.embed(&self.embedding, &batch.tokens, self.embedding_scale, &mut s.x);
        for (rope, angles) in self.ropes.iter().zip(&mut s.angles) {
            rope.angles(&batch.positions, angles);
        }
        let step = Step { device, eps, attention: self.attention, ropes: &self.ropes, batch };
        let mut before: Option<&Layer> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            step.attend(layer, index, before, kv, s);
            if index + 1 == self.layers.len() {
                // Nothing reads the other rows any more: their keys and values are stored.
                if batch.logit_rows.is_empty() {
                    return logits.reshape(0, self.output.outputs());
                }
                keep_rows(device, &batch.logit_rows, &mut s.x, &mut s.delta);
                keep_rows(device, &batch.logit_rows, &mut s.attended, &mut s.q);
            }
            device.linear(&s.attended, &mut [(&layer.output, &mut s.delta)]);
            step.feed_forward(layer, self.activation, s);
            before = Some(layer);
        }
        let x = step.normed(&mut s.x, before.map(|layer| addend_after(layer, &s.delta)), &self.output_norm);
        device.linear(x, &mut [(&self.output, logits)]);
    }
}

/// What a layer's feed-forward half adds.
fn addend_after<'a>(layer: &'a Layer, delta: &'a Tensor) -> Addend<'a> {
    Addend { values: delta, gain: layer.post_feed_forward_norm.as_ref() }
}

/// Reduces `x` to some of its rows; `spare` is overwritten.
fn keep_rows(device: &Device, rows: &[u32], x: &mut Tensor, spare: &mut Tensor) {
    if rows.len() < x.rows() {
        device.gather_rows(x, rows, spare);
        swap(x, spare);
    }
}

/// What all layers of a step share.
#[derive(Clone, Copy)]
struct Step<'a> {
    device: &'a Device,
    eps: f32,
    attention: AttentionParams,
    ropes: &'a [RopeTable],
    batch: &'a Batch,
}

impl Step<'_> {
    /// attended = attention(norm(x)), and this step's keys and values into the cache; first x takes up what
    /// the layer `before` adds.
    fn attend(&self, layer: &Layer, index: usize, before: Option<&Layer>, kv: &mut KvCache, s: &mut Scratch) {
        let Step { device, batch, .. } = *self;
        let addend = before.map(|layer| addend_after(layer, &s.delta));
        device.linear(
            self.normed(&mut s.x, addend, &layer.attention_norm),
            &mut [(&layer.query, &mut s.q), (&layer.key, &mut s.k), (&layer.value, &mut s.v)],
        );
        let (q_norm, k_norm) = layer.head_norms.as_ref().map(|(q, k)| (q, k)).unzip();
        let angles = &s.angles[layer.rope];
        let k_turn = self.turn(layer, k_norm, angles);
        device.kv_write(kv, index, &s.k, &s.v, Some(&k_turn), &batch.sequences);
        let params = AttentionParams { window: layer.window, ..self.attention };
        let (q_turn, out) = (self.turn(layer, q_norm, angles), &mut s.attended);
        device.attention(&s.q, Some(&q_turn), kv, index, &batch.sequences, &params, out);
    }

    /// What is done to the heads of q or k.
    fn turn<'a>(&self, layer: &Layer, gain: Option<&'a Vector>, angles: &'a Tensor) -> HeadTurn<'a> {
        let norm = gain.map(|gain| (gain, self.eps));
        HeadTurn { norm, style: self.ropes[layer.rope].style, angles }
    }

    /// delta = feed_forward(norm(x)), after x took up what attention adds.
    fn feed_forward(&self, layer: &Layer, activation: Activation, s: &mut Scratch) {
        let addend = Addend { values: &s.delta, gain: layer.post_attention_norm.as_ref() };
        let x = self.normed(&mut s.x, Some(addend), &layer.feed_forward_norm);
        self.device.linear(x, &mut [(&layer.gate, &mut s.gate), (&layer.up, &mut s.up)]);
        let inner = Input::Gated { activation, gate: &s.gate, up: &s.up };
        self.device.linear(inner, &mut [(&layer.down, &mut s.delta)]);
    }

    /// norm(x), after x += addend
    fn normed<'a>(&self, x: &'a mut Tensor, addend: Option<Addend<'a>>, gain: &'a Vector) -> Input<'a> {
        Input::Normed { x, addend, gain, eps: self.eps }
    }
}
