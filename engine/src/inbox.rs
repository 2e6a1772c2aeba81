//! The bounded line between callers and the engine's thread: commands in, and the right to wait.
//!
//! Callers never block on the engine: they hold a lock for as long as it takes to compare counters and
//! push. What waits is bounded by count and by tokens; who does not fit is told when to try again, from
//! how fast the line has been moving.
//!
//! One principal may fill the whole line, and keeps nobody out by it: whoever has less than an equal part of
//! the line waiting is let in all the same. With k principals waiting the line is thus never longer than
//! 1 + 1/2 + ... + 1/k times its bound, and one request of each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::runner::{Embedding, Generation, Resident};

/// What a caller asks of the thread.
pub(crate) enum Command {
    Generate(Box<Generation>),
    Embed(Embedding),
    /// A model to serve from now on.
    Load(Box<Resident>),
}

/// Shared by handles, streams and the thread.
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// The engine's thread, once it runs; it parks when it has nothing to do.
    thread: OnceLock<Thread>,
}

struct State {
    commands: Vec<Command>,
    generate: Line,
    embed: Line,
    /// New work is refused, and what is there is cancelled at this time.
    drain_until: Option<Instant>,
    /// The thread is to end, or has ended.
    stopped: bool,
}

/// Commands since the last look, and whether to go on.
pub(crate) struct Intake {
    pub commands: Vec<Command>,
    pub drain_until: Option<Instant>,
    pub stopped: bool,
}

/// Which line a request waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Generate,
    Embed,
}

/// Requests and tokens that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub requests: usize,
    pub tokens: usize,
}

impl Inbox {
    pub fn new(generate_max: Waiting, embed_max: Waiting) -> Inbox {
        let state = State {
            commands: Vec::new(),
            generate: Line::new(generate_max),
            embed: Line::new(embed_max),
            drain_until: None,
            stopped: false,
        };
        Inbox { state: Mutex::new(state), thread: OnceLock::new() }
    }

    /// Called by the thread itself, before it parks for the first time.
    pub fn set_thread(&self, thread: Thread) {
        self.thread.get_or_init(|| thread);
    }

    /// Makes the thread look again.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// A place in line for a request of `tokens` tokens, which goes with its command.
    ///
    /// # Errors
    /// `QueueFull` with a time to try again; `Stopped` when the engine takes no more work.
    pub fn enter(
        self: &Arc<Self>,
        queue: Queue,
        principal: &Arc<str>,
        tokens: usize,
    ) -> Result<LinePlace, EngineError> {
        let mut state = self.lock();
        if state.stopped || state.drain_until.is_some() {
            return Err(EngineError::Stopped);
        }
        state.line(queue).enter(principal, tokens, Instant::now())?;
        Ok(LinePlace { inbox: Arc::clone(self), queue, principal: Arc::clone(principal), tokens })
    }

    /// Leaves a command; those that wait hold a [`LinePlace`]. The caller wakes the thread once all is ready
    /// for it.
    ///
    /// # Errors
    /// `Stopped` when the engine takes no more work.
    pub fn leave_command(&self, command: Command) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.stopped || state.drain_until.is_some() {
            return Err(EngineError::Stopped);
        }
        state.commands.push(command);
        Ok(())
    }

    pub fn take(&self) -> Intake {
        let mut state = self.lock();
        Intake {
            commands: std::mem::take(&mut state.commands),
            drain_until: state.drain_until,
            stopped: state.stopped,
        }
    }

    pub fn waiting(&self, queue: Queue) -> Waiting {
        self.lock().line(queue).waiting
    }

    /// The earliest deadline given counts.
    pub fn drain(&self, deadline: Instant) {
        let mut state = self.lock();
        state.drain_until = Some(state.drain_until.map_or(deadline, |earlier| earlier.min(deadline)));
        drop(state);
        self.wake();
    }

    /// Refuses everything from now on and drops what was not taken yet, which ends its streams.
    pub fn stop(&self) {
        let dropped = {
            let mut state = self.lock();
            state.stopped = true;
            std::mem::take(&mut state.commands)
        };
        drop(dropped);
        self.wake();
    }

    /// A panic elsewhere never leaves half a change behind: each one here is complete before the lock
    /// is let go.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn line(&mut self, queue: Queue) -> &mut Line {
        match queue {
            Queue::Generate => &mut self.generate,
            Queue::Embed => &mut self.embed,
        }
    }
}

/// A request's place in line, given up when dropped: it runs, or was cancelled.
pub(crate) struct LinePlace {
    inbox: Arc<Inbox>,
    queue: Queue,
    principal: Arc<str>,
    tokens: usize,
}

impl Drop for LinePlace {
    fn drop(&mut self) {
        self.inbox.lock().line(self.queue).leave(&self.principal, self.tokens, Instant::now());
    }
}

impl Waiting {
    fn add(&mut self, tokens: usize) {
        *self = Waiting { requests: self.requests + 1, tokens: self.tokens.saturating_add(tokens) };
    }

    fn remove(&mut self, tokens: usize) {
        self.requests = self.requests.saturating_sub(1);
        self.tokens = self.tokens.saturating_sub(tokens);
    }

    /// Whether one more of `tokens` tokens stays within `max`. Where nothing waits, one of any size does: it
    /// could never enter otherwise.
    fn has_room(self, tokens: usize, max: Waiting) -> bool {
        let fits = self.requests < max.requests && self.tokens.saturating_add(tokens) <= max.tokens;
        fits || self.requests == 0
    }
}

/// Who waits, and when the last ones left.
struct Line {
    waiting: Waiting,
    max: Waiting,
    /// What of it is whose.
    parts: HashMap<Arc<str>, Waiting>,
    departures: VecDeque<Instant>,
}

/// Departures the drain rate is taken from.
const DEPARTURES: usize = 64;

/// What is said when nothing has left the line yet, and the least and most that is ever said. Clients
/// ignore hints above a minute.
const RETRY_UNKNOWN: Duration = Duration::from_secs(5);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Line {
    fn new(max: Waiting) -> Line {
        let departures = VecDeque::with_capacity(DEPARTURES);
        Line { waiting: Waiting::default(), max, parts: HashMap::new(), departures }
    }

    fn enter(&mut self, principal: &Arc<str>, tokens: usize, now: Instant) -> Result<(), EngineError> {
        let part = self.parts.get(principal).copied().unwrap_or_default();
        let principals = self.parts.len() + usize::from(part.requests == 0);
        let equal =
            Waiting { requests: self.max.requests / principals, tokens: self.max.tokens / principals };
        if !self.waiting.has_room(tokens, self.max) && !part.has_room(tokens, equal) {
            let retry_after_ms = self.retry_after(now).as_millis() as u64;
            return Err(EngineError::QueueFull { waiting: self.waiting.requests, retry_after_ms });
        }
        self.waiting.add(tokens);
        self.parts.entry(Arc::clone(principal)).or_default().add(tokens);
        Ok(())
    }

    fn leave(&mut self, principal: &str, tokens: usize, now: Instant) {
        self.waiting.remove(tokens);
        if let Some(part) = self.parts.get_mut(principal) {
            part.remove(tokens);
            if part.requests == 0 {
                self.parts.remove(principal);
            }
        }
        if self.departures.len() == DEPARTURES {
            self.departures.pop_front();
        }
        self.departures.push_back(now);
    }

    /// How long the line takes to empty at the rate it has been moving.
    fn retry_after(&self, now: Instant) -> Duration {
        let Some(&first) = self.departures.front() else { return RETRY_UNKNOWN };
        let seconds_each = now.saturating_duration_since(first).as_secs_f64() / self.departures.len() as f64;
        let seconds = seconds_each * self.waiting.requests as f64;
        Duration::from_secs_f64(seconds.clamp(RETRY_MIN.as_secs_f64(), RETRY_MAX.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line::new(Waiting { requests: 3, tokens: 100 })
    }

    fn enter(line: &mut Line, principal: &str, tokens: usize, now: Instant) -> Result<(), EngineError> {
        line.enter(&principal.into(), tokens, now)
    }

    fn retry_after_ms(result: Result<(), EngineError>) -> Option<u64> {
        match result {
            Ok(()) => None,
            Err(EngineError::QueueFull { retry_after_ms, .. }) => Some(retry_after_ms),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn is_bounded_by_requests_and_by_tokens() {
        let now = Instant::now();
        let rows: &[(&[usize], &[bool])] = &[
            (&[1, 1, 1, 1], &[true, true, true, false]),
            (&[60, 40, 1], &[true, true, false]),
            (&[60, 41, 40], &[true, false, true]),
            (&[1000, 1], &[true, false]),
            (&[usize::MAX, usize::MAX], &[true, false]),
        ];
        for (requests, expected) in rows {
            let mut line = line();
            let entered: Vec<bool> =
                requests.iter().map(|&tokens| enter(&mut line, "ann", tokens, now).is_ok()).collect();
            assert_eq!(entered, *expected, "{requests:?}");
        }
    }

    #[test]
    fn who_has_less_than_an_equal_part_is_let_into_a_full_line() {
        let now = Instant::now();
        type Row<'a> = (&'a str, &'a [(&'a str, usize, bool)]);
        let rows: &[Row<'_>] = &[
            (
                "by requests: twelve places, six each, then four",
                &[
                    ("ann", 12, true),
                    ("ann", 1, false),
                    ("bob", 6, true),
                    ("bob", 1, false),
                    ("cid", 4, true),
                ],
            ),
            ("more principals than places", &[("ann", 12, true), ("bob", 1, true), ("cid", 1, true)]),
        ];
        for (what, entries) in rows {
            let mut line = Line::new(Waiting { requests: 12, tokens: 1000 });
            for &(principal, count, expected) in *entries {
                let entered = (0..count).all(|_| enter(&mut line, principal, 1, now).is_ok());
                assert_eq!(entered, expected, "{what}: {count} of {principal}");
            }
        }
        let mut line = Line::new(Waiting { requests: 30, tokens: 100 });
        for (principal, tokens, expected) in [
            ("ann", 100, true),
            ("ann", 1, false),
            ("bob", 20, true),
            ("bob", 30, true),
            ("bob", 1, false),
            ("cid", 70, true),
        ] {
            let entered = enter(&mut line, principal, tokens, now).is_ok();
            assert_eq!(entered, expected, "{tokens} tokens of {principal}");
        }
        // Gone, they count no more.
        line.leave("bob", 20, now);
        line.leave("bob", 30, now);
        line.leave("cid", 70, now);
        assert_eq!((line.parts.len(), line.waiting), (1, Waiting { requests: 1, tokens: 100 }));
    }

    #[test]
    fn who_leaves_makes_room() {
        let now = Instant::now();
        let mut line = line();
        (0..3).for_each(|_| enter(&mut line, "ann", 10, now).expect("there is room"));
        assert!(enter(&mut line, "ann", 10, now).is_err());
        line.leave("ann", 10, now);
        assert!(enter(&mut line, "ann", 10, now).is_ok());
        assert_eq!(line.waiting, Waiting { requests: 3, tokens: 30 });
    }

    #[test]
    fn says_when_to_come_back_from_the_drain_rate() {
        let start = Instant::now();
        let mut line = Line::new(Waiting { requests: 10, tokens: 1000 });
        let enter = |line: &mut Line, now| line.enter(&"ann".into(), 1, now);
        (0..10).for_each(|_| enter(&mut line, start).expect("there is room"));
        assert_eq!(retry_after_ms(enter(&mut line, start)), Some(5000), "nothing has left yet");
        // One left every 200 ms over the last two seconds; ten wait.
        for i in 0..10 {
            line.leave("ann", 1, start + Duration::from_millis(200 * i));
            enter(&mut line, start).expect("one left");
        }
        let now = start + Duration::from_secs(2);
        assert_eq!(retry_after_ms(enter(&mut line, now)), Some(2000));
        assert_eq!(retry_after_ms(enter(&mut line, start + Duration::from_secs(3600))), Some(60_000));
        assert_eq!(retry_after_ms(enter(&mut line, start)), Some(100));
    }
}
