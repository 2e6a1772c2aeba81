//! The engine's end of a request's event stream, and what both ends share.
//!
//! Tokens go through a bounded channel that the engine only writes when there is room. The last event
//! has a place of its own, so it arrives even at a client that stopped reading.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::Event;

/// Events a step may add to any stream: the prompt's log-probabilities and a token. Guesses that turn out
/// right add more, and are only made when there is room for those too.
const EVENTS_A_STEP: usize = 2;

/// What both ends of a stream share.
#[derive(Default)]
pub(crate) struct StreamShared {
    /// Set by the engine when it found no room: the reader wakes it after its next read.
    starved: AtomicBool,
    /// The stream's end, in place before the channel closes.
    last: Mutex<Option<Event>>,
}

impl StreamShared {
    pub fn take_last(&self) -> Option<Event> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the engine waits for room in this stream; it is told once.
    pub fn take_starved(&self) -> bool {
        // The read before this must be seen by an engine whose mark is not seen here.
        fence(Ordering::SeqCst);
        self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::SeqCst)
    }
}

/// The engine's end. Dropping it without [`EventSender::end`] tells the reader that the engine failed.
pub(crate) struct EventSender {
    events: mpsc::Sender<Event>,
    shared: Arc<StreamShared>,
}

pub(crate) fn event_channel(backlog: usize) -> (EventSender, mpsc::Receiver<Event>, Arc<StreamShared>) {
    let (events, receiver) = mpsc::channel(backlog.max(EVENTS_A_STEP));
    let shared = Arc::new(StreamShared::default());
    (EventSender { events, shared: Arc::clone(&shared) }, receiver, shared)
}

impl EventSender {
    pub fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether a step's events fit. When not, the reader wakes the engine once it has read.
    pub fn has_room(&self) -> bool {
        if self.events.capacity() >= EVENTS_A_STEP {
            return true;
        }
        self.shared.starved.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // It may have read between the two: then nobody will wake us, but there is room.
        self.events.capacity() >= EVENTS_A_STEP
    }

    /// Events that fit besides those of any step.
    pub fn spare_room(&self) -> usize {
        self.events.capacity().saturating_sub(EVENTS_A_STEP)
    }

    /// Sends an event there is room for.
    pub fn send(&self, event: Event) {
        // Closed: the reader is gone and the sequence ends before its next step. Full cannot be: only
        // this end writes, and sequences without room are not run.
        let _ = self.events.try_send(event);
    }

    pub fn end(self, event: Event) {
        *self.shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
    }
}
