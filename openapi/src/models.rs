//! `GET /v1/models` and `GET /v1/models/{model}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{ListObject, ModelObject};

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ModelList {
    pub object: ListObject,
    pub data: Vec<Model>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// The name requests use.
    pub id: String,
    pub object: ModelObject,
    /// Seconds since 1970.
    pub created: u64,
    pub owned_by: String,
    /// Tokens of prompt and output together, under the name vLLM uses. Absent where it is not known before
    /// the model is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u64>,
}
