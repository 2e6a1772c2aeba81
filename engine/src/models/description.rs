//! Which architecture a file is of, and the fields that describe it.

use serde_json::{Map, Number, Value};

use crate::EngineError;
use crate::files::gguf::Value as GgufValue;
use crate::files::{Folder, Gguf, ModelFiles, bad_file};
use crate::models::config::{Hyperparameters, RopeFactors};
use crate::models::fields::Fields;
use crate::models::registry::{self, Architecture};

/// Longest metadata array that can describe a network: one entry a layer.
const ARRAY_MAX: usize = 1 << 10;

/// What a file says of its network.
pub struct Description {
    pub architecture: &'static Architecture,
    pub hyperparameters: Hyperparameters,
    /// Whether shorter prefixes of an encoder's vectors are meaningful (Matryoshka training).
    pub truncatable: bool,
}

/// Reads and checks it.
///
/// # Errors
/// `Unsupported` for an architecture, or a variant of one, that is not in the registry; `BadFile` for
/// metadata that is missing, mistyped or out of range.
pub fn describe(files: &ModelFiles) -> Result<Description, EngineError> {
    let (architecture, fields) = match files {
        ModelFiles::Gguf(gguf) => gguf_fields(gguf)?,
        ModelFiles::Folder(folder) => folder_fields(folder)?,
    };
    let unsupported = |reason| EngineError::Unsupported { path: files.path().to_owned(), reason };
    refuse_variants(architecture, &fields).map_err(unsupported)?;
    let hyperparameters = Hyperparameters::read(&fields, rope_factors(files)?)
        .map_err(|reason| bad_file(files.path(), reason))?;
    Ok(Description { architecture, hyperparameters, truncatable: fields.has("matryoshka_dimensions") })
}

fn gguf_fields(gguf: &Gguf) -> Result<(&'static Architecture, Fields), EngineError> {
    let name = gguf.architecture()?;
    let Some(architecture) = registry::by_gguf_name(name) else {
        return Err(unknown(gguf.path(), name));
    };
    let mut values = Map::new();
    for (key, value) in gguf.metadata() {
        if let Some(field) = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.')) {
            values.insert(field.to_owned(), gguf_value(gguf, key, value)?);
        }
    }
    Ok((architecture, Fields::gguf(values, architecture.fallback)))
}

/// The value as JSON. One that has no place there (an infinite number, a long array) becomes a text, so
/// that whoever wants a number reports it.
fn gguf_value(gguf: &Gguf, key: &str, value: &GgufValue) -> Result<Value, EngineError> {
    Ok(match value {
        GgufValue::Unsigned(number) => Value::from(*number),
        GgufValue::Signed(number) => Value::from(*number),
        GgufValue::Float(number) => {
            Number::from_f64(*number).map_or_else(|| Value::from(number.to_string()), Value::Number)
        }
        GgufValue::Bool(flag) => Value::from(*flag),
        GgufValue::Text(_) => Value::from(gguf.get::<&str>(key)?.unwrap_or_default()),
        GgufValue::Array(array) if array.count > ARRAY_MAX => Value::from(value.describe()),
        GgufValue::Array(_) => {
            if let Ok(Some(counts)) = gguf.get::<Vec<u64>>(key) {
                Value::from(counts)
            } else if let Ok(Some(flags)) = gguf.get::<Vec<bool>>(key) {
                Value::from(flags)
            } else {
                Value::from(value.describe())
            }
        }
    })
}

fn folder_fields(folder: &Folder) -> Result<(&'static Architecture, Fields), EngineError> {
    let path = folder.path().join("config.json");
    let config = folder.config()?.as_object();
    let config = config.ok_or_else(|| bad_file(&path, "is no JSON object"))?;
    let name = config.get("model_type").and_then(Value::as_str);
    let name = name.ok_or_else(|| bad_file(&path, "lacks `model_type`"))?;
    refuse_heads(config).map_err(|reason| EngineError::Unsupported { path: path.clone(), reason })?;
    let architecture = registry::by_model_type(name).ok_or_else(|| unknown(folder.path(), name))?;
    Ok((architecture, Fields::json(config, architecture.fallback)))
}

/// Checkpoints whose answer is a class, a score or a span: rerankers, sentiment, question answering.
fn refuse_heads(config: &Map<String, Value>) -> Result<(), String> {
    let classes = config.get("architectures").and_then(Value::as_array).into_iter().flatten();
    let heads = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"];
    match classes.filter_map(Value::as_str).find(|class| heads.iter().any(|head| class.ends_with(head))) {
        Some(class) => Err(format!("a `{class}` neither generates nor embeds, so it cannot be served")),
        None => Ok(()),
    }
}

fn unknown(path: &std::path::Path, name: &str) -> EngineError {
    EngineError::Unsupported {
        path: path.to_owned(),
        reason: format!(
            "architecture `{name}` is not supported; supported are {}",
            registry::supported_names()
        ),
    }
}

/// Switches in a configuration that change what its network computes, where this code has one way only.
fn refuse_variants(architecture: &Architecture, fields: &Fields) -> Result<(), String> {
    match architecture.refused.iter().find(|key| fields.is_on(key)) {
        Some(key) => Err(format!("{} networks with `{key}` are not supported", architecture.name)),
        None => Ok(()),
    }
}

/// Rotary divisors that GGUF keeps in tensors.
fn rope_factors(files: &ModelFiles) -> Result<RopeFactors, EngineError> {
    let ModelFiles::Gguf(gguf) = files else { return Ok(RopeFactors::default()) };
    let read = |name: &str| match gguf.tensor(name)? {
        // One value a turned pair; anything longer is caught before it is read.
        Some(tensor) if tensor.rows() * tensor.columns() > ARRAY_MAX => {
            Err(bad_file(files.path(), format!("tensor `{name}` has {} values", tensor.columns())))
        }
        tensor => Ok(tensor.map(|tensor| tensor.to_f32())),
    };
    Ok(RopeFactors {
        all: read("rope_freqs.weight")?,
        short: read("rope_factors_short.weight")?,
        long: read("rope_factors_long.weight")?,
    })
}
