//! A model ready to serve: weights on a device, tokenizer, template, limits.

use std::path::Path;
use std::sync::Arc;

use kernels::Device;

use crate::EngineError;
use crate::batch::{Decoder, Encoder};
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// What the gateway needs to know of a served model; cheap to clone.
#[derive(Clone)]
pub struct ModelInfo {
    /// Name requests use.
    pub name: String,
    pub architecture: String,
    pub task: Task,
    /// Tokens of prompt and output together (decoders), or of one input (encoders).
    pub context_tokens: usize,
    pub parameters: u64,
    /// Seconds since 1970 of the model file, for `/v1/models`.
    pub created: u64,
    pub tokenizer: Arc<Tokenizer>,
    /// Absent for encoders and base models.
    pub chat_template: Option<Arc<ChatTemplate>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Generate,
    /// `dimensions` of the vectors; `truncatable` when shorter prefixes of them are meaningful
    /// (Matryoshka training).
    Embed {
        dimensions: usize,
        truncatable: bool,
    },
}

/// Weights of either kind.
pub enum Network {
    Decoder(Box<dyn Decoder>),
    Encoder(Box<dyn Encoder>),
}

pub struct LoadedModel {
    pub info: ModelInfo,
    pub network: Network,
    /// Tokens that end a generation.
    pub eos_tokens: Vec<u32>,
    pub device: Device,
}

pub struct LoadOptions<'a> {
    /// A GGUF file, a safetensors file, or a folder with `config.json`.
    pub path: &'a Path,
    /// Served name; `None` takes the file's own name.
    pub name: Option<&'a str>,
    /// Cap on the context; `None` takes the model's.
    pub context_tokens: Option<usize>,
    pub device: &'a Device,
    /// Called with 0.0..=1.0 as weights are packed.
    pub progress: &'a (dyn Fn(f32) + Sync),
}

/// Opens, checks and packs a model.
pub fn load(options: &LoadOptions<'_>) -> Result<LoadedModel, EngineError> {
    Err(EngineError::Unsupported { path: options.path.to_owned(), reason: "no architecture yet".into() })
}
