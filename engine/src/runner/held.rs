//! A model the thread holds: its runner, its memory, and its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use super::draft::DraftModel;
use super::embedding::EmbeddingRunner;
use super::generation::GenerationRunner;
use super::{Counters, ModelRunner};
use crate::memory::Reservation;
use crate::model::{LoadedModel, Network};
use crate::prefix::Prefixes;
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

pub(super) struct HeldModel {
    pub runner: ModelRunner,
    pub served: Arc<Served>,
    // Dropped in this order.
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
        let runner = match model.network {
            Network::Decoder(network) => {
                let prefixes =
                    Prefixes::new(&model.identity, network.kv_layout(), &model.info, &options.prefix);
                let kv = model.device.kv_cache(network.kv_layout(), served.pages);
                let draft = model.draft.map(|network| {
                    let kv = model.device.kv_cache(network.kv_layout(), served.pages);
                    DraftModel::new(network, kv)
                });
                let tokenizer = model.info.tokenizer;
                let runner = GenerationRunner::new(
                    network,
                    kv,
                    tokenizer,
                    model.eos_tokens,
                    draft,
                    prefixes,
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
        HeldModel { runner, served, memory, place }
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
    /// may. Where the system gives no thread, it is dropped here.
    pub fn free_aside(self) -> Option<JoinHandle<()>> {
        let free = move || {
            kernels::host::yield_to_others();
            self.free();
        };
        std::thread::Builder::new().name("unload".to_owned()).spawn(free).ok()
    }

    fn free(self) {
        let HeldModel { runner, served, memory, place } = self;
        match runner {
            ModelRunner::Generate(mut runner) => runner.wipe(),
            ModelRunner::Embed(runner) => drop(runner),
        }
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
