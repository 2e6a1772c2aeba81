//! Models come and go while an engine runs.
//!
//! A model is opened and packed on its caller's thread, with memory reserved before, and handed to the
//! engine's thread complete. One that goes takes nothing new; the thread frees it when its requests
//! have ended. Running work is never touched to make room: only idle models that may go do.

use std::sync::Arc;
use std::time::Duration;

use kernels::PAGE_TOKENS;

use crate::inbox::Command;
use crate::memory::{MemoryBudget, Reservation};
use crate::model::{LoadedModel, ModelInfo, Network};
use crate::packed::PackedWriter;
use crate::prefix::Prefixes;
use crate::residents::{ModelStatus, NewServed, Residents, UnloadMode};
use crate::runner::{Reception, Resident};
use crate::scheduler::DiskLimits;
use crate::{Engine, EngineError, EngineOptions};

/// Tokens of context for which a chat model is worth loading: it has to fit besides the weights.
const CONTEXT_TOKENS_MIN: usize = 2048;

/// For an idle model to be freed: it is a matter of milliseconds unless the machine is in trouble.
const FREED_WITHIN: Duration = Duration::from_secs(30);

/// What is known of a model before it is opened.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan<'a> {
    /// The name it will be served under.
    pub name: &'a str,
    /// About what its weights take: the size of its files. Corrected once they are packed.
    pub weight_bytes: usize,
    /// Never unloaded to make room for another.
    pub pinned: bool,
}

/// A model on its way out. Dropping this changes nothing.
pub struct Unloading {
    residents: Arc<Residents>,
    instance: u64,
    bytes: usize,
}

impl Unloading {
    /// Blocks until the model is gone and its memory free, or `wait` is over. Returns whether it is.
    pub fn wait(&self, wait: Duration) -> bool {
        self.residents.wait_gone(self.instance, wait)
    }

    /// Weights and cache that become free.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Engine {
    /// Loads a model while others run: makes room for it, calls `open` for it on this thread, and serves
    /// it from when this returns. A model of the same name goes once its requests have finished.
    /// Blocks as long as `open` does.
    ///
    /// `open` should pack with [`kernels::Device::packing_aside`], or running requests wait for it.
    ///
    /// # Errors
    /// Those of `open`; `NoMemory` when there is no room even without those idle models that may go,
    /// `NoMemoryToSwap` when there is none beside the model of that name;
    /// `InvalidParameter` when `open` gives another name than planned; `Stopped`.
    pub fn load<E: From<EngineError>>(
        &self,
        plan: &LoadPlan<'_>,
        open: impl FnOnce() -> Result<LoadedModel, E>,
    ) -> Result<ModelInfo, E> {
        let memory = self.make_room(plan.weight_bytes, plan.name)?;
        let model = open()?;
        Ok(self.install(plan, model, memory)?)
    }

    /// What a refusal means when a model of this name is there, which is not unloaded for its successor.
    fn of_swap(&self, refusal: EngineError, name: &str) -> EngineError {
        let resident = self.inner.residents.statuses().into_iter().find(|status| status.info.name == name);
        match (refusal, resident) {
            (EngineError::NoMemory { needed, available, total }, Some(status)) => {
                let (model, served) = (name.to_owned(), status.weight_bytes + status.kv_bytes);
                EngineError::NoMemoryToSwap { model, served, needed, available, total }
            }
            (refusal, _) => refusal,
        }
    }

    fn install(
        &self,
        plan: &LoadPlan<'_>,
        model: LoadedModel,
        mut memory: Reservation,
    ) -> Result<ModelInfo, EngineError> {
        let info = model.info.clone();
        if info.name != plan.name {
            let reason = format!("`{}` is not the name it was to have: `{}`", info.name, plan.name);
            return Err(EngineError::InvalidParameter { parameter: "model", reason });
        }
        let weight_bytes = model.weight_bytes();
        match weight_bytes.checked_sub(memory.bytes()) {
            Some(more) => memory.merge(self.make_room(more, plan.name)?),
            None => memory.resize(weight_bytes)?,
        }
        let mut pages = 0;
        if let Network::Decoder(_) = &model.network {
            let options = &self.inner.options;
            let cache = CacheWish::new(model.page_bytes(), info.context_tokens, options)?;
            let fixed = weight_bytes + copies_bytes(&model, options);
            let least = fixed + cache.least() * cache.page_bytes - memory.bytes();
            memory.merge(self.make_room(least, plan.name)?);
            let free = memory.bytes() - fixed + self.inner.budget.free();
            pages = cache.pages(free, 1, options.kv_share_percent);
            memory.resize(fixed + pages * cache.page_bytes)?;
        }
        let hand_over = |resident| self.inner.inbox.leave_command(Command::Load(Box::new(resident)));
        self.add_to_running(Prepared { model, pages, pinned: plan.pinned, memory }, hand_over)?;
        Ok(info)
    }

    /// Gives a model to the thread that runs, which also has to see what becomes of the one of its name.
    fn add_to_running(
        &self,
        prepared: Prepared,
        hand_over: impl FnOnce(Resident) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        add(&self.inner.residents, prepared, &self.inner.options, hand_over)?;
        // After all changes: what the thread does not see before it parks, nobody would tell it again.
        self.inner.inbox.wake();
        Ok(())
    }

    /// Takes a model out: new requests are refused, `mode` says what becomes of those it has.
    ///
    /// # Errors
    /// `UnknownModel`; `ModelUnloading` when it is on its way out already.
    pub fn unload(&self, name: &str, mode: UnloadMode) -> Result<Unloading, EngineError> {
        let served = self.inner.residents.unload(name, mode)?;
        self.inner.inbox.wake();
        let residents = Arc::clone(&self.inner.residents);
        Ok(Unloading { residents, instance: served.instance, bytes: served.bytes() })
    }

    /// Every model that takes memory, those being unloaded included.
    pub fn residents(&self) -> Vec<ModelStatus> {
        self.inner.residents.statuses()
    }

    /// Reserves memory, waiting for models that are going and unloading idle ones, unused for longest first,
    /// as far as needed.
    fn make_room(&self, bytes: usize, name: &str) -> Result<Reservation, EngineError> {
        loop {
            let refusal = match self.inner.budget.reserve(bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(refusal) => refusal,
            };
            let missing = bytes.saturating_sub(self.inner.budget.free());
            let Some(going) = self.inner.residents.make_way(missing, name) else {
                return Err(self.of_swap(refusal, name));
            };
            self.inner.inbox.wake();
            if !self.inner.residents.wait_gone(going.instance, FREED_WITHIN) {
                return Err(refusal);
            }
        }
    }
}

/// A model with its memory.
pub(crate) struct Prepared {
    model: LoadedModel,
    pages: usize,
    pinned: bool,
    memory: Reservation,
}

/// Reserves the memory of models that are there from the start: all weights, then an even share of what
/// is left for each cache.
pub(crate) fn prepare_all(
    models: Vec<LoadedModel>,
    options: &EngineOptions,
    budget: &MemoryBudget,
) -> Result<Vec<Prepared>, EngineError> {
    let mut prepared = Vec::with_capacity(models.len());
    for model in models {
        let memory = budget.reserve(model.weight_bytes() + copies_bytes(&model, options))?;
        prepared.push(Prepared { model, pages: 0, pinned: options.pin_first_models, memory });
    }
    let is_decoder = |one: &&Prepared| matches!(one.model.network, Network::Decoder(_));
    let (decoders, free) = (prepared.iter().filter(is_decoder).count(), budget.free());
    for Prepared { model, pages, memory, .. } in &mut prepared {
        let Network::Decoder(_) = &model.network else { continue };
        let cache = CacheWish::new(model.page_bytes(), model.info.context_tokens, options)?;
        *pages = cache.pages(free, decoders, options.kv_share_percent).max(cache.least());
        memory.merge(budget.reserve(*pages * cache.page_bytes)?);
    }
    Ok(prepared)
}

/// Puts a model in the table and gives it to the engine's thread.
pub(crate) fn add(
    residents: &Residents,
    prepared: Prepared,
    options: &EngineOptions,
    hand_over: impl FnOnce(Resident) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let Prepared { mut model, pages, pinned, memory } = prepared;
    let unwritten = std::mem::take(&mut model.unwritten);
    let weight_bytes = model.weight_bytes();
    let vocabulary = match &model.network {
        Network::Decoder(network) => network.vocabulary(),
        Network::Encoder(network) => network.vocabulary(),
    };
    let kv_bytes = memory.bytes() - weight_bytes;
    // Here, as public prefixes are rendered and tokenised for it, which the engine's thread has no time for.
    let reception = match &model.network {
        Network::Decoder(network) => {
            let prefixes = Prefixes::new(&model.identity, network.kv_layout(), &model.info, &options.prefix);
            Some(Reception::new(prefixes, std::mem::take(&mut model.eos_tokens), options.speculation))
        }
        Network::Encoder(_) => None,
    };
    let info = model.info.clone();
    let new = NewServed { info, vocabulary, pages, reception, kv_bytes, weight_bytes, pinned };
    residents.add(new, |served| hand_over(Resident { model, served, memory }))?;
    unwritten.into_iter().for_each(PackedWriter::start);
    Ok(())
}

/// What copies of pages take that are on their way to the page store and from it. A draft model's stay here.
fn copies_bytes(model: &LoadedModel, options: &EngineOptions) -> usize {
    match &model.network {
        Network::Decoder(network) if options.prefix.enabled && options.prefix.store.is_some() => {
            let page_bytes = network.kv_layout().page_bytes();
            DiskLimits::of(page_bytes).copies_max() * page_bytes
        }
        _ => 0,
    }
}

/// How many pages a model's cache would like to have.
struct CacheWish {
    page_bytes: usize,
    /// No more than its running sequences can fill, or the options allow.
    most: usize,
    /// A whole context.
    context: usize,
}

impl CacheWish {
    fn new(
        page_bytes: usize,
        context_tokens: usize,
        options: &EngineOptions,
    ) -> Result<CacheWish, EngineError> {
        let page_bytes = page_bytes.max(1);
        let context = context_tokens.div_ceil(PAGE_TOKENS);
        let filled = context.saturating_mul(options.running_sequences_max.max(1));
        let most = (options.kv_bytes_max / page_bytes).min(filled);
        if most == 0 {
            let reason = format!("must be at least {page_bytes}, the size of one page of this model");
            return Err(EngineError::InvalidParameter { parameter: "kv_bytes_max", reason });
        }
        Ok(CacheWish { page_bytes, most, context })
    }

    /// Without this much it is not loaded at all.
    fn least(&self) -> usize {
        self.most.min(self.context).min(CONTEXT_TOKENS_MIN / PAGE_TOKENS)
    }

    /// Pages out of `free` bytes that `models` share: a percentage, or all of one context where that is
    /// more.
    fn pages(&self, free: usize, models: usize, share_percent: usize) -> usize {
        let own = free / models.max(1) / self.page_bytes;
        let share = (own as u128 * share_percent.min(100) as u128 / 100) as usize;
        self.most.min(share.max(own.min(self.context)))
    }
}

#[cfg(test)]
mod tests;
