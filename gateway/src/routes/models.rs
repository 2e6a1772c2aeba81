//! `GET /v1/models` and `GET /v1/models/{model}`, and the way from a request's model to a loaded one.

use std::time::Duration;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use engine::ModelLease;
use engine::model::ModelInfo;
use openapi::object::{ListObject, ModelObject};
use openapi::{Model, ModelList};

use super::body::json_reply;
use crate::error::{ApiError, ApiResult};
use crate::loader::ShelfModel;
use crate::wiring::{App, Loaded};

const OWNER: &str = "janus";
/// A model loaded for a request may have to make room for another before the request gets to it.
const ATTEMPTS: usize = 3;

/// The loaded model called `name`. With `models.on_demand` one that can be loaded is, and the request
/// waits for it.
///
/// # Errors
/// 404, or 503 for a model that is being unloaded, cannot be loaded or is not in time.
pub async fn lease(app: &App, name: &str) -> ApiResult<ModelLease> {
    let refused = match app.engine.model(name) {
        Ok(model) => return Ok(model),
        Err(error) => ApiError::from_engine(error, "model"),
    };
    if !app.models.on_demand || app.loader.shelf().find(name).is_err() {
        return Err(refused);
    }
    let wait = Duration::from_millis(app.models.on_demand_wait_ms);
    match tokio::time::timeout(wait, load(app, name)).await {
        Ok(loaded) => loaded,
        Err(_) => {
            let message = format!("The model `{name}` is being loaded; send the request again");
            Err(ApiError::unavailable(message, "model_loading"))
        }
    }
}

async fn load(app: &App, name: &str) -> ApiResult<ModelLease> {
    for _ in 0..ATTEMPTS {
        // Why it failed is the operator's business, and in the log.
        app.loader.load_on_demand(name).await.map_err(|_| not_loaded(name))?;
        if let Ok(model) = app.engine.model(name) {
            return Ok(model);
        }
    }
    Err(not_loaded(name))
}

fn not_loaded(name: &str) -> ApiError {
    let message = format!("The model `{name}` cannot be loaded now; the server's log tells why");
    ApiError::unavailable(message, "model_not_loaded")
}

pub async fn list(Loaded(app): Loaded) -> Response {
    let loaded = app.engine.models();
    let mut data: Vec<Model> = loaded.iter().map(describe).collect();
    if app.models.on_demand {
        let others = app.loader.shelf().list().into_iter();
        let others = others.filter(|other| loaded.iter().all(|model| model.name != other.name));
        data.extend(others.map(describe_unloaded));
    }
    json_reply(&ModelList { object: ListObject::Value, data })
}

pub async fn retrieve(Loaded(app): Loaded, path: Result<Path<String>, PathRejection>) -> ApiResult<Response> {
    // Rejected when its percent-encoding is not UTF-8, which no model's name is.
    let Ok(Path(name)) = path else { return Err(ApiError::unknown_model("?")) };
    let refused = match app.engine.model(&name) {
        Ok(model) => return Ok(json_reply(&describe(&model))),
        Err(error) => ApiError::from_engine(error, "model"),
    };
    match app.loader.shelf().find(&name) {
        Ok(model) if app.models.on_demand => Ok(json_reply(&describe_unloaded(model))),
        _ => Err(refused),
    }
}

fn describe(model: &ModelInfo) -> Model {
    Model {
        id: model.name.clone(),
        object: ModelObject::Value,
        created: model.created,
        owned_by: OWNER.into(),
        max_model_len: Some(model.context_tokens as u64),
    }
}

fn describe_unloaded(model: ShelfModel) -> Model {
    Model {
        id: model.name,
        object: ModelObject::Value,
        created: model.created,
        owned_by: OWNER.into(),
        max_model_len: model.context_tokens,
    }
}
