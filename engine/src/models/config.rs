//! Sizes and constants of a network, parsed once and range-checked.
//!
//! [`Hyperparameters::read`] is the only place that knows the keys of GGUF metadata and of
//! `config.json`; architectures see the typed result. What a file leaves out takes the architecture's
//! own fallback (see [`crate::models::registry::Architecture::fallback`]).

use kernels::Activation;
use serde_json::Value;

use crate::models::fields::{Fields, Key};
use crate::models::rope::{Llama3, LongRope, Rope, Scaling, Yarn};

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

/// Rotary divisors that GGUF keeps in tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RopeFactors {
    /// `rope_freqs.weight`
    pub all: Option<Vec<f32>>,
    /// `rope_factors_short.weight`
    pub short: Option<Vec<f32>>,
    /// `rope_factors_long.weight`
    pub long: Option<Vec<f32>>,
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

const ROPE_BASE: Key = key(
    &["rope.freq_base"],
    &[
        "rope_parameters.full_attention.rope_theta",
        "rope_parameters.rope_theta",
        "rope_theta",
        "rotary_emb_base",
    ],
);
const LOCAL_ROPE_BASE: Key =
    key(&["rope.freq_base_swa"], &["rope_parameters.sliding_attention.rope_theta", "rope_local_base_freq"]);
const ROPE_DIMENSIONS: Key = key(&["rope.dimension_count"], &[]);
const ROPE_FRACTION: Key =
    key(&[], &["rope_parameters.partial_rotary_factor", "partial_rotary_factor", "rotary_emb_fraction"]);

const fn key(gguf: &'static [&'static str], json: &'static [&'static str]) -> Key {
    Key { gguf, json }
}

/// A key of the rotary scaling: it stands in one of three objects of `config.json`.
macro_rules! scaling_key {
    ($gguf:expr, $name:literal) => {
        key(
            $gguf,
            &[
                concat!("rope_parameters.full_attention.", $name),
                concat!("rope_parameters.", $name),
                concat!("rope_scaling.", $name),
            ],
        )
    };
}

const SCALING_TYPE: Key = scaling_key!(&["rope.scaling.type"], "rope_type");
const SCALING_TYPE_OLD: Key = scaling_key!(&[], "type");
const FACTOR: Key = scaling_key!(&["rope.scaling.factor", "rope.scale_linear"], "factor");
const LOW_FREQUENCY: Key = scaling_key!(&[], "low_freq_factor");
const HIGH_FREQUENCY: Key = scaling_key!(&[], "high_freq_factor");
const BETA_FAST: Key = scaling_key!(&["rope.scaling.yarn_beta_fast"], "beta_fast");
const BETA_SLOW: Key = scaling_key!(&["rope.scaling.yarn_beta_slow"], "beta_slow");
const TRUNCATE: Key = scaling_key!(&[], "truncate");
const MAGNITUDE: Key = scaling_key!(&["rope.scaling.attn_factor"], "attention_factor");
const MSCALE: Key = scaling_key!(&[], "mscale");
const MSCALE_ALL: Key = scaling_key!(&[], "mscale_all_dim");
const SHORT_FACTOR: Key = scaling_key!(&[], "short_factor");
const LONG_FACTOR: Key = scaling_key!(&[], "long_factor");
/// Phi-3 keeps it beside the scaling, and there it wins.
const ORIGINAL_CONTEXT: Key =
    key(&["rope.scaling.original_context_length"], &["original_max_position_embeddings"]);
const ORIGINAL_CONTEXT_IN_SCALING: Key = scaling_key!(&[], "original_max_position_embeddings");

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
            rope: read_rope(fields, head_dim, context_tokens, factors)?,
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
            ("values a head", self.head_dim, 1 << 10),
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

fn read_rope(
    fields: &Fields,
    head_dim: usize,
    context_tokens: usize,
    factors: RopeFactors,
) -> Result<Rope, String> {
    let fraction = fields.number(&ROPE_FRACTION)?.unwrap_or(1.0);
    let dimensions = match fields.count(&ROPE_DIMENSIONS)? {
        Some(dimensions) => dimensions,
        None => (head_dim as f32 * fraction) as usize,
    };
    let base = fields.number(&ROPE_BASE)?.unwrap_or(10_000.0);
    let scaling = match read_tensor_scaling(fields, context_tokens, factors)? {
        Some(scaling) => scaling,
        None => read_scaling(fields, context_tokens)?,
    };
    Ok(Rope { base, dimensions, scaling })
}

/// Divisors that a GGUF keeps in tensors; their presence is what says that they apply.
fn read_tensor_scaling(
    fields: &Fields,
    context_tokens: usize,
    factors: RopeFactors,
) -> Result<Option<Scaling>, String> {
    match factors {
        RopeFactors { short: Some(short), long: Some(long), .. } => {
            Ok(Some(Scaling::Long(long_rope(fields, context_tokens, short, long)?)))
        }
        RopeFactors { all: Some(divisors), .. } => Ok(Some(Scaling::Divisors(divisors))),
        _ => Ok(None),
    }
}

fn read_scaling(fields: &Fields, context_tokens: usize) -> Result<Scaling, String> {
    let kind = fields.text(&SCALING_TYPE)?.or(fields.text(&SCALING_TYPE_OLD)?).unwrap_or("default");
    let need = |key: &Key| fields.required(key, fields.number(key)?);
    Ok(match kind {
        "default" | "none" => match fields.number(&FACTOR)? {
            // Old GGUF files say `rope.scale_linear` and no type.
            Some(factor) if fields.is_gguf() && factor != 1.0 && factor != 0.0 => Scaling::Linear { factor },
            _ => Scaling::None,
        },
        "linear" => Scaling::Linear { factor: need(&FACTOR)? },
        "llama3" => Scaling::Llama3(Llama3 {
            factor: need(&FACTOR)?,
            low_frequency_factor: need(&LOW_FREQUENCY)?,
            high_frequency_factor: need(&HIGH_FREQUENCY)?,
            original_context: original_context(fields, context_tokens)?,
        }),
        "yarn" => Scaling::Yarn(yarn(fields, context_tokens)?),
        "longrope" | "su" => {
            let list = |key: &Key| fields.required(key, fields.numbers(key)?);
            Scaling::Long(long_rope(fields, context_tokens, list(&SHORT_FACTOR)?, list(&LONG_FACTOR)?)?)
        }
        other => return Err(format!("rotary scaling `{other}` is not supported")),
    })
}

fn original_context(fields: &Fields, context_tokens: usize) -> Result<usize, String> {
    let inside = fields.count(&ORIGINAL_CONTEXT_IN_SCALING)?;
    Ok(fields.count(&ORIGINAL_CONTEXT)?.or(inside).unwrap_or(context_tokens))
}

fn yarn(fields: &Fields, context_tokens: usize) -> Result<Yarn, String> {
    let original_context = original_context(fields, context_tokens)?;
    let stretch = context_tokens as f32 / original_context.max(1) as f32;
    let factor = fields.number(&FACTOR)?.unwrap_or(stretch);
    let growth = |scale: f32| 0.1 * scale * factor.max(1.0).ln() + 1.0;
    let magnitude = match (fields.number(&MAGNITUDE)?, fields.number(&MSCALE)?, fields.number(&MSCALE_ALL)?) {
        // GGUF's factor multiplies the usual one, `config.json`'s replaces it.
        (Some(magnitude), ..) if fields.is_gguf() => Some(magnitude * growth(1.0)),
        (Some(magnitude), ..) => Some(magnitude),
        (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => Some(growth(one) / growth(all)),
        _ => None,
    };
    Ok(Yarn {
        factor,
        original_context,
        beta_fast: fields.number(&BETA_FAST)?.unwrap_or(32.0),
        beta_slow: fields.number(&BETA_SLOW)?.unwrap_or(1.0),
        magnitude,
        truncate: fields.flag(&TRUNCATE)?.unwrap_or(true),
    })
}

fn long_rope(
    fields: &Fields,
    context_tokens: usize,
    short: Vec<f32>,
    long: Vec<f32>,
) -> Result<LongRope, String> {
    let original_context = original_context(fields, context_tokens)?;
    let stretch = fields.number(&FACTOR)?.unwrap_or(context_tokens as f32 / original_context.max(1) as f32);
    let magnitude = match fields.number(&MAGNITUDE)? {
        Some(magnitude) => magnitude,
        None => LongRope::default_magnitude(stretch, original_context),
    };
    Ok(LongRope { short, long, original_context, magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::registry::by_model_type;
    use serde_json::json;

    fn read(mut config: Value, changes: Value) -> Result<Hyperparameters, String> {
        let Value::Object(changes) = changes else { panic!("changes are an object") };
        let fields = config.as_object_mut().unwrap();
        for (key, value) in changes {
            fields.insert(key, value);
        }
        let gguf = fields.contains_key("block_count");
        let fields = if gguf { Fields::gguf(fields.clone(), &[]) } else { Fields::json(fields, &[]) };
        Hyperparameters::read(&fields, RopeFactors::default())
    }

    fn json_config() -> Value {
        json!({
            "num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 128,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "rope_theta": 5e5
        })
    }

    fn gguf_metadata() -> Value {
        json!({
            "block_count": 4, "embedding_length": 64, "feed_forward_length": 128,
            "attention.head_count": 4, "attention.head_count_kv": 2, "context_length": 512,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 5e5
        })
    }

    #[test]
    fn both_sources_say_the_same() {
        let json = read(json_config(), json!({})).unwrap();
        let gguf = read(gguf_metadata(), json!({})).unwrap();
        assert_eq!((json.head_dim, json.kv_heads, json.rope.base), (16, 2, 5e5));
        let unsaid = Hyperparameters { vocabulary: None, activation: None, ..json };
        assert_eq!(gguf, unsaid);
    }

    /// Published configurations, reduced to what is read here.
    #[test]
    fn published_configurations() {
        let check = |row: &str, config: Value, expected: [usize; 5], scaling: fn(&Scaling) -> bool| {
            let architecture = by_model_type(row).unwrap();
            let fields = Fields::json(config.as_object().unwrap(), architecture.fallback);
            let h = Hyperparameters::read(&fields, RopeFactors::default()).unwrap();
            let found = [h.layers, h.heads, h.kv_heads, h.head_dim, h.window.unwrap_or(0)];
            assert_eq!(found, expected, "{row}");
            assert!(scaling(&h.rope.scaling), "{row}: {:?}", h.rope);
        };
        check(
            "gemma3",
            json!({
                "model_type": "gemma3", "eos_token_id": [1, 106],
                "text_config": {
                    "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                    "num_hidden_layers": 34, "sliding_window": 1024,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}
                },
                "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27}
            }),
            [34, 8, 4, 256, 1024],
            |scaling| matches!(scaling, Scaling::Linear { factor: 8.0 }),
        );
        check(
            "mistral",
            json!({
                "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000,
                "max_position_embeddings": 32768, "hidden_act": "silu"
            }),
            [32, 32, 8, 128, 4096],
            |scaling| *scaling == Scaling::None,
        );
        check(
            "phi3",
            json!({
                "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24,
                "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0, "sliding_window": 262_144, "vocab_size": 200_064,
                "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096,
                "partial_rotary_factor": 0.75, "hidden_act": "silu",
                "rope_scaling": {
                    "type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![2.0; 48]
                }
            }),
            [32, 24, 8, 128, 262_144],
            |scaling| matches!(scaling, Scaling::Long(long) if (long.magnitude - 1.1902381).abs() < 1e-6),
        );
    }

    #[test]
    fn hostile_values_are_refused() {
        let check = |config: Value, changes: Value, expected: &str| {
            let reason = read(config, changes.clone()).unwrap_err();
            assert!(reason.contains(expected), "{changes}: {reason}");
        };
        for (changes, expected) in [
            (json!({"num_attention_heads": 0}), "0 heads"),
            (json!({"num_attention_heads": 5}), "5 heads"),
            (json!({"num_attention_heads": null}), "lacks `num_attention_heads`"),
            (json!({"num_attention_heads": -4}), "a count is expected"),
            (json!({"num_attention_heads": 4.5}), "a count is expected"),
            (json!({"num_attention_heads": "4"}), "a count is expected"),
            (json!({"num_key_value_heads": 0}), "0 key-value heads"),
            (json!({"num_key_value_heads": 3}), "do not divide among 3"),
            (json!({"num_hidden_layers": 4_000_000_000_u64}), "4000000000 layers"),
            (json!({"num_hidden_layers": 0}), "0 layers"),
            (json!({"hidden_size": u64::MAX}), "hidden values"),
            (json!({"head_dim": 15}), "heads of 15 values"),
            (json!({"head_dim": 0}), "0 values a head"),
            (json!({"intermediate_size": null}), "lacks `intermediate_size"),
            (json!({"vocab_size": 0}), "0 vocabulary entries"),
            (json!({"max_position_embeddings": 0}), "0 context tokens"),
            (json!({"rms_norm_eps": 0.0}), "norm epsilon"),
            (json!({"rms_norm_eps": "NaN"}), "a finite number is expected"),
            (json!({"rms_norm_eps": 1e300}), "a finite number is expected"),
            (json!({"rope_theta": -1.0}), "rotary base"),
            (json!({"hidden_act": "relu9"}), "activation `relu9`"),
            (json!({"query_pre_attn_scalar": 0}), "attention scale"),
            (json!({"partial_rotary_factor": 0.2}), "3 rotary dimensions"),
            (json!({"rope_scaling": {"type": "mrope"}}), "rotary scaling `mrope`"),
            (json!({"rope_scaling": {"type": "linear"}}), "factor"),
            (json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": "x"}}), "list"),
            (json!({"layer_types": ["full_attention"]}), "lists 1 layers of 4"),
        ] {
            check(json_config(), changes, expected);
        }
        for (changes, expected) in [
            (json!({"attention.head_count_kv": [2, 2, 1, 2]}), "a count is expected"),
            (json!({"attention.value_length": 32}), "keys of 16 values"),
            (json!({"attention.layer_norm_rms_epsilon": "NaN"}), "a finite number is expected"),
            (json!({"rope.dimension_count": 64}), "64 rotary dimensions"),
            (json!({"block_count": null}), "lacks `block_count`"),
        ] {
            check(gguf_metadata(), changes, expected);
        }
    }

    #[test]
    fn windows_apply_to_the_layers_that_are_named() {
        let check = |changes: Value, expected: [bool; 4]| {
            let found = read(json_config(), changes.clone()).unwrap();
            let windowed: Vec<bool> = (0..4).map(|layer| found.window_of(layer).is_some()).collect();
            assert_eq!(windowed, expected, "{changes}");
        };
        check(json!({}), [false; 4]);
        check(json!({"sliding_window": 8}), [true; 4]);
        check(json!({"sliding_window": null}), [false; 4]);
        check(json!({"sliding_window": 8, "use_sliding_window": false}), [false; 4]);
        check(json!({"sliding_window": 8, "sliding_window_pattern": 2}), [true, false, true, false]);
        check(json!({"sliding_window": 8, "max_window_layers": 3}), [false, false, false, true]);
        let types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
        check(json!({"sliding_window": 8, "layer_types": types}), [false, true, true, false]);
    }

    #[test]
    fn rotary_settings_are_found_where_versions_keep_them() {
        let check = |changes: Value, base: f32, dimensions: usize, scaling: Scaling| {
            let found = read(json_config(), changes.clone()).unwrap().rope;
            assert_eq!(found, Rope { base, dimensions, scaling }, "{changes}");
        };
        let linear = || Scaling::Linear { factor: 2.0 };
        check(json!({}), 5e5, 16, Scaling::None);
        check(json!({"partial_rotary_factor": 0.5}), 5e5, 8, Scaling::None);
        check(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), 5e5, 16, linear());
        check(json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}), 5e5, 16, linear());
        check(
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
            1e4,
            16,
            linear(),
        );
        check(
            json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}}}),
            1e6,
            16,
            linear(),
        );
        check(json!({"rope_parameters": {"rope_type": "default"}}), 5e5, 16, Scaling::None);
    }
}
