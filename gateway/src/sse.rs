//! A response body of server-sent events, made as the client takes them: it owns the sequences, so
//! dropping it cancels them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use engine::Event;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http_body::Frame;
use openapi::Usage;
use serde::Serialize;
use tokio::time::Sleep;

use crate::error::ApiError;
use crate::routes::generation::{Choices, UsageSum, finish_reason};

/// Events that are ready together leave in one frame of about this size.
const FRAME_BYTES: usize = 16 << 10;
/// A comment; clients skip it, and nobody between gives up on a silent connection.
const PING: &[u8] = b": ping\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// How an endpoint words its chunks.
pub trait Format: Send + Unpin + 'static {
    /// The chunks of one event of a choice; never [`Event::Failed`] or a cancelled end.
    fn write(&mut self, choice: usize, event: Event, events: &mut Events);
    /// The chunk that holds the token counts.
    fn write_usage(&mut self, usage: Usage, events: &mut Events);
}

/// Events on their way out.
#[derive(Default)]
pub struct Events(BytesMut);

impl Events {
    /// Adds one event with `chunk` as its data.
    pub fn push(&mut self, chunk: &impl Serialize) {
        self.0.extend_from_slice(b"data: ");
        serde_json::to_writer((&mut self.0).writer(), chunk).expect("wire types always serialise");
        self.0.extend_from_slice(b"\n\n");
    }

    fn push_error(&mut self, error: &ApiError) {
        self.0.extend_from_slice(b"data: ");
        self.0.extend_from_slice(&error.to_json());
        self.0.extend_from_slice(b"\n\n");
    }

    fn push_raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// What a stream is made of.
pub struct Stream<F> {
    pub choices: Choices,
    pub choices_per_prompt: usize,
    pub format: F,
    pub include_usage: bool,
    pub keep_alive: Duration,
}

impl<F: Format> Stream<F> {
    /// The response: headers at once, events as they come.
    pub fn into_response(self) -> Response {
        let deadline = self.choices.timing().deadline;
        let body = StreamBody {
            usage: self.include_usage.then(|| UsageSum::new(self.choices_per_prompt)),
            choices: Some(self.choices),
            format: self.format,
            deadline: Box::pin(tokio::time::sleep_until(deadline.into())),
            silence: Box::pin(tokio::time::sleep(self.keep_alive)),
            keep_alive: self.keep_alive,
        };
        let mut response = Response::new(Body::new(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Asks nginx not to hold events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}

struct StreamBody<F> {
    /// `None` once the stream has ended.
    choices: Option<Choices>,
    format: F,
    /// Present if the client asked for it.
    usage: Option<UsageSum>,
    deadline: Pin<Box<Sleep>>,
    silence: Pin<Box<Sleep>>,
    keep_alive: Duration,
}

impl<F: Format> StreamBody<F> {
    /// Moves what is ready into `events`.
    fn fill(&mut self, context: &mut Context<'_>, events: &mut Events) {
        while events.0.len() < FRAME_BYTES {
            let Some(choices) = &mut self.choices else { return };
            match choices.poll_next(context) {
                Poll::Ready(Some((choice, event))) => self.write(choice, event, events),
                Poll::Ready(None) => self.end(events),
                Poll::Pending => return,
            }
        }
    }

    fn write(&mut self, choice: usize, event: Event, events: &mut Events) {
        match &event {
            Event::Failed(reason) => return self.fail(&ApiError::failed(reason), events),
            Event::Finished(finished) => {
                if let Err(error) = finish_reason(finished.reason) {
                    return self.fail(&error, events);
                }
                if let Some(usage) = &mut self.usage {
                    usage.add(choice, finished);
                }
            }
            Event::Token(_) | Event::PromptLogprobs(_) => {}
        }
        self.format.write(choice, event, events);
    }

    fn end(&mut self, events: &mut Events) {
        if let Some(usage) = self.usage {
            self.format.write_usage(usage.usage(), events);
        }
        events.push_raw(DONE);
        self.choices = None;
    }

    /// The status has been sent: an event is the only way left to say so.
    fn fail(&mut self, error: &ApiError, events: &mut Events) {
        events.push_error(error);
        events.push_raw(DONE);
        self.choices = None;
    }

    fn restart_silence(&mut self) {
        self.silence.as_mut().reset(tokio::time::Instant::now() + self.keep_alive);
    }
}

impl<F: Format> http_body::Body for StreamBody<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.choices.is_none() {
            return Poll::Ready(None);
        }
        let mut events = Events::default();
        if this.deadline.as_mut().poll(context).is_ready() {
            this.fail(&ApiError::deadline(), &mut events);
        }
        this.fill(context, &mut events);
        if events.0.is_empty() && this.silence.as_mut().poll(context).is_ready() {
            events.push_raw(PING);
        }
        if events.0.is_empty() {
            return Poll::Pending;
        }
        this.restart_silence();
        Poll::Ready(Some(Ok(Frame::data(events.0.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.choices.is_none()
    }
}
