//! `GET /healthz` and `GET /readyz`.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::body::json_reply;
use crate::error::{ApiError, ApiResult};
use crate::wiring::SharedFront;

/// The process runs, whether its models are loaded or not.
pub async fn alive() -> Response {
    json_reply(&json!({ "status": "alive" }))
}

/// New requests are taken: models are loaded, and the server is not about to end.
pub async fn ready(State(front): State<SharedFront>) -> ApiResult<Response> {
    if front.admission.is_draining() {
        return Err(ApiError::draining());
    }
    front.app()?;
    Ok(json_reply(&json!({ "status": "ready" })))
}
