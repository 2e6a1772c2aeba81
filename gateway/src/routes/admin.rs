//! `/admin/models`: what is loaded, loading and unloading. Who may is checked before
//! ([`crate::stack`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::response::Response;
use engine::{ModelState, ModelStatus, UnloadMode};
use openapi::admin::{
    AdminLoaded, AdminMemory, AdminModel, AdminModelList, AdminModelState, LoadRequest, UnloadRequest,
    Unloaded,
};
use openapi::object::{ListObject, ModelObject};

use super::body::{json_reply, read_json};
use crate::error::{ApiError, ApiResult};
use crate::loader::LoadOrder;
use crate::wiring::{App, Loaded};

/// An unload that takes longer is answered before it is done: requests still run.
const UNLOAD_WAIT: Duration = Duration::from_secs(2);

pub async fn list(Loaded(app): Loaded) -> Response {
    let loaded = app.engine.residents().into_iter().map(describe);
    let loading = app.loader.progress().into_iter().map(|(id, progress)| AdminModel {
        id,
        object: ModelObject::Value,
        state: AdminModelState::Loading,
        progress: Some(progress),
        loaded: None,
    });
    let stats = app.engine.stats();
    let total = stats.memory_bytes_total;
    json_reply(&AdminModelList {
        object: ListObject::Value,
        data: loaded.chain(loading).collect(),
        memory: AdminMemory {
            total_bytes: (total < usize::MAX).then_some(total as u64),
            used_bytes: stats.memory_bytes_used as u64,
        },
    })
}

pub async fn load(Loaded(app): Loaded, request: Request) -> ApiResult<Response> {
    let (request, _) = read_json::<LoadRequest>(&app, request).await?;
    let served_name = request.served_name.unwrap_or_else(|| request.model.clone());
    let pinned = request.pin.unwrap_or(false);
    let order = LoadOrder { model: request.model, served_name: served_name.clone(), pinned };
    app.loader.load(order).await.map_err(|error| ApiError::from_load(&error))?;
    let mut models = app.engine.residents().into_iter().rev();
    let loaded = models.find(|model| model.info.name == served_name);
    // It can be gone again already, by another operator's hand.
    let loaded = loaded.ok_or_else(|| ApiError::unknown_model(&served_name))?;
    Ok(json_reply(&describe(loaded)))
}

pub async fn unload(Loaded(app): Loaded, request: Request) -> ApiResult<Response> {
    let (request, _) = read_json::<UnloadRequest>(&app, request).await?;
    let mode = if request.cancel.unwrap_or(false) { UnloadMode::Cancel } else { UnloadMode::Finish };
    let unloaded = unload_model(&app, request.model, mode).await?;
    Ok(json_reply(&unloaded))
}

async fn unload_model(app: &App, id: String, mode: UnloadMode) -> ApiResult<Unloaded> {
    let refused = |error| ApiError::from_engine(error, "model");
    let unloading = Arc::new(app.engine.unload(&id, mode).map_err(refused)?);
    let bytes = unloading.bytes() as u64;
    let waited = tokio::task::spawn_blocking(move || unloading.wait(UNLOAD_WAIT)).await;
    Ok(Unloaded { id, unloaded: waited.unwrap_or(false), bytes })
}

fn describe(status: ModelStatus) -> AdminModel {
    let last_used = SystemTime::now().checked_sub(status.unused_for);
    let since_1970 = last_used.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    AdminModel {
        id: status.info.name,
        object: ModelObject::Value,
        state: match status.state {
            ModelState::Ready => AdminModelState::Ready,
            ModelState::Unloading => AdminModelState::Unloading,
        },
        progress: None,
        loaded: Some(AdminLoaded {
            architecture: status.info.architecture,
            parameters: status.info.parameters,
            max_model_len: status.info.context_tokens as u64,
            pinned: status.pinned,
            weight_bytes: status.weight_bytes as u64,
            kv_bytes: status.kv_bytes as u64,
            kv_pages: status.kv_pages as u64,
            kv_pages_used: status.kv_pages_used as u64,
            requests: status.requests as u64,
            last_used: since_1970.map_or(0, |since| since.as_secs()),
        }),
    }
}
