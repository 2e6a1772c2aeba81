//! Worker threads for ops: pinned, split statically, waiting by spinning first and sleeping later.
//!
//! One op is one [`WorkerPool::run`]: every thread, the caller's included, gets its number and works on
//! its own part. A step of a small model has a few hundred ops, so handing one out must cost less than a
//! microsecond: workers spin for [`SPIN_ROUNDS`] before they sleep, and an idle engine sleeps. An op of two
//! phases has its threads meet in between ([`Team::meet`]), which costs half of handing out another.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use crate::cores::{Cores, pin_to};
use crate::matmul::SendPtr;

/// Spins before a worker sleeps: about 50 µs, longer than the gaps between the ops of one step.
const SPIN_ROUNDS: u32 = 4_000;
/// Spins of who waits for a part before it gives its core to a worker that was preempted.
const SPINS_BEFORE_YIELD: u32 = 20_000;

/// A fixed set of threads that run one job at a time.
pub struct WorkerPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Those this pool was made on.
    cores: Cores,
    /// Ops come from one thread at a time; this makes it true whoever calls.
    turn: Mutex<()>,
}

struct Shared {
    posted: Apart<Posted>,
    /// Workers that have not finished the current job.
    pending: Apart<AtomicUsize>,
    /// Arrivals at meetings of the current job.
    arrived: Apart<AtomicUsize>,
    /// A part of the current job panicked: whoever waits for it at a meeting gives up.
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    /// Orders going to sleep and being woken.
    sleep: Mutex<()>,
    wake: Condvar,
}

/// In cache lines of its own: one thread writes it while others spin on its neighbours. Processors fetch
/// lines in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Apart<T>(T);

/// The job at hand.
#[derive(Default)]
struct Posted {
    /// Counts jobs; a change tells workers that `job` is new.
    epoch: AtomicU32,
    job: UnsafeCell<Option<Job>>,
}

// SAFETY: the caller of `run` writes `job` while no job runs, and workers read it between a new epoch,
// which they acquire, and their decrement of `pending`, which the caller acquires before it writes again.
unsafe impl Sync for Posted {}

/// The threads that share a job, as one of them sees them.
pub struct Team<'a> {
    shared: &'a Shared,
    threads: usize,
}

impl Team<'_> {
    /// Returns once every thread of the job is here: each sees what the others did before. All have to come,
    /// equally often.
    ///
    /// # Panics
    /// When another part panicked, which would never come.
    pub fn meet(&self) {
        if self.threads == 1 {
            return;
        }
        let arrived = &self.shared.arrived.0;
        let meetings = arrived.fetch_add(1, Ordering::AcqRel) / self.threads;
        let all = (meetings + 1) * self.threads;
        spin_until(|| {
            assert!(!self.shared.panicked.load(Ordering::Relaxed), "another part panicked");
            arrived.load(Ordering::Acquire) >= all
        });
    }
}

/// Spins, and after a while gives the core to a thread that was preempted.
fn spin_until(is_done: impl Fn() -> bool) {
    let mut spins = 0;
    while !is_done() {
        spins += 1;
        if spins < SPINS_BEFORE_YIELD {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// A borrowed closure whose lifetime [`WorkerPool::run`] guards.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure behind the pointer is Sync, and `run` does not return before every worker is done
// with it.
unsafe impl Send for Job {}

impl WorkerPool {
    /// `threads` in all: `threads - 1` workers, and whoever calls [`WorkerPool::run`].
    pub fn new(threads: usize) -> WorkerPool {
        let shared = Arc::new(Shared {
            posted: Apart::default(),
            pending: Apart::default(),
            arrived: Apart::default(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let cores = Cores::of_this_process();
        let workers: Vec<JoinHandle<()>> = (1..threads.max(1))
            // A thread the system does not give ends the list: parts are numbered without gaps.
            .map_while(|index| {
                let shared = shared.clone();
                let cpu = cores.cpus.get(index).copied();
                std::thread::Builder::new()
                    .name(format!("kernel-{index}"))
                    .spawn(move || {
                        if let Some(cpu) = cpu {
                            pin_to(&[cpu]);
                        }
                        shared.work(index);
                    })
                    .ok()
            })
            .collect();
        WorkerPool { shared, workers, cores, turn: Mutex::new(()) }
    }

    /// Threads that share a job, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Keeps the calling thread off the workers' CPUs. Whoever calls [`WorkerPool::run`] from one of them waits
    /// for a worker that waits for it, a time slice of the system for each op, until the system moves it: and
    /// that is where a thread that slept is put, as sleeping workers leave their CPUs idle.
    pub fn leave_cpus_to_workers(&self) {
        if !self.workers.is_empty() {
            pin_to(&self.cores.besides_workers(self.workers.len()));
        }
    }

    /// Lets the calling thread run anywhere again: for one that was started by a thread which does not.
    pub fn use_all_cpus(&self) {
        pin_to(&self.cores.cpus);
    }

    /// Calls `part(0)`, ..., `part(threads - 1)`, each on its own thread, and returns when all are done.
    ///
    /// # Panics
    /// When a part panics, after all parts ended.
    pub fn run(&self, part: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return part(0);
        }
        let _turn = lock(&self.turn);
        // SAFETY: only the lifetime is erased. Workers call the closure only between the epoch's change
        // and their decrement of `pending`, and this function waits for `pending` to reach zero below,
        // even when its own part panics.
        let part_static: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(part) };
        self.shared.start(Job(part_static), self.workers.len());
        let own = catch_unwind(AssertUnwindSafe(|| part(0)));
        if own.is_err() {
            self.shared.panicked.store(true, Ordering::Relaxed);
        }
        spin_until(|| self.shared.pending.0.load(Ordering::Acquire) == 0);
        let has_panicked = self.shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(payload) = own {
            std::panic::resume_unwind(payload);
        }
        assert!(!has_panicked, "a kernel worker panicked");
    }

    /// As [`WorkerPool::run`], for parts that meet on the way.
    ///
    /// # Panics
    /// As there.
    pub fn run_in_phases(&self, part: &(dyn Fn(usize, &Team<'_>) + Sync)) {
        let team = Team { shared: &self.shared, threads: self.threads() };
        self.run(&|thread| part(thread, &team));
    }

    /// Splits `items` evenly, in multiples of `grain`: each thread gets one contiguous range (the last
    /// ones may be empty).
    pub fn split(&self, items: usize, grain: usize, part: &(dyn Fn(std::ops::Range<usize>) + Sync)) {
        let threads = self.threads();
        if items == 0 || threads == 1 {
            return part(0..items);
        }
        self.run(&|thread| {
            let range = share(items, grain, thread, threads);
            if !range.is_empty() {
                part(range);
            }
        });
    }
}

impl WorkerPool {
    /// Calls `part(0)`, ..., `part(items - 1)`; threads take the next one as they get done. For items of
    /// unequal cost.
    pub fn dynamic(&self, items: usize, part: &(dyn Fn(usize) + Sync)) {
        if items <= 1 || self.threads() == 1 {
            return (0..items).for_each(part);
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    return;
                }
                part(item);
            }
        });
    }

    /// Calls `work` with every item, once, and one of `states` that is nobody else's meanwhile: of those there
    /// must be one for each thread. Threads take the next item as they get done.
    pub fn for_each_mut<T: Send, S: Send>(
        &self,
        items: &mut [T],
        states: &mut [S],
        work: impl Fn(&mut T, &mut S) + Sync,
    ) {
        assert!(states.len() >= self.threads(), "{} states for {} threads", states.len(), self.threads());
        if items.len() <= 1 || self.threads() == 1 {
            return items.iter_mut().for_each(|item| work(item, &mut states[0]));
        }
        let (next, count) = (AtomicUsize::new(0), items.len());
        let (items, states) = (SendPtr(items.as_mut_ptr()), SendPtr(states.as_mut_ptr()));
        self.run(&|thread| {
            // SAFETY: there are as many states as threads, and each number is one thread's.
            let state = unsafe { &mut *states.get().add(thread) };
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                // SAFETY: the index lies within the items, and the counter gives it to one thread only.
                work(unsafe { &mut *items.get().add(index) }, state);
            }
        });
    }
}

/// The part of `items` that `thread` of `threads` gets, cut at multiples of `grain`.
pub fn share(items: usize, grain: usize, thread: usize, threads: usize) -> std::ops::Range<usize> {
    let grains = items.div_ceil(grain);
    let cut = |thread: usize| (grains * thread / threads * grain).min(items);
    cut(thread)..cut(thread + 1)
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.posted.0.epoch.fetch_add(1, Ordering::Release);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic was already reported by `run`.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn start(&self, job: Job, workers: usize) {
        // SAFETY: no job runs, as the caller has the turn and waited for the last one; so nobody reads this.
        unsafe { *self.posted.0.job.get() = Some(job) };
        self.pending.0.store(workers, Ordering::Relaxed);
        self.arrived.0.store(0, Ordering::Relaxed);
        self.posted.0.epoch.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taking the lock orders this wake after a sleeper's last look at the epoch.
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }

    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: this epoch's job was written before the epoch, and the next is only written once this
            // thread gave its share of `pending` back.
            let job = unsafe { *self.posted.0.job.get() }.expect("an epoch starts with a job");
            // SAFETY: `run` keeps the closure alive until `pending` is zero, and this thread's share of
            // `pending` is given back only below.
            let part = unsafe { &*job.0 };
            if catch_unwind(AssertUnwindSafe(|| part(index))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.pending.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until the epoch is another than `seen`.
    fn next_epoch(&self, seen: u32) -> u32 {
        for _ in 0..SPIN_ROUNDS {
            let epoch = self.posted.0.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let epoch = self.posted.0.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return epoch;
            }
            guard = self.wake.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}

/// Locks; a panic of a part never leaves the guarded values half-changed, so poison is ignored.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_gets_its_own_part() {
        for threads in 1..=4 {
            let pool = WorkerPool::new(threads);
            for _ in 0..200 {
                let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run(&|thread| {
                    calls[thread].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn every_item_is_changed_once_and_every_state_is_one_threads() {
        for threads in 1..=4 {
            let pool = WorkerPool::new(threads);
            for count in [0, 1, 2, 3, 100] {
                let mut items: Vec<usize> = (0..count).collect();
                let mut states = vec![0; threads];
                pool.for_each_mut(&mut items, &mut states, |item, state| {
                    *item += 1000;
                    *state += 1;
                });
                assert!(items.into_iter().eq(1000..1000 + count), "{count} items, {threads} threads");
                assert_eq!(states.iter().sum::<usize>(), count);
            }
        }
    }

    #[test]
    fn threads_that_meet_see_what_the_others_did() {
        for threads in 1..=4 {
            let pool = WorkerPool::new(threads);
            for round in 0..200 {
                let done: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                pool.run_in_phases(&|thread, team| {
                    for phase in 1..=round % 4 {
                        done[thread].store(phase, Ordering::Relaxed);
                        team.meet();
                        assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == phase));
                        team.meet();
                    }
                });
            }
        }
    }

    #[test]
    fn a_panic_ends_a_meeting() {
        let pool = WorkerPool::new(3);
        for bad in 0..3 {
            let job = || {
                pool.run_in_phases(&|thread, team| {
                    assert!(thread != bad);
                    team.meet();
                });
            };
            assert!(catch_unwind(AssertUnwindSafe(job)).is_err());
            pool.run_in_phases(&|_, team| team.meet());
        }
    }

    #[test]
    fn who_calls_shares_no_cpu_with_a_worker() {
        let cores = Cores::of_this_process();
        let sorted = |mut cpus: Vec<usize>| {
            cpus.sort_unstable();
            cpus
        };
        for threads in [2, 3] {
            let pool = WorkerPool::new(threads);
            let cpus = std::thread::spawn(move || {
                pool.leave_cpus_to_workers();
                let settled = Cores::of_this_process().cpus;
                pool.use_all_cpus();
                [settled, Cores::of_this_process().cpus]
            });
            let expected = [cores.besides_workers(threads - 1), cores.cpus.clone()];
            assert_eq!(cpus.join().unwrap().map(sorted), expected.map(sorted), "{threads} threads");
        }
    }

    #[test]
    fn workers_wake_from_sleep() {
        let pool = WorkerPool::new(3);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            let calls = AtomicUsize::new(0);
            pool.run(&|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.into_inner(), 3);
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for (items, grain, threads) in [(0, 1, 2), (1, 4, 3), (16, 16, 2), (100, 16, 3), (33, 8, 8)] {
            let mut next = 0;
            for thread in 0..threads {
                let range = share(items, grain, thread, threads);
                assert_eq!(range.start, next, "items {items} grain {grain} threads {threads}");
                next = range.end;
            }
            assert_eq!(next, items);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = WorkerPool::new(2);
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(&|thread| assert!(thread != bad))));
            assert!(result.is_err());
        }
        pool.run(&|_| {});
    }
}
