//! `GET /metrics`.

use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;

use crate::wiring::SharedApp;

pub async fn text(State(app): State<SharedApp>) -> impl IntoResponse {
    let text = app.metrics.render(app.admission.in_flight(), &app.engine.stats());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
