//! Bodies in and out: JSON read within size and time, JSON written, and work that is too long for the
//! threads that serve sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use engine::tokenizer::Tokenizer;
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::error::{ApiError, ApiResult};
use crate::wiring::App;

/// Work on fewer bytes than this (parsing, tokenising, making ready) is done in a few milliseconds at most.
const INLINE_BYTES_MAX: usize = 8 << 10;
/// For a client to finish sending what is not wanted, so that it reads the refusal.
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);

/// The request's body as `T`, and its length in bytes.
///
/// # Errors
/// 415, 413, 408 or 400, by what is wrong.
pub async fn read_json<T>(app: &App, request: Request) -> ApiResult<(T, usize)>
where
    T: DeserializeOwned + Send + 'static,
{
    check_content_type(&request)?;
    let limit = app.server.body_bytes_max;
    let deadline = Duration::from_millis(app.server.body_deadline_ms);
    let body = tokio::time::timeout(deadline, collect(request, limit));
    let bytes = body.await.map_err(|_| ApiError::body_too_slow())??;
    let length = bytes.len();
    let value = run_sized(&app.workers, length, move || openapi::parse::<T>(&bytes)).await?;
    Ok((value?, length))
}

/// A browser sends other types without asking the server first: requiring JSON keeps web pages from
/// using a server on loopback behind its user's back.
fn check_content_type(request: &Request) -> ApiResult<()> {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json =
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json { Ok(()) } else { Err(ApiError::not_json(value)) }
}

async fn collect(request: Request, limit: usize) -> ApiResult<Bytes> {
    let expected =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = request.into_body();
    let mut bytes = BytesMut::with_capacity(expected.unwrap_or(0).min(64 << 10));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("The body ended before it was complete"))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            discard(body, limit).await;
            return Err(ApiError::body_too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads on for a short while and at most `bytes_max`: a client that is still sending would see its
/// connection reset instead of the answer.
pub async fn discard(mut body: Body, bytes_max: usize) {
    let reading = async {
        let mut left = bytes_max;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Either way the answer follows.
    let _ = tokio::time::timeout(DISCARD_DEADLINE, reading).await;
}

/// Runs `work` here if it is short by its input's size, else on a thread that may take its time, once
/// there is a place among `workers`. The place is free when the work is done, not when the caller loses
/// interest: clients that come and go cannot pile up work.
///
/// # Errors
/// 500 if it panicked there.
pub async fn run_sized<T: Send + 'static>(
    workers: &Arc<Semaphore>,
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> ApiResult<T> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    let place = Arc::clone(workers).acquire_owned().await.expect("nobody closes this semaphore");
    let work = move || {
        let _place = place;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal())
}

/// Refuses text that cannot fit a context, before the work of tokenising it.
///
/// # Errors
/// 400 `context_length_exceeded`.
pub fn check_size(
    tokenizer: &Tokenizer,
    text_bytes: usize,
    context_tokens: usize,
    param: &'static str,
) -> ApiResult<()> {
    match tokenizer.tokens_min(text_bytes) {
        least if least > context_tokens => Err(ApiError::text_too_long(least, context_tokens, param)),
        _ => Ok(()),
    }
}

/// A 200 with `value` as its body.
pub fn json_reply(value: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(value).expect("wire types always serialise");
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: usize = INLINE_BYTES_MAX + 1;

    #[tokio::test]
    async fn work_keeps_its_place_when_its_client_leaves() {
        let workers = Arc::new(Semaphore::new(1));
        let (let_go, wait) = mpsc::channel::<()>();
        let (report, began) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let workers = Arc::clone(&workers);
            async move {
                let work = move || {
                    report.send(()).expect("the test listens");
                    wait.recv().expect("the test lets go");
                };
                run_sized(&workers, LONG, work).await
            }
        });
        began.await.expect("the work begins");
        first.abort();
        assert!(first.await.expect_err("it was aborted").is_cancelled());
        assert_eq!(workers.available_permits(), 0, "its work still runs");

        assert_eq!(
            run_sized(&workers, INLINE_BYTES_MAX, || 1).await.unwrap(),
            1,
            "short work needs no place"
        );
        let mut second = Box::pin(run_sized(&workers, LONG, || 2));
        tokio::select! {
            biased;
            _ = &mut second => panic!("there was no place"),
            () = std::future::ready(()) => {}
        }
        let_go.send(()).expect("the work waits");
        assert_eq!(second.await.unwrap(), 2);
        assert_eq!(workers.available_permits(), 1);
    }
}
