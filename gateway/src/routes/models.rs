//! `GET /v1/models` and `GET /v1/models/{model}`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use engine::model::ModelInfo;
use openapi::object::{ListObject, ModelObject};
use openapi::{Model, ModelList};

use super::body::json_reply;
use crate::error::{ApiError, ApiResult};
use crate::wiring::SharedApp;

const OWNER: &str = "janus";

pub async fn list(State(app): State<SharedApp>) -> Response {
    let data = app.engine.models().iter().map(describe).collect();
    json_reply(&ModelList { object: ListObject::Value, data })
}

pub async fn retrieve(
    State(app): State<SharedApp>,
    path: Result<Path<String>, PathRejection>,
) -> ApiResult<Response> {
    // Rejected when its percent-encoding is not UTF-8, which no model's name is.
    let Ok(Path(name)) = path else { return Err(ApiError::unknown_model("?")) };
    let model = app.engine.model(&name).map_err(|error| ApiError::from_engine(error, "model"))?;
    Ok(json_reply(&describe(&model)))
}

fn describe(model: &ModelInfo) -> Model {
    Model {
        id: model.name.clone(),
        object: ModelObject::Value,
        created: model.created,
        owned_by: OWNER.into(),
        max_model_len: model.context_tokens as u64,
    }
}
