//! `GET /metrics`.

use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;

use crate::wiring::SharedFront;

/// Before the models are loaded the engine's numbers are zeros.
pub async fn text(State(front): State<SharedFront>) -> impl IntoResponse {
    let engine = front.app().map(|app| app.engine.stats()).unwrap_or_default();
    let text = front.metrics.render(front.admission.in_flight(), &engine);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
