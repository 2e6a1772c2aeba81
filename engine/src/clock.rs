//! What the time of steps is read from: decisions that depend on it are tested without waiting for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// When this process first looked.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What says how long a step took.
#[derive(Clone, Debug, Default)]
pub enum StepClock {
    /// By this machine's clock.
    #[default]
    Machine,
    /// By what the models say: nanoseconds all steps so far would have taken.
    Counted(Arc<AtomicU64>),
}

impl StepClock {
    /// Time since a moment that stays the same.
    pub fn now(&self) -> Duration {
        match self {
            StepClock::Machine => BEGAN.elapsed(),
            StepClock::Counted(nanoseconds) => Duration::from_nanos(nanoseconds.load(Ordering::Relaxed)),
        }
    }
}
