//! The stack that text encoders share: bidirectional attention, layer norms after both halves.
//!
//! One pass: embed all sequences' tokens as rows one after another, then in each layer
//! x = norm(x + attention(x)) and x = norm(x + feed_forward(x)), then pool. No padding: a row is a
//! token, and attention stays inside its sequence. `pass.rs` computes it in pieces of some rows of a part of
//! a layer, so that others get the cores in between.

mod pass;

use kernels::{Activation, AttentionParams, Device, Linear, RopeStyle, RopeTable, Table, Tensor, Vector};

use self::pass::{Pass, Stage};
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
    network: EncoderNetwork,
    pass: Pass,
}

struct EncoderNetwork {
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
    let network = EncoderNetwork {
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
    };
    Ok(Network::Encoder(Box::new(EncoderStack { network, pass: Pass::default() })))
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
        self.network.embedding.columns()
    }

    fn vocabulary(&self) -> usize {
        self.network.embedding.rows()
    }

    fn weight_bytes(&self) -> usize {
        let layer = |layer: &Layer| -> usize {
            let Layer { query, key, value, output, gate, up, down, .. } = layer;
            [query, key, value, output, up, down].into_iter().chain(gate).map(Linear::bytes).sum()
        };
        self.network.layers.iter().map(layer).sum()
    }

    fn begin(&mut self, sequences: &[&[u32]]) {
        self.pass.begin(sequences);
    }

    fn advance(&mut self, work_max: u64) -> u64 {
        let EncoderStack { network, pass } = self;
        let Some(stage) = pass.stage(network.layers.len()) else { return 0 };
        let work_a_row = network.work_a_row(stage, pass.longest).max(1);
        let rows = pass.take_rows(usize::try_from(work_max / work_a_row).unwrap_or(usize::MAX));
        match stage {
            Stage::Embed => network.embed(rows.clone(), pass),
            Stage::Project(layer) => network.project(&network.layers[layer], rows.clone(), pass),
            Stage::Attend(layer) => network.attend(&network.layers[layer], rows.clone(), pass),
            Stage::Expand(layer) => network.expand(&network.layers[layer], rows.clone(), pass),
            Stage::Contract(layer) => network.contract(&network.layers[layer], rows.clone(), pass),
        }
        work_a_row * rows.len() as u64
    }

    fn finish(&mut self, out: &mut Tensor) {
        self.network.pooling.apply(&self.pass.x, &self.pass.segments, out);
    }
}
