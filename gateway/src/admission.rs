//! How many requests are in work. A permit moves into its response's body, so that a stream counts until
//! its last byte is sent or its client is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// The gate of all requests that cost something.
#[derive(Debug)]
pub struct Admission {
    places: Arc<Semaphore>,
    places_max: usize,
    draining: AtomicBool,
}

/// One request's place; dropping it frees the place.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
}

impl Admission {
    pub fn new(places_max: usize) -> Admission {
        let places_max = places_max.min(Semaphore::MAX_PERMITS);
        Admission {
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            draining: AtomicBool::new(false),
        }
    }

    /// A place, at once or not at all.
    ///
    /// # Errors
    /// 503 while draining or when all places are taken.
    pub fn admit(&self) -> Result<Permit, ApiError> {
        if self.is_draining() {
            return Err(ApiError::draining());
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| ApiError::overloaded())?;
        Ok(Permit { _place: place })
    }

    /// Refuses everything from now on; those in work go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub fn in_flight(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    /// Returns once nothing is in work. Call after [`drain`](Self::drain).
    pub async fn idle(&self) {
        let all = u32::try_from(self.places_max).unwrap_or(u32::MAX);
        // An error would mean a closed semaphore, and nobody closes it.
        let _ = self.places.acquire_many(all).await;
    }
}

/// A body that holds something for as long as it lives.
#[derive(Debug)]
pub struct Holding<B, T> {
    body: B,
    _held: T,
}

impl<B, T> Holding<B, T> {
    pub fn new(body: B, held: T) -> Self {
        Holding { body, _held: held }
    }
}

impl<B: Body<Data = Bytes> + Unpin, T: Unpin> Body for Holding<B, T> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
