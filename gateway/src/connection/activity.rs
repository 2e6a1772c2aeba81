//! Whether a connection has requests in work, and since when it has none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Activity {
    in_work: AtomicUsize,
    begun: AtomicU64,
    changed: Notify,
}

/// One request in work; dropped with its response's body.
#[derive(Debug)]
pub struct Active(Arc<Activity>);

impl Activity {
    pub fn new() -> Arc<Activity> {
        Arc::default()
    }

    pub fn begin(self: &Arc<Self>) -> Active {
        self.in_work.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        Active(Arc::clone(self))
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
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.in_work.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}
