//! `/admin/models`: what is loaded, and loading and unloading. Janus' own; nothing of OpenAI's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::object::{ListObject, ModelObject};

/// `GET /admin/models`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AdminModelList {
    pub object: ListObject,
    pub data: Vec<AdminModel>,
    pub memory: AdminMemory,
}

/// The memory budget of all models together.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AdminMemory {
    /// `null` where there is no limit.
    pub total_bytes: Option<u64>,
    /// Weights and caches, in full.
    pub used_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AdminModel {
    /// The name requests use. While versions are swapped, two entries have it.
    pub id: String,
    pub object: ModelObject,
    pub state: AdminModelState,
    /// How far loading has come, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<f32>,
    /// What is known once it is loaded.
    #[serde(flatten)]
    pub loaded: Option<AdminLoaded>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AdminModelState {
    /// It is being checked and packed.
    Loading,
    /// It takes requests.
    Ready,
    /// It finishes its requests and takes no new ones.
    Unloading,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AdminLoaded {
    pub architecture: String,
    pub parameters: u64,
    pub max_model_len: u64,
    /// Never unloaded to make room for another.
    pub pinned: bool,
    pub weight_bytes: u64,
    /// Memory for keys and values.
    pub kv_bytes: u64,
    pub kv_pages: u64,
    pub kv_pages_used: u64,
    /// Running and waiting.
    pub requests: u64,
    /// Seconds since 1970.
    pub last_used: u64,
}

/// `POST /admin/models/load`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// A model of the configuration, or an installed one of the catalogue.
    pub model: String,
    /// The name requests will use, its own without one. A model that has this name goes once its
    /// requests have finished.
    pub served_name: Option<String>,
    /// Never unload it to make room for another.
    pub pin: Option<bool>,
}

/// `POST /admin/models/unload`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnloadRequest {
    /// The name requests use.
    pub model: String,
    /// End its requests at once instead of letting them finish.
    pub cancel: Option<bool>,
}

/// The answer to [`UnloadRequest`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Unloaded {
    pub id: String,
    /// False while its requests still run; its memory becomes free after the last of them.
    pub unloaded: bool,
    /// Weights and cache.
    pub bytes: u64,
}
