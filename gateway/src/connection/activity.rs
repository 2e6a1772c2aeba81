//! Whether a connection has requests in work, since when it has none, and which responses wait for
//! their client.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug, Default)]
pub struct Activity {
    in_work: AtomicUsize,
    begun: AtomicU64,
    changed: Notify,
    /// By request that waits for its client: since when.
    unread: Mutex<HashMap<u64, Instant>>,
}

/// One request in work; dropped with its response's body.
#[derive(Debug)]
pub struct Active {
    activity: Arc<Activity>,
    request: u64,
}

/// A response's body that notes whose turn it is: ours while it is pending, the client's from each
/// frame until the next is asked for.
#[derive(Debug)]
pub struct Delivery<B> {
    body: B,
    active: Active,
}

impl Activity {
    pub fn new() -> Arc<Activity> {
        Arc::default()
    }

    pub fn begin(self: &Arc<Self>) -> Active {
        self.in_work.fetch_add(1, Ordering::AcqRel);
        let request = self.begun.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        Active { activity: Arc::clone(self), request }
    }

    pub fn is_idle(&self) -> bool {
        self.in_work.load(Ordering::Acquire) == 0
    }

    /// Requests begun since the connection opened.
    pub fn requests_begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns once no request was begun, in work or ended for `duration`.
    pub async fn idle_for(&self, duration: Duration) {
        loop {
            let changed = self.changed.notified();
            if !self.is_idle() {
                changed.await;
            } else if tokio::time::timeout(duration, changed).await.is_err() {
                return;
            }
        }
    }

    /// Returns once the client has made no room for some response's next frame for `duration`.
    pub async fn stalled_for(&self, duration: Duration) {
        loop {
            // With none out now, one that comes meanwhile is not overdue before the next look.
            let since = self.longest_unread().unwrap_or_else(Instant::now);
            if since.elapsed() >= duration {
                return;
            }
            tokio::time::sleep_until(since + duration).await;
        }
    }

    fn longest_unread(&self) -> Option<Instant> {
        self.unread().values().min().copied()
    }

    fn unread(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        // No update of the map is left half done, so a panic elsewhere cannot have spoilt it.
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    /// It is the client's turn from now on.
    fn wait_for_client(&self) {
        self.activity.unread().insert(self.request, Instant::now());
    }

    fn stop_waiting(&self) {
        self.activity.unread().remove(&self.request);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.stop_waiting();
        self.activity.in_work.fetch_sub(1, Ordering::AcqRel);
        self.activity.changed.notify_one();
    }
}

impl<B> Delivery<B> {
    pub fn new(body: B, active: Active) -> Self {
        active.wait_for_client();
        Delivery { body, active }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Delivery<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(_) => self.active.wait_for_client(),
            Poll::Pending => self.active.stop_waiting(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(100);

    /// What becomes of a request; `None` if it is gone.
    type Happens = fn(Active) -> Option<Active>;

    #[tokio::test]
    async fn only_a_response_that_waits_for_its_client_stalls() {
        let rows: [(&str, Happens, bool); 4] = [
            ("in work", Some, false),
            (
                "a frame is out",
                |active| {
                    active.wait_for_client();
                    Some(active)
                },
                true,
            ),
            (
                "pending",
                |active| {
                    active.wait_for_client();
                    active.stop_waiting();
                    Some(active)
                },
                false,
            ),
            (
                "gone",
                |active| {
                    active.wait_for_client();
                    None
                },
                false,
            ),
        ];
        for (what, happens, stalls) in rows {
            let activity = Activity::new();
            let _kept = happens(activity.begin());
            let stalled = tokio::time::timeout(4 * DEADLINE, activity.stalled_for(DEADLINE)).await.is_ok();
            assert_eq!(stalled, stalls, "{what}");
        }
    }
}
