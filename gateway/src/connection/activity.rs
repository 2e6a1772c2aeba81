//! The requests of one connection: which are in work, and which wait for their client.
//!
//! A request is in work until the last byte of its reply is out of our hands, not just out of its body: with
//! HTTP/1 until hyper's buffer is flushed, with HTTP/2 but for a last frame that waits for the client's window.

use std::any::Any;
use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::delivery::Reply;

/// For a reply that ends with its deadline to reach the client: a stream's last event says so.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Activity {
    /// A request's last frame is followed by a flush that tells when it is out.
    flushes: bool,
    request_deadline: Duration,
    begun: AtomicU64,
    changed: Notify,
    requests: Mutex<HashMap<u64, InWork>>,
}

/// What is known of one request.
#[derive(Debug)]
struct InWork {
    begun: Instant,
    /// Since when the reply waits for its client.
    unread: Option<Instant>,
    reply: Weak<Reply>,
    /// Its reply is complete and not flushed yet; what is held until then.
    unflushed: Option<UntilSent>,
}

/// Held until a reply is sent: a layer puts what it is into the response's extensions.
#[derive(Clone, Debug, Default)]
pub struct UntilSent(Vec<Arc<dyn Any + Send + Sync>>);

impl UntilSent {
    pub fn hold(response: &mut http::Extensions, held: impl Send + Sync + 'static) {
        response.get_or_insert_default::<UntilSent>().0.push(Arc::new(held));
    }
}

/// One request in work; dropped with its response's body.
#[derive(Debug)]
pub struct Active {
    activity: Arc<Activity>,
    request: u64,
    held: UntilSent,
}

impl Activity {
    pub fn new(flushes: bool, request_deadline: Duration) -> Arc<Activity> {
        Arc::new(Activity {
            flushes,
            request_deadline: request_deadline + GRACE,
            begun: AtomicU64::new(0),
            changed: Notify::new(),
            requests: Mutex::default(),
        })
    }

    pub fn begin(self: &Arc<Self>) -> Active {
        let request = self.begun.fetch_add(1, Ordering::AcqRel);
        let in_work = InWork { begun: Instant::now(), unread: None, reply: Weak::new(), unflushed: None };
        self.requests().insert(request, in_work);
        self.changed.notify_one();
        Active { activity: Arc::clone(self), request, held: UntilSent::default() }
    }

    pub fn is_idle(&self) -> bool {
        self.requests().is_empty()
    }

    /// Requests begun since the connection opened.
    pub fn requests_begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// All that was written so far is out.
    pub fn flushed(&self) {
        let sent: Vec<InWork> = self
            .requests()
            .extract_if(|_, request| request.unflushed.is_some())
            .map(|(_, sent)| sent)
            .collect();
        if !sent.is_empty() {
            self.changed.notify_one();
        }
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

    /// Returns once a request's deadline has passed and its reply is not out.
    pub async fn overdue(&self) {
        loop {
            let since = self.requests().values().map(|request| request.begun).min();
            if wait_until(since, self.request_deadline).await {
                return;
            }
        }
    }

    /// Ends each reply whose client has made no room for its next frame for `duration`, or not for all of it by
    /// the request's deadline. Returns once that was the last one in work.
    pub async fn end_stalled(&self, duration: Duration) {
        loop {
            let since = self.unread(|request, unread| {
                let overdue = request.begun + self.request_deadline;
                // As if it had begun to wait when it would be given up for that.
                Some(unread.min(overdue.checked_sub(duration).unwrap_or(unread)))
            });
            if !wait_until(since.iter().map(|(since, _)| *since).min(), duration).await {
                continue;
            }
            let stalled = since.into_iter().filter(|(since, _)| since.elapsed() >= duration);
            let stalled: Vec<Arc<Reply>> = stalled.filter_map(|(_, reply)| reply.upgrade()).collect();
            stalled.iter().for_each(|reply| reply.end());
            if !stalled.is_empty() && self.is_idle() {
                return;
            }
        }
    }

    /// Of each reply that waits for its client, what `of` says of it.
    fn unread<T>(&self, of: impl Fn(&InWork, Instant) -> Option<T>) -> Vec<(T, Weak<Reply>)> {
        let requests = self.requests();
        let unread = requests.values().filter_map(|request| Some((request, request.unread?)));
        unread
            .filter_map(|(request, since)| Some((of(request, since)?, Weak::clone(&request.reply))))
            .collect()
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<u64, InWork>> {
        // No update of the map is left half done, so a panic elsewhere cannot have spoilt it.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `since` is `duration` ago; waits until it is. Where there is none yet, one that comes meanwhile is
/// not overdue before the next look.
async fn wait_until(since: Option<Instant>, duration: Duration) -> bool {
    let passed = since.is_some_and(|since| since.elapsed() >= duration);
    if !passed {
        tokio::time::sleep_until(since.unwrap_or_else(Instant::now) + duration).await;
    }
    passed
}

impl Active {
    /// What is to be dropped only when the reply is out.
    pub fn hold(&mut self, held: UntilSent) {
        self.held = held;
    }

    /// The reply this request gets; it is the client's turn from now on.
    pub fn answered_by(&self, reply: Weak<Reply>) {
        self.update(|request| request.reply = reply);
        self.wait_for_client();
    }

    /// It is the client's turn from now on.
    pub fn wait_for_client(&self) {
        self.update(|request| request.unread = Some(Instant::now()));
    }

    pub fn stop_waiting(&self) {
        self.update(|request| request.unread = None);
    }

    /// The reply is complete, in the hands of the protocol.
    pub fn complete(mut self) {
        if self.activity.flushes {
            let held = mem::take(&mut self.held);
            self.update(|request| (request.unread, request.unflushed) = (None, Some(held)));
            // The entry goes with the flush.
            self.request = u64::MAX;
        }
    }

    fn update(&self, change: impl FnOnce(&mut InWork)) {
        if let Some(request) = self.activity.requests().get_mut(&self.request) {
            change(request);
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.activity.requests().remove(&self.request);
        self.activity.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::super::delivery::Content;
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(100);
    const NEVER: Duration = Duration::from_secs(3600);

    /// What becomes of a request; `None` if it is gone.
    type Happens = fn(Active) -> Option<Active>;

    fn reply(activity: &Arc<Activity>, happens: Happens) -> Option<Arc<Reply>> {
        happens(activity.begin()).map(|active| Reply::new(Content::new(axum::body::Body::from("x"), active)))
    }

    #[tokio::test]
    async fn only_replies_that_wait_for_their_client_stall() {
        let rows: [(&str, Happens, bool); 3] = [
            ("a frame is out", Some, true),
            ("gone", |_| None, false),
            (
                "complete",
                |active| {
                    active.complete();
                    None
                },
                false,
            ),
        ];
        for (what, happens, stalls) in rows {
            let activity = Activity::new(false, NEVER);
            let _kept = reply(&activity, happens);
            let ended = tokio::time::timeout(4 * DEADLINE, activity.end_stalled(DEADLINE)).await.is_ok();
            assert_eq!(ended, stalls, "{what}");
        }
    }

    #[tokio::test]
    async fn a_stalled_reply_ends_alone() {
        let activity = Activity::new(false, NEVER);
        let working = activity.begin();
        let stalled = reply(&activity, Some).unwrap();
        assert!(tokio::time::timeout(4 * DEADLINE, activity.end_stalled(DEADLINE)).await.is_err());
        assert!(stalled.is_ended() && !activity.is_idle());
        drop(working);
        assert!(activity.is_idle());
    }

    #[test]
    fn what_is_held_lasts_until_the_flush() {
        for (flushes, lasts) in [(true, true), (false, false)] {
            let activity = Activity::new(flushes, NEVER);
            let (mut active, held, mut extensions) =
                (activity.begin(), Arc::new(()), http::Extensions::new());
            UntilSent::hold(&mut extensions, Arc::clone(&held));
            active.hold(extensions.remove().unwrap());
            active.complete();
            assert_eq!((Arc::strong_count(&held) == 2, !activity.is_idle()), (lasts, lasts));
            activity.flushed();
            assert!(Arc::strong_count(&held) == 1 && activity.is_idle());
        }
    }
}
