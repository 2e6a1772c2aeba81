//! Rotary settings of a description: base, turned part, scaling.

use super::key;
use crate::models::fields::{Fields, Key};
use crate::models::rope::{Llama3, LongRope, Rope, Scaling, Yarn};

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

const ROPE_BASE: Key = key(
    &["rope.freq_base"],
    &[
        "rope_parameters.full_attention.rope_theta",
        "rope_parameters.rope_theta",
        "rope_theta",
        "rotary_emb_base",
    ],
);
const ROPE_DIMENSIONS: Key = key(&["rope.dimension_count"], &[]);
const ROPE_FRACTION: Key =
    key(&[], &["rope_parameters.partial_rotary_factor", "partial_rotary_factor", "rotary_emb_fraction"]);

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

/// Reads them for heads of `head_dim` values and a stated context of `context_tokens`.
pub(super) fn read_rope(
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
