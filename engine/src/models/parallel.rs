//! Work of a load on several threads. Not the device's workers: those wait for each other at the end of
//! every op, which costs more than it gains while other threads want the same cores.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::EngineError;

/// Both results; `other` runs on a thread of its own where the system gives one.
pub fn both<A: Send, B>(other: impl Fn() -> A + Sync, own: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let helper = thread::Builder::new().name("load".into()).spawn_scoped(scope, &other);
        let own = own();
        let other = match helper {
            Ok(helper) => helper.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => other(),
        };
        (other, own)
    })
}

/// `build(0)`, ..., `build(count - 1)`, in this order; `threads` take the next one as they get done.
///
/// # Errors
/// The first one's that failed.
pub fn each<T: Send>(
    threads: usize,
    count: usize,
    build: impl Fn(usize) -> Result<T, EngineError> + Sync,
) -> Result<Vec<T>, EngineError> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut built = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return built;
            }
            let part = build(index);
            if part.is_err() {
                // Nobody needs the rest.
                next.fetch_max(count, Ordering::Relaxed);
            }
            built.push((index, part));
        }
    };
    let mut built = thread::scope(|scope| {
        let helper = |_| thread::Builder::new().name("load".into()).spawn_scoped(scope, take).ok();
        let helpers: Vec<_> = (1..threads.min(count)).map_while(helper).collect();
        let mut built = take();
        for helper in helpers {
            built.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        built
    });
    built.sort_by_key(|(index, _)| *index);
    built.into_iter().map(|(_, part)| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_in_order_and_the_first_failure_counts() {
        let bad = |index| EngineError::Tokenizer(format!("part {index}"));
        for threads in 1..4 {
            for count in [0, 1, 2, 20] {
                let squares: Vec<usize> = (0..count).map(|index| index * index).collect();
                assert_eq!(each(threads, count, |index| Ok(index * index)).unwrap(), squares);
                let failed = each(threads, count, |index| if index < 2 { Ok(()) } else { Err(bad(2)) });
                assert_eq!(failed.is_err(), count > 2, "{threads} threads, {count} parts");
            }
        }
    }

    #[test]
    fn both_run() {
        assert_eq!(both(|| 1, || 2), (1, 2));
    }
}
