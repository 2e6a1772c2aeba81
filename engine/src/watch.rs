//! Whether there is memory left for new work, whoever takes it.
//!
//! The budget ([`crate::memory`]) is promised at the start; other processes may take the memory behind it
//! later. Before a machine without memory ends this process, new work is refused, and before that what
//! only saves time is given up: cached prefixes. Running work goes on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{EngineError, memory};

/// When memory counts as short.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// New work is refused while fewer bytes are left, and cached prefixes are given up below twice as
    /// many. 0: never.
    pub floor_bytes: usize,
    /// A reading is believed for so long.
    pub interval: Duration,
    /// Bytes that are left; `None` where that is not known.
    pub available: fn() -> Option<usize>,
}

impl Default for WatchOptions {
    fn default() -> WatchOptions {
        WatchOptions { floor_bytes: 64 << 20, interval: Duration::from_secs(1), available: memory::available }
    }
}

/// Looks at the machine's memory, once an interval at most.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    options: WatchOptions,
    last: Mutex<Option<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    available: usize,
    /// Nobody was told yet that memory is short.
    is_news: bool,
}

impl MemoryWatch {
    pub fn new(options: WatchOptions) -> MemoryWatch {
        MemoryWatch { options, last: Mutex::new(None) }
    }

    /// Whether there is room for new work.
    ///
    /// # Errors
    /// `LowMemory` with what is left.
    pub fn check(&self) -> Result<(), EngineError> {
        let (available, floor) = (self.with_reading(|reading| reading.available), self.options.floor_bytes);
        if available >= floor { Ok(()) } else { Err(EngineError::LowMemory { available, floor }) }
    }

    /// Whether cached prefixes should go; yes at most once a reading.
    pub fn wants_memory(&self) -> bool {
        let enough = self.options.floor_bytes.saturating_mul(2);
        self.with_reading(|reading| reading.available < enough && std::mem::take(&mut reading.is_news))
    }

    fn with_reading<T>(&self, look: impl FnOnce(&mut Reading) -> T) -> T {
        // A reading is replaced as a whole.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_recent = |reading: &Reading| now.saturating_duration_since(reading.at) < self.options.interval;
        let reading = match last.filter(is_recent) {
            Some(reading) => last.insert(reading),
            None => last.insert(Reading { at: now, available: self.read(), is_news: true }),
        };
        look(reading)
    }

    fn read(&self) -> usize {
        if self.options.floor_bytes == 0 {
            return usize::MAX;
        }
        (self.options.available)().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether work is taken, and whether prefixes go, at first and when asked again at once.
    fn found(available: fn() -> Option<usize>, floor_bytes: usize, interval: Duration) -> [bool; 3] {
        let watch = MemoryWatch::new(WatchOptions { floor_bytes, interval, available });
        [watch.check().is_ok(), watch.wants_memory(), watch.wants_memory()]
    }

    #[test]
    fn prefixes_go_first_and_work_is_refused_below_the_floor() {
        let (long, none) = (Duration::from_secs(3600), Duration::ZERO);
        for (available, floor, interval, expected) in [
            ((|| Some(200)) as fn() -> _, 100, long, [true, false, false]),
            (|| Some(199), 100, long, [true, true, false]),
            (|| Some(100), 100, none, [true, true, true]),
            (|| Some(99), 100, long, [false, true, false]),
            (|| Some(0), 100, none, [false, true, true]),
            (|| Some(0), 0, none, [true, false, false]),
            (|| None, 100, none, [true, false, false]),
        ] {
            assert_eq!(found(available, floor, interval), expected, "{:?} over {floor}", available());
        }
    }
}
