//! `GET /healthz` and `GET /readyz`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::body::json_reply;
use crate::error::ApiError;
use crate::wiring::SharedApp;

/// The process runs. Models are loaded before the server listens.
pub async fn alive() -> Response {
    json_reply(&json!({ "status": "alive" }))
}

/// New requests are taken.
pub async fn ready(State(app): State<SharedApp>) -> Response {
    if app.admission.is_draining() {
        return ApiError::draining().into_response();
    }
    json_reply(&json!({ "status": "ready" }))
}
