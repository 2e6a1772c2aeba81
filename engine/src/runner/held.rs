//! A model the thread holds: its runner, its memory, and its end.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use kernels::Device;

use super::choosing::Choosing;
use super::draft::DraftModel;
use super::embedding::EmbeddingRunner;
use super::generation::GenerationRunner;
use super::{Counters, ModelRunner};
use crate::memory::Reservation;
use crate::model::{LoadedModel, Network};
use crate::request::FinishReason;
use crate::residents::{Residents, Served};
use crate::scheduler::turns::ModelKey;
use crate::{EngineError, EngineOptions};

/// A model on its way to the thread.
pub(crate) struct Resident {
    pub model: LoadedModel,
    pub served: Arc<Served>,
    pub memory: Reservation,
}

pub(super) const UNLOAD_THREAD: &str = "unload";

/// How a model gets the thread that frees it.
pub(super) type Spawn = fn(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

pub(super) fn spawn_unload(free: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(UNLOAD_THREAD.to_owned()).spawn(free)
}

pub(super) struct HeldModel {
    pub runner: ModelRunner,
    pub served: Arc<Served>,
    // Dropped in this order.
    device: Device,
    memory: Reservation,
    place: Place,
}

impl HeldModel {
    pub fn new(
        resident: Resident,
        residents: Arc<Residents>,
        options: &EngineOptions,
        started: Instant,
    ) -> HeldModel {
        let Resident { model, served, memory } = resident;
        let device = model.device.clone();
        let runner = match model.network {
            Network::Decoder(network) => {
                let reception = served.reception.as_ref().expect("a chat model has one");
                let kv = model.device.kv_cache(network.kv_layout(), served.pages);
                let draft = model.draft.map(|network| {
                    let kv = model.device.kv_cache(network.kv_layout(), served.pages);
                    DraftModel::new(network, kv, model.device.softmax(), options.step_clock.clone())
                });
                let choosing = Choosing::new(model.device, network.vocabulary());
                let tokenizer = model.info.tokenizer;
                let runner = GenerationRunner::new(
                    network,
                    kv,
                    choosing,
                    tokenizer,
                    draft,
                    reception.folder(),
                    options,
                    started,
                );
                ModelRunner::Generate(Box::new(runner))
            }
            Network::Encoder(network) => {
                ModelRunner::Embed(Box::new(EmbeddingRunner::new(network, options.embed_step_tokens_max)))
            }
        };
        let place = Place { residents, instance: served.instance };
        HeldModel { runner, served, device, memory, place }
    }

    /// Called on the thread that runs it, before it does.
    pub fn settle_thread(&self) {
        self.device.leave_cpus_to_workers();
    }

    /// Ends everything: because this model goes, or the engine.
    pub fn cancel_all(&mut self, counters: &mut Counters) {
        let goes = self.served.is_cancelled();
        match &mut self.runner {
            ModelRunner::Generate(runner) => {
                let reason = if goes { FinishReason::Unloaded } else { FinishReason::Cancelled };
                runner.cancel_all(reason, counters);
            }
            ModelRunner::Embed(runner) => {
                let name = &self.served.info.name;
                let unloaded = || EngineError::ModelUnloading(name.clone());
                let error = || if goes { unloaded() } else { EngineError::Stopped };
                runner.cancel_all(error, counters);
            }
        }
    }

    /// Whether it may be freed: it is unloading, nobody holds it and it has no requests.
    pub fn is_over(&self) -> bool {
        self.served.is_abandoned() && self.requests() == 0
    }

    /// Names it among those that take turns.
    pub fn key(&self) -> ModelKey {
        ModelKey(self.served.instance)
    }

    /// Accepted and not ended.
    pub fn requests(&self) -> usize {
        match &self.runner {
            ModelRunner::Generate(runner) => runner.requests(),
            ModelRunner::Embed(runner) => runner.requests(),
        }
    }

    /// Tells the table what it is doing.
    pub fn publish(&self) {
        let (requests, gauges) = (self.requests(), &self.served.gauges);
        // The last request's end counts as use, too.
        if gauges.requests.swap(requests, Ordering::SeqCst) > 0 || requests > 0 {
            self.served.touch();
        }
        if let ModelRunner::Generate(runner) = &self.runner {
            gauges.pages_used.store(runner.pages().used(), Ordering::Relaxed);
        }
    }

    /// Frees everything on a thread of its own: zeroing and unmapping gigabytes takes longer than a step
    /// may. Where the system gives no thread, the model is given back: it is to be tried again.
    pub fn free_aside(self, spawn: Spawn) -> Result<JoinHandle<()>, HeldModel> {
        let here = Arc::new(Mutex::new(Some(self)));
        let there = Arc::clone(&here);
        let take =
            |place: &Mutex<Option<HeldModel>>| place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let free = move || {
            kernels::host::yield_to_others();
            if let Some(held) = take(&there) {
                // The engine's thread is kept off most of them, and it is the one all others wait for.
                held.device.use_all_cpus();
                held.free();
            }
        };
        spawn(Box::new(free)).map_err(|error| {
            tracing::warn!(%error, "no thread to unload a model on; it stays for a moment");
            take(&here).expect("a thread that was not started took nothing")
        })
    }

    fn free(self) {
        let HeldModel { runner, served, device, memory, place } = self;
        match runner {
            ModelRunner::Generate(mut runner) => runner.wipe(),
            ModelRunner::Embed(runner) => drop(runner),
        }
        // The weights' memory goes with it.
        drop(device);
        tracing::info!(model = served.info.name, bytes = memory.bytes(), "unloaded");
        drop(served);
        // Whoever waits for the place finds room.
        drop(memory);
        drop(place);
        // Last: the table's entry had the tokenizer.
        kernels::host::return_freed_memory();
    }
}

/// A place in the table, given up when dropped.
struct Place {
    residents: Arc<Residents>,
    instance: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.residents.remove(self.instance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loading;
    use crate::memory::MemoryBudget;
    use crate::testing::{KV_LAYOUT, MockOptions, chat_model};

    #[test]
    fn a_model_that_gets_no_thread_stays_whole_and_goes_wiped_later() {
        let (residents, budget) = (Arc::new(Residents::default()), MemoryBudget::new(1 << 20));
        let options = EngineOptions { kv_bytes_max: 4 * KV_LAYOUT.page_bytes(), ..EngineOptions::default() };
        let mut held = None;
        for prepared in
            loading::prepare_all(vec![chat_model(MockOptions::default())], &options, &budget).unwrap()
        {
            let hand_over = |resident| {
                held = Some(HeldModel::new(resident, Arc::clone(&residents), &options, Instant::now()));
                Ok(())
            };
            loading::add(&residents, prepared, &options, hand_over).unwrap();
        }
        let used = budget.used();
        assert!(used > 0);
        let mut held = held.unwrap();
        let ModelRunner::Generate(runner) = &mut held.runner else { panic!("it generates") };
        runner.kv().import_page(2, &vec![1; KV_LAYOUT.page_bytes()]);
        let held = held.free_aside(|_| Err(io::Error::other("no thread"))).unwrap_err();
        assert_eq!((residents.statuses().len(), budget.used()), (1, used), "it is as it was");
        let Ok(thread) = held.free_aside(spawn_unload) else { panic!("this system has threads") };
        // Its end panics where a page is not zero.
        thread.join().unwrap();
        assert_eq!((residents.statuses().len(), budget.used()), (0, 0));
    }
}
