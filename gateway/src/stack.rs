//! The tower stack: what every request passes on its way to a route, outermost first.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use engine::Caller;
use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use crate::caller;
use crate::connection::UntilSent;
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::routes;
use crate::wiring::{Front, SharedFront};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
/// Longest request id taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Routes that answer without a key: probes of whoever runs the process.
const OPEN_PATHS: &[&str] = &["/healthz", "/readyz"];

/// When a request arrived, and until when it must be answered.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub arrived: Instant,
    pub deadline: Instant,
}

/// All routes behind all layers.
pub fn router(front: &SharedFront) -> Router {
    let state = || Arc::clone(front);
    let priced = ServiceBuilder::new()
        // 503 while draining or overloaded; the permit then goes with the response.
        .layer(from_fn_with_state(state(), admit))
        // 413 by the declared length, before a byte is read; routes count what really comes.
        .layer(from_fn_with_state(state(), limit_body))
        // 504 if the response has not begun in time; streams keep to the same deadline themselves.
        .layer(from_fn(meet_deadline));
    let all = ServiceBuilder::new()
        // The clock of everything below.
        .layer(from_fn_with_state(state(), set_timing))
        // Takes over or makes `x-request-id`; names the request in all its log lines.
        .layer(from_fn(identify))
        // One log line and one count a request, when its reply is sent; `openai-processing-ms`.
        .layer(from_fn_with_state(state(), observe))
        // A panic in a handler becomes a 500 and ends nothing else.
        .layer(CatchPanicLayer::custom(panicked))
        // 401 without one of the configured keys, 403 without the right to what is asked.
        .layer(from_fn_with_state(state(), authenticate))
        // 403 for a name that is not this machine's own, where there are no keys.
        .layer(from_fn_with_state(state(), check_host));
    let fallbacks = |router: Router<SharedFront>| router.method_not_allowed_fallback(wrong_method);
    let administered = ServiceBuilder::new()
        // As above; what manages the server is not kept out by its load.
        .layer(from_fn_with_state(state(), limit_body))
        .layer(from_fn(meet_deadline));
    fallbacks(routes::router(routes::Class::Priced))
        .layer(priced)
        .merge(fallbacks(routes::router(routes::Class::Admin)).layer(administered))
        .merge(fallbacks(routes::router(routes::Class::Free)))
        .fallback(unknown_url)
        .layer(all)
        .with_state(state())
}

async fn set_timing(State(front): State<SharedFront>, mut request: Request, next: Next) -> Response {
    let arrived = Instant::now();
    let deadline = arrived + Duration::from_millis(front.server.request_deadline_ms);
    request.extensions_mut().insert(Timing { arrived, deadline });
    next.run(request).await
}

async fn identify(request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).filter(|id| is_sane(id)).cloned();
    let id = id.unwrap_or_else(|| {
        HeaderValue::try_from(ids::unique("req_")).expect("hexadecimal digits are a header's value")
    });
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// What stands in logs and headers without harm.
fn is_sane(id: &HeaderValue) -> bool {
    let bytes = id.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX && bytes.iter().all(allowed)
}

async fn observe(
    State(front): State<SharedFront>,
    Extension(Timing { arrived, .. }): Extension<Timing>,
    request: Request,
    next: Next,
) -> Response {
    let mut observed = Observed {
        front,
        method: request.method().clone(),
        route: request.extensions().get::<MatchedPath>().cloned(),
        span: tracing::Span::current(),
        status: None,
        arrived,
    };
    let mut response = next.run(request).await;
    observed.status = Some(response.status().as_u16());
    let processing_ms = HeaderValue::from(arrived.elapsed().as_millis() as u64);
    response.headers_mut().insert(PROCESSING_MS, processing_ms);
    UntilSent::hold(response.extensions_mut(), observed);
    response
}

/// Reports a request when it is dropped: when its response is sent, or when its client left.
struct Observed {
    front: SharedFront,
    method: http::Method,
    route: Option<MatchedPath>,
    span: tracing::Span,
    /// `None` until the response began.
    status: Option<u16>,
    arrived: Instant,
}

/// Counted when the client left before there was a status; nginx's number for it.
const CLIENT_CLOSED: u16 = 499;

impl Drop for Observed {
    fn drop(&mut self) {
        let duration = self.arrived.elapsed();
        let status = self.status.unwrap_or(CLIENT_CLOSED);
        let route = self.route.as_ref().map(MatchedPath::as_str);
        self.front.metrics.record_request(route, status, duration);
        let _entered = self.span.enter();
        let duration_ms = duration.as_millis() as u64;
        tracing::info!(method = %self.method, route = route.unwrap_or("other"), status, duration_ms, "answered");
    }
}

fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    // The panic's own text went to the log through the panic hook.
    tracing::error!("a handler panicked");
    ApiError::internal().into_response()
}

async fn authenticate(State(front): State<SharedFront>, mut request: Request, next: Next) -> Response {
    let allowed = match request.uri().path() {
        path if OPEN_PATHS.contains(&path) => Ok(Caller::default()),
        path if path.starts_with(routes::ADMIN_PREFIX) => check_admin(&front, bearer(request.headers())),
        _ => check_key(&front, bearer(request.headers())),
    };
    match allowed.and_then(|caller| caller::lowered(caller, request.headers())) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

fn check_key(front: &Front, key: Option<&str>) -> ApiResult<Caller> {
    if !front.keys.is_required() {
        return Ok(Caller::default());
    }
    match key {
        None => {
            let message = "You did not provide an API key: send it as `Authorization: Bearer KEY`";
            Err(ApiError::unauthorized(message))
        }
        Some(key) => {
            // Both are looked through, whoever it is.
            let (caller, admin) = (front.keys.caller(key), front.admin_keys.caller(key));
            caller.or(admin).ok_or_else(|| ApiError::unauthorized("Incorrect API key provided"))
        }
    }
}

/// Admin keys where there are any; else only a server that is open to everybody on its machine, and to nobody
/// else.
fn check_admin(front: &Front, key: Option<&str>) -> ApiResult<Caller> {
    if front.admin_keys.is_required() {
        return match key {
            Some(key) if front.admin_keys.contains(key) => {
                Ok(front.admin_keys.caller(key).unwrap_or_default())
            }
            Some(key) if front.keys.contains(key) => {
                Err(ApiError::forbidden("This API key may not manage models; use one of auth.admin_keys"))
            }
            Some(_) => Err(ApiError::unauthorized("Incorrect API key provided")),
            None => Err(ApiError::unauthorized(
                "You did not provide an admin key: send it as `Authorization: Bearer KEY`",
            )),
        };
    }
    let caller = check_key(front, key)?;
    if front.keys.is_required() {
        return Err(ApiError::forbidden(
            "This server has no admin keys; set auth.admin_keys to manage models",
        ));
    }
    // Someone else's name for this server means that others can reach it.
    if !front.server.allowed_hosts.is_empty() {
        let message = "This server is behind a proxy (server.allowed_hosts) and has no admin keys; set \
                       auth.admin_keys to manage models";
        return Err(ApiError::forbidden(message));
    }
    Ok(caller)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

async fn check_host(State(front): State<SharedFront>, request: Request, next: Next) -> Response {
    match front.hosts.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn admit(State(front): State<SharedFront>, request: Request, next: Next) -> Response {
    match front.admission.admit(&caller::of(&request).principal) {
        Ok(permit) => {
            let mut response = next.run(request).await;
            UntilSent::hold(response.extensions_mut(), permit);
            response
        }
        Err(error) => error.into_response(),
    }
}

async fn limit_body(State(front): State<SharedFront>, request: Request, next: Next) -> Response {
    let limit = front.server.body_bytes_max;
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > limit as u64) {
        routes::body::discard(request.into_body(), limit).await;
        return ApiError::body_too_large(limit).into_response();
    }
    next.run(request).await
}

async fn meet_deadline(
    Extension(Timing { deadline, .. }): Extension<Timing>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout_at(deadline.into(), next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::deadline().into_response(),
    }
}

async fn unknown_url(request: Request) -> ApiError {
    ApiError::unknown_url(request.method().as_str(), request.uri().path())
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::wrong_method(request.method().as_str(), request.uri().path())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_500_in_the_error_shape() {
        async fn panics() {
            panic!("on purpose");
        }
        let app: Router = Router::new().route("/", get(panics)).layer(CatchPanicLayer::custom(panicked));
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let error: openapi::ErrorReply = serde_json::from_slice(&body).unwrap();
        assert_eq!(error.error.kind, "server_error");
    }

    #[test]
    fn request_ids_of_clients_are_kept_if_they_are_harmless() {
        for (id, sane) in [("a-Z_0.:/+=", true), ("", false), ("a b", false), ("a\"b", false), ("a{b", false)]
        {
            assert_eq!(is_sane(&HeaderValue::from_str(id).unwrap()), sane, "{id}");
        }
    }
}
