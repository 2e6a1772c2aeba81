//! A response's body on its way out: in frames of bounded size, so that it lives as long as its transfer, and
//! one that can be ended from outside while its client does not read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::activity::Active;

/// The protocols take a frame when they have room for its first byte.
const FRAME_BYTES: usize = 16 << 10;

/// The reply was ended because its client did not read it.
#[derive(Debug, thiserror::Error)]
#[error("the client did not read its response in time")]
pub struct Ended;

/// What is left of a reply; none once it ended.
#[derive(Debug)]
pub struct Reply(Mutex<Option<Content>>);

#[derive(Debug)]
pub struct Content {
    body: Body,
    /// Of a frame that was too large.
    rest: Bytes,
    active: Active,
}

/// The body that the protocol reads. It notes whose turn it is: ours while it is pending, the client's from
/// each frame until the next is asked for.
#[derive(Debug)]
pub struct Delivery(Arc<Reply>);

impl Content {
    pub fn new(body: Body, active: Active) -> Content {
        Content { body, rest: Bytes::new(), active }
    }

    fn is_complete(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.rest.len().min(FRAME_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl Reply {
    pub fn new(content: Content) -> Arc<Reply> {
        Arc::new_cyclic(|reply| {
            content.active.answered_by(reply.clone());
            Reply(Mutex::new(Some(content)))
        })
    }

    /// Drops what is left of it, and with it what makes it.
    pub fn end(&self) {
        let content = self.content().take();
        drop(content);
    }

    #[cfg(test)]
    pub fn is_ended(&self) -> bool {
        self.content().is_none()
    }

    fn content(&self) -> MutexGuard<'_, Option<Content>> {
        // It is whole or gone, whatever panics elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    pub fn new(body: Body, active: Active) -> Delivery {
        Delivery(Reply::new(Content::new(body, active)))
    }
}

impl http_body::Body for Delivery {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut content = self.0.content();
        let Some(left) = content.as_mut() else {
            return Poll::Ready(Some(Err(axum::Error::new(Ended))));
        };
        let polled = left.poll_frame(context);
        match &polled {
            Poll::Ready(_) => left.active.wait_for_client(),
            Poll::Pending => left.active.stop_waiting(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.content().as_ref().is_some_and(Content::is_complete)
    }

    fn size_hint(&self) -> SizeHint {
        let content = self.0.content();
        let Some(left) = content.as_ref() else { return SizeHint::default() };
        let (rest, of_body) = (left.rest.len() as u64, left.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let content = self.0.content().take();
        if let Some(content) = content
            && content.is_complete()
        {
            let Content { body, active, .. } = content;
            drop(body);
            active.complete();
        }
    }
}
