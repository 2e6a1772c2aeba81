//! Hugging Face tokenizers: `tokenizer.json`, and from the files beside it the tokens with a role.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokenizers::NormalizerWrapper;

use super::{TokenRoles, Tokenizer, charsmap};
use crate::EngineError;

/// Larger than any published tokenizer (about 35 MB) by a wide margin.
const FILE_BYTES_MAX: u64 = 256 << 20;

impl Tokenizer {
    /// Reads a `tokenizer.json`; `tokenizer_config.json`, `special_tokens_map.json` and
    /// `generation_config.json` beside it, where present, name BOS, EOS and further end tokens.
    ///
    /// # Errors
    /// The path and what is wrong with the file.
    pub fn from_file(path: &Path) -> Result<Tokenizer, EngineError> {
        let bad = |reason: String| EngineError::BadFile { path: path.to_owned(), reason };
        let inner = tokenizers::Tokenizer::from_bytes(read(path)?)
            .map_err(|error| bad(format!("not a tokenizer this version reads: {error}")))?;
        check_normalizer(inner.get_normalizer()).map_err(bad)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let roles = roles(&inner, folder)?;
        Tokenizer::new(inner, None, roles).map_err(|error| bad(error.to_string()))
    }

    /// Reads the `tokenizer.json` of a model's folder.
    pub fn from_folder(folder: &Path) -> Result<Tokenizer, EngineError> {
        Tokenizer::from_file(&folder.join("tokenizer.json"))
    }
}

/// SentencePiece's compiled normaliser is a program of offsets; see [`charsmap`].
fn check_normalizer(normalizer: Option<&NormalizerWrapper>) -> Result<(), String> {
    match normalizer {
        Some(NormalizerWrapper::Sequence(steps)) => {
            steps.as_ref().iter().try_for_each(|step| check_normalizer(Some(step)))
        }
        Some(NormalizerWrapper::Precompiled(step)) => {
            let written = serde_json::to_value(step).map_err(|error| error.to_string())?;
            let text = written["precompiled_charsmap"].as_str().unwrap_or_default();
            let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
            charsmap::check(&bytes).map_err(|reason| format!("precompiled_charsmap: {reason}"))
        }
        _ => Ok(()),
    }
}

fn roles(inner: &tokenizers::Tokenizer, folder: &Path) -> Result<TokenRoles, EngineError> {
    let mut roles = TokenRoles::default();
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(config) = read_json(&folder.join(name))? else { continue };
        let id_of = |key: &str| token_text(&config[key]).and_then(|name| inner.token_to_id(name));
        // BERT's files name their frame [CLS] ... [SEP] instead.
        roles.bos = roles.bos.or_else(|| id_of("bos_token")).or_else(|| id_of("cls_token"));
        roles.eos = roles.eos.or_else(|| id_of("eos_token")).or_else(|| id_of("sep_token"));
        roles.unknown = roles.unknown.or_else(|| id_of("unk_token"));
    }
    if let Some(config) = read_json(&folder.join("generation_config.json"))? {
        roles.add_ends(&ids(&config["eos_token_id"]));
    }
    Ok(roles)
}

/// A token is written as its text, or as an object that holds it.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// One id or a list of ids.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.as_array() {
        Some(list) => list.iter().filter_map(id).collect(),
        None => id(value).into_iter().collect(),
    }
}

/// `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, EngineError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bad =
        |error: serde_json::Error| EngineError::BadFile { path: path.to_owned(), reason: error.to_string() };
    serde_json::from_slice(&read(path)?).map(Some).map_err(bad)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, EngineError> {
    let io = |source| EngineError::Io { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length > FILE_BYTES_MAX {
        let reason = format!("{length} bytes; at most {FILE_BYTES_MAX} are read");
        return Err(EngineError::BadFile { path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(io)
}
