//! What a model file holds, for people and for programs: [`inspect`] and the [`Inspection`] it gives.
//!
//! Reads directories and small JSON files only, never weights, so it takes milliseconds for any size.
//! `janus inspect` prints the result; an architecture or tensor type this version cannot run is still
//! described.

mod display;
mod folder;
mod gguf;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::EngineError;
use crate::files::{ModelFiles, TensorEntry};
use crate::models::description::describe;

/// What a model file or folder holds. Absent facts are `None`: the file does not say.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub path: PathBuf,
    /// `GGUF v3` or `safetensors`.
    pub file_format: String,
    /// Length of all weight files together.
    pub file_bytes: u64,
    #[serde(flatten)]
    pub description: Description,
    /// Why this version cannot run the model; `None` when nothing in the directory speaks against it.
    pub refusal: Option<String>,
    /// Values of all tensors that are not integer bookkeeping.
    pub parameters: u64,
    /// The largest type first.
    pub types: Vec<TypeShare>,
    /// In file order.
    pub tensors: Vec<TensorSummary>,
}

/// What the metadata says about the model.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Description {
    pub name: Option<String>,
    pub architecture: Option<String>,
    pub license: Option<String>,
    /// The file's own name for its mix of tensor types: `Q4_K_M`.
    pub quantization: Option<String>,
    #[serde(flatten)]
    pub sizes: Sizes,
    pub vocabulary: Option<Vocabulary>,
    /// The text of the template.
    pub chat_template: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sizes {
    pub context_tokens: Option<u64>,
    pub layers: Option<u64>,
    pub hidden_size: Option<u64>,
    pub feed_forward_size: Option<u64>,
    pub heads: Option<u64>,
    /// Heads of keys and values.
    pub kv_heads: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vocabulary {
    /// `BPE`, `SentencePiece`, `WordPiece`, ...; with the pre-tokeniser where the file names one.
    pub kind: String,
    pub tokens: Option<u64>,
}

/// How much of a model one tensor type makes up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeShare {
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether this version computes with the type.
    pub supported: bool,
    pub tensors: u64,
    pub values: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorSummary {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Outermost first.
    pub shape: Vec<usize>,
    pub bytes: u64,
}

/// Describes the GGUF file, safetensors file or model folder at `path`.
///
/// # Errors
/// As [`ModelFiles::open`]: a damaged file, an unreadable path, a file of another kind.
pub fn inspect(path: &Path) -> Result<Inspection, EngineError> {
    let files = ModelFiles::open(path)?;
    let (file_format, file_bytes, description) = match &files {
        ModelFiles::Gguf(gguf) => {
            (format!("GGUF v{}", gguf.version()), gguf.file_bytes(), gguf::describe(gguf)?)
        }
        ModelFiles::Folder(folder) => {
            ("safetensors".to_owned(), folder.file_bytes(), folder::describe(folder)?)
        }
    };
    Ok(Inspection {
        path: path.to_owned(),
        file_format,
        file_bytes: file_bytes as u64,
        description,
        refusal: refusal(&files),
        parameters: files.entries().filter(|entry| is_weight(entry)).map(|entry| entry.values() as u64).sum(),
        types: type_shares(files.entries()),
        tensors: files.entries().map(TensorSummary::of).collect(),
    })
}

fn refusal(files: &ModelFiles) -> Option<String> {
    match describe(files) {
        Err(EngineError::Unsupported { reason, .. } | EngineError::BadFile { reason, .. }) => Some(reason),
        Err(other) => Some(other.to_string()),
        Ok(_) => {
            let entry = files.entries().find(|entry| is_weight(entry) && entry.kind.format.is_none())?;
            Some(format!("tensor `{}` has type {}, which has no kernel", entry.name, entry.kind.name))
        }
    }
}

/// Integer tensors are positions and masks, not something that was learnt.
fn is_weight(entry: &TensorEntry) -> bool {
    !matches!(entry.kind.name, "BOOL" | "I16" | "U16" | "I32" | "U32" | "I64" | "U64")
}

fn type_shares<'a>(entries: impl Iterator<Item = &'a TensorEntry>) -> Vec<TypeShare> {
    let mut shares = BTreeMap::new();
    for entry in entries {
        let share = shares.entry(entry.kind.name).or_insert(TypeShare {
            kind: entry.kind.name,
            supported: entry.kind.format.is_some(),
            tensors: 0,
            values: 0,
            bytes: 0,
        });
        share.tensors += 1;
        share.values += entry.values() as u64;
        share.bytes += entry.range.len() as u64;
    }
    let mut shares: Vec<TypeShare> = shares.into_values().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

impl TensorSummary {
    fn of(entry: &TensorEntry) -> TensorSummary {
        TensorSummary {
            name: entry.name.clone(),
            kind: entry.kind.name,
            shape: entry.shape.clone(),
            bytes: entry.range.len() as u64,
        }
    }
}
