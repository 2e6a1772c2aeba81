//! One connection from its first byte to its last: which HTTP it speaks, its deadlines, its end.
//!
//! hyper-util's automatic choice between HTTP/1 and 2 waits for the first bytes without a deadline, so
//! the choice is made here ([`opening`]). [`guarded`] ends connections whose client sends headers or
//! takes responses too slowly; [`activity`] finds those that are idle, and replies whose HTTP/2 client
//! keeps a stream's window shut; [`delivery`] is a reply's body on its way out.

mod activity;
mod delivery;
mod guarded;
mod opening;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::config::Server;
use activity::Activity;
pub use activity::UntilSent;
use delivery::Delivery;
use guarded::Guarded;
use opening::Protocol;

/// How long a connection that was told to end may go on without a request in work.
const CLOSING_DEADLINE: Duration = Duration::from_secs(2);
/// Streams a client may reset before the server took them up, and streams reset because of the client's
/// faults: both bound "rapid reset" attacks.
const H2_PENDING_RESETS_MAX: usize = 20;
const H2_ERROR_RESETS_MAX: usize = 128;
/// Bytes buffered for one HTTP/2 stream whose client does not read.
const H2_SEND_BUFFER_BYTES: usize = 16 << 10;

/// What connections must keep to.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    header_deadline: Duration,
    idle_deadline: Duration,
    write_deadline: Duration,
    request_deadline: Duration,
    header_bytes_max: usize,
    h2_streams_max: u32,
}

impl ConnectionLimits {
    pub fn new(server: &Server) -> ConnectionLimits {
        ConnectionLimits {
            header_deadline: Duration::from_millis(server.header_deadline_ms),
            idle_deadline: Duration::from_millis(server.idle_deadline_ms),
            write_deadline: Duration::from_millis(server.write_deadline_ms),
            request_deadline: Duration::from_millis(server.request_deadline_ms),
            header_bytes_max: server.header_bytes_max,
            h2_streams_max: server.h2_streams_max,
        }
    }
}

/// Serves until the client leaves, a deadline passes, or `close` turns true and what is in work is done.
pub async fn serve(
    mut stream: TcpStream,
    app: Router,
    limits: ConnectionLimits,
    close: watch::Receiver<bool>,
) {
    // Without it, Nagle's algorithm holds back each small event of a stream.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let opened = tokio::select! {
        opened = tokio::time::timeout(limits.header_deadline, opening::read(&mut stream)) => opened,
        () = closed(close.clone()) => return,
    };
    let (protocol, first_bytes) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return tracing::debug!(%error, "connection ended before its first request"),
        Err(_) => return tracing::debug!("connection sent no request in time"),
    };
    let activity = Activity::new(protocol == Protocol::Http1, limits.request_deadline);
    let header_deadline = (protocol == Protocol::Http1).then_some(limits.header_deadline);
    let io = Guarded::new(stream, first_bytes, Arc::clone(&activity), header_deadline, limits.write_deadline);
    let result = match protocol {
        Protocol::Http1 => serve_http1(io, app, activity, limits, close).await,
        Protocol::Http2 => serve_http2(io, app, activity, limits, close).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended early");
    }
}

async fn closed(mut close: watch::Receiver<bool>) {
    // An error means that the server is gone, which is a reason to close too.
    let _ = close.wait_for(|close| *close).await;
}

/// Drives one connection: ends it gracefully once it was idle too long or the server closes, and for
/// good when it does not end then, or when `stalled` resolves. The two HTTP versions share no
/// trait, hence a macro.
macro_rules! drive {
    ($connection:expr, $stalled:expr, $activity:expr, $limits:expr, $close:expr) => {{
        let mut connection = pin!($connection);
        let mut stalled = pin!($stalled);
        let ended = tokio::select! {
            result = connection.as_mut() => Some(result),
            () = stalled.as_mut() => Some(Ok(())),
            () = $activity.idle_for($limits.idle_deadline) => None,
            () = closed($close) => None,
        };
        match ended {
            Some(result) => result,
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection.as_mut() => result,
                    () = stalled.as_mut() => Ok(()),
                    () = $activity.idle_for(CLOSING_DEADLINE) => Ok(()),
                }
            }
        }
    }};
}

async fn serve_http1(
    io: Guarded,
    app: Router,
    activity: Arc<Activity>,
    limits: ConnectionLimits,
    close: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let in_work = Arc::clone(&activity);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper starts this clock when it begins to wait for a request, so it is the idle deadline;
        // the deadline for headers once begun is the guarded stream's.
        .header_read_timeout(limits.idle_deadline)
        .max_buf_size(limits.header_bytes_max)
        .serve_connection(
            TokioIo::new(io),
            service_fn(move |request| respond(app.clone(), &in_work, request)),
        );
    // A client that does not read fills the socket, which the guarded stream notices; one that reads slowly has
    // until its request's deadline.
    let overdue = async {
        activity.overdue().await;
        tracing::debug!("the client did not take its response by the request's deadline");
    };
    drive!(connection, overdue, activity, limits, close)
}

async fn serve_http2(
    io: Guarded,
    app: Router,
    activity: Arc<Activity>,
    limits: ConnectionLimits,
    close: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let in_work = Arc::clone(&activity);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams_max)
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(H2_ERROR_RESETS_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        // A peer that vanished without a word is found out by an unanswered ping.
        .keep_alive_interval(limits.idle_deadline)
        .keep_alive_timeout(limits.write_deadline)
        .serve_connection(
            TokioIo::new(io),
            service_fn(move |request| respond(app.clone(), &in_work, request)),
        );
    // A stream whose window stays shut waits inside hyper, while the socket stays writable.
    let stalled = async {
        activity.end_stalled(limits.write_deadline).await;
        tracing::debug!("the client makes no room for any of its responses");
    };
    drive!(connection, stalled, activity, limits, close)
}

/// The application's answer; it counts as activity until it is sent.
fn respond(
    app: Router,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
    let mut active = activity.begin();
    async move {
        let mut response = app.oneshot(request.map(Body::new)).await?;
        if let Some(held) = response.extensions_mut().remove() {
            active.hold(held);
        }
        Ok(response.map(|body| Body::new(Delivery::new(body, active))))
    }
}
