//! The table of models an engine holds, shared by handles and the engine's thread.
//!
//! A name means the newest instance that is not being unloaded. Whoever works with a model holds a
//! [`ModelLease`]: the instance it names stays until the lease is dropped and its requests have ended,
//! also when another version takes its name meanwhile. So a prompt is always run by the model whose
//! tokenizer made it.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::inbox::Inbox;
use crate::model::ModelInfo;
use crate::runner::Reception;

/// What is known of an instance outside the engine's thread.
pub(crate) struct Served {
    /// Never given twice.
    pub instance: u64,
    pub info: ModelInfo,
    /// Token ids of requests are below this.
    pub vocabulary: usize,
    /// Pages of a chat model's cache.
    pub pages: usize,
    /// Of a chat model.
    pub reception: Option<Reception>,
    pub kv_bytes: usize,
    pub weight_bytes: usize,
    /// Never unloaded to make room for another.
    pub pinned: bool,
    pub gauges: Gauges,
    leases: AtomicUsize,
    unloading: AtomicBool,
    /// Its requests are ended instead of awaited.
    cancelled: AtomicBool,
    last_used: Mutex<Instant>,
}

/// What the thread tells of an instance after each step.
#[derive(Default)]
pub(crate) struct Gauges {
    /// Accepted and not ended.
    pub requests: AtomicUsize,
    pub pages_used: AtomicUsize,
}

/// A new instance, before it is in a table.
pub(crate) struct NewServed {
    pub info: ModelInfo,
    pub vocabulary: usize,
    pub pages: usize,
    pub reception: Option<Reception>,
    pub kv_bytes: usize,
    pub weight_bytes: usize,
    pub pinned: bool,
}

/// A model as an operator sees it.
#[derive(Clone)]
pub struct ModelStatus {
    pub info: ModelInfo,
    pub state: ModelState,
    pub pinned: bool,
    pub weight_bytes: usize,
    pub kv_bytes: usize,
    pub kv_pages: usize,
    pub kv_pages_used: usize,
    /// Accepted and not ended, waiting ones included.
    pub requests: usize,
    /// Since a request last came or ran.
    pub unused_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    Ready,
    /// It finishes what it has and takes nothing new.
    Unloading,
}

/// How a model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnloadMode {
    /// When its requests have finished.
    Finish,
    /// At once: its requests end as cancelled.
    Cancel,
}

/// A model that stays loaded while this is held. Derefs to its [`ModelInfo`].
pub struct ModelLease {
    served: Arc<Served>,
    inbox: Arc<Inbox>,
}

impl ModelLease {
    fn new(served: Arc<Served>, inbox: Arc<Inbox>) -> ModelLease {
        served.leases.fetch_add(1, Ordering::SeqCst);
        ModelLease { served, inbox }
    }

    pub(crate) fn served(&self) -> &Served {
        &self.served
    }
}

impl Clone for ModelLease {
    fn clone(&self) -> ModelLease {
        ModelLease::new(Arc::clone(&self.served), Arc::clone(&self.inbox))
    }
}

impl Deref for ModelLease {
    type Target = ModelInfo;
    fn deref(&self) -> &ModelInfo {
        &self.served.info
    }
}

impl Drop for ModelLease {
    fn drop(&mut self) {
        let last = self.served.leases.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.served.is_unloading() {
            self.inbox.wake();
        }
    }
}

impl Served {
    pub fn is_unloading(&self) -> bool {
        self.unloading.load(Ordering::SeqCst)
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Nobody can send it anything any more.
    pub fn is_abandoned(&self) -> bool {
        self.is_unloading() && self.leases.load(Ordering::SeqCst) == 0
    }

    pub fn touch(&self) {
        *self.last_used() = Instant::now();
    }

    fn last_used(&self) -> MutexGuard<'_, Instant> {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.leases.load(Ordering::SeqCst) == 0 && self.gauges.requests.load(Ordering::SeqCst) == 0
    }

    /// Weights and cache.
    pub fn bytes(&self) -> usize {
        self.weight_bytes + self.kv_bytes
    }

    fn status(&self) -> ModelStatus {
        ModelStatus {
            info: self.info.clone(),
            state: if self.is_unloading() { ModelState::Unloading } else { ModelState::Ready },
            pinned: self.pinned,
            weight_bytes: self.weight_bytes,
            kv_bytes: self.kv_bytes,
            kv_pages: self.pages,
            kv_pages_used: self.gauges.pages_used.load(Ordering::Relaxed),
            requests: self.gauges.requests.load(Ordering::SeqCst),
            unused_for: self.last_used().elapsed(),
        }
    }
}

/// All instances of an engine, those being unloaded included.
#[derive(Default)]
pub(crate) struct Residents {
    table: Mutex<Table>,
    /// An instance is gone.
    gone: Condvar,
}

#[derive(Default)]
struct Table {
    models: Vec<Arc<Served>>,
    instances: u64,
}

impl Residents {
    /// Puts an instance in the table, from when on its name means it; the one that had the name is
    /// unloaded once its requests have finished. `hand_over` gives it to the thread before anybody can
    /// send it a request; where that fails nothing changes.
    pub fn add(
        &self,
        new: NewServed,
        hand_over: impl FnOnce(Arc<Served>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut table = self.lock();
        table.instances += 1;
        let served = Arc::new(Served {
            instance: table.instances,
            info: new.info,
            vocabulary: new.vocabulary,
            pages: new.pages,
            reception: new.reception,
            kv_bytes: new.kv_bytes,
            weight_bytes: new.weight_bytes,
            pinned: new.pinned,
            gauges: Gauges::default(),
            leases: AtomicUsize::new(0),
            unloading: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            last_used: Mutex::new(Instant::now()),
        });
        hand_over(Arc::clone(&served))?;
        let before = table.models.iter().filter(|other| other.info.name == served.info.name);
        before.for_each(|other| other.unloading.store(true, Ordering::SeqCst));
        table.models.push(served);
        Ok(())
    }

    /// # Errors
    /// `UnknownModel`, or `ModelUnloading` when it was there a moment ago.
    pub fn lease(&self, name: &str, inbox: &Arc<Inbox>) -> Result<ModelLease, EngineError> {
        let table = self.lock();
        let served = table.find(name)?;
        served.touch();
        // Under the lock: who is leased here is not chosen to be unloaded as idle there.
        Ok(ModelLease::new(Arc::clone(served), Arc::clone(inbox)))
    }

    /// What is served under its name, in the order it was loaded.
    pub fn ready(&self) -> Vec<ModelInfo> {
        let table = self.lock();
        let ready = table.models.iter().filter(|model| !model.is_unloading());
        ready.map(|model| model.info.clone()).collect()
    }

    pub fn statuses(&self) -> Vec<ModelStatus> {
        self.lock().models.iter().map(|model| model.status()).collect()
    }

    /// Marks a model as unloading. The engine's thread does the rest, once it is woken.
    ///
    /// # Errors
    /// As [`Residents::lease`].
    pub fn unload(&self, name: &str, mode: UnloadMode) -> Result<Arc<Served>, EngineError> {
        let table = self.lock();
        let mut named = table.models.iter().rev().filter(|model| model.info.name == name);
        // One that is unloading already can still be told not to wait.
        let served = match mode {
            UnloadMode::Finish => table.find(name)?,
            UnloadMode::Cancel => named.next().ok_or_else(|| EngineError::UnknownModel(name.to_owned()))?,
        };
        served.unloading.store(true, Ordering::SeqCst);
        if mode == UnloadMode::Cancel {
            served.cancelled.store(true, Ordering::SeqCst);
        }
        Ok(Arc::clone(served))
    }

    /// Makes way for `bytes` bytes: names a model that is going already and has nothing left to do, or else
    /// marks one as unloading, the one unused for longest of those that are idle, not pinned and not called
    /// `except`. `None` when all of them together are less than that: none goes in vain.
    pub fn make_way(&self, bytes: usize, except: &str) -> Option<Arc<Served>> {
        let table = self.lock();
        let may_go = |model: &&Arc<Served>| !model.pinned && model.info.name != except;
        let (going, idle): (Vec<_>, Vec<_>) = table
            .models
            .iter()
            .filter(|model| model.is_idle() && (model.is_unloading() || may_go(model)))
            .partition(|model| model.is_unloading());
        if going.iter().chain(&idle).map(|model| model.bytes()).sum::<usize>() < bytes {
            return None;
        }
        if let Some(first) = going.first() {
            return Some(Arc::clone(first));
        }
        let oldest = idle.into_iter().min_by_key(|model| *model.last_used())?;
        oldest.unloading.store(true, Ordering::SeqCst);
        tracing::info!(model = oldest.info.name, "unloaded to make room");
        Some(Arc::clone(oldest))
    }

    /// The thread has freed an instance.
    pub fn remove(&self, instance: u64) {
        self.lock().models.retain(|model| model.instance != instance);
        self.gone.notify_all();
    }

    /// Waits until an instance is gone. Returns whether it is.
    pub fn wait_gone(&self, instance: u64, wait: Duration) -> bool {
        let there = |table: &mut Table| table.models.iter().any(|model| model.instance == instance);
        let waited = self.gone.wait_timeout_while(self.lock(), wait, there);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Every change is a single push, store or retain, so a panic elsewhere leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn find(&self, name: &str) -> Result<&Arc<Served>, EngineError> {
        let mut named = self.models.iter().filter(|model| model.info.name == name).peekable();
        let unknown = match named.peek() {
            Some(_) => EngineError::ModelUnloading(name.to_owned()),
            None => EngineError::UnknownModel(name.to_owned()),
        };
        named.find(|model| !model.is_unloading()).ok_or(unknown)
    }
}
