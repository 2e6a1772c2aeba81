//! `POST /v1/embeddings`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Ignored;
use crate::input::TextsOrTokens;
use crate::object::{EmbeddingObject, ListObject};

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingRequest {
    pub model: String,
    /// One text, several, or the same as token ids.
    pub input: TextsOrTokens,
    pub encoding_format: Option<EncodingFormat>,
    /// Shorter vectors, from models trained for it.
    #[schemars(range(min = 1))]
    pub dimensions: Option<u32>,

    pub user: Option<Ignored>,
    pub priority: Option<Ignored>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodingFormat {
    #[default]
    Float,
    /// 32-bit floats, little-endian, in base64.
    Base64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingList {
    pub object: ListObject,
    pub data: Vec<Embedding>,
    pub model: String,
    pub usage: EmbeddingUsage,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Embedding {
    pub object: EmbeddingObject,
    pub index: u32,
    pub embedding: Vector,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmbeddingUsage {
    pub prompt_tokens: u64,
    pub total_tokens: u64,
}
