//! One chat model on the engine's thread: its network, cache, scheduler and running requests.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::{KvCache, Tensor};

use super::active::{ActiveRequest, End};
use super::arrival::Generation;
use super::choosing::Choosing;
use super::disk::Disk;
use super::draft::DraftModel;
use super::guessing::Guessing;
use super::{Counters, panic_text};
use crate::batch::{Batch, Decoder};
use crate::handle::EngineStats;
use crate::pages::PagePool;
use crate::request::FinishReason;
use crate::scheduler::turns::Payer;
use crate::scheduler::{Actions, DiskLimits, Scheduler, SchedulerEvent, SchedulerLimits, SequenceId};
use crate::tokenizer::Tokenizer;
use crate::{Caller, EngineOptions, StepClock};

/// Prompt rows of whole-vocabulary logits in one step: 32 rows of 262,144 tokens are 32 MiB.
const SCORED_ROWS_MAX: usize = 32;

/// Freed pages zeroed beside a step: more than a step fills, little beside what it computes.
const SCRUB_PAGES_MAX: usize = 32;
const IDLE_SCRUB_PAGES_MAX: usize = 128;

pub(super) struct GenerationRunner {
    network: Box<dyn Decoder>,
    kv: KvCache,
    scheduler: Scheduler,
    tokenizer: Arc<Tokenizer>,
    started: Instant,
    clock: StepClock,
    requests: BTreeMap<SequenceId, ActiveRequest>,
    next_id: u64,
    disk: Option<Disk>,
    /// The step's, then the memory for those of the next.
    actions: Actions,
    /// What the scheduler has not been told yet.
    events: Vec<SchedulerEvent>,
    /// Sequences that the step being run finishes. The scheduler hears of them after the step itself, so
    /// that the pages their last rows filled are sealed first.
    finished: Vec<SequenceId>,
    logits: Tensor,
    choosing: Choosing,
    /// Requests that the step being run ends.
    ends: Vec<(SequenceId, End)>,
    guessing: Guessing,
}

impl GenerationRunner {
    pub fn new(
        network: Box<dyn Decoder>,
        kv: KvCache,
        choosing: Choosing,
        tokenizer: Arc<Tokenizer>,
        draft: Option<DraftModel>,
        store_folder: [u8; 32],
        options: &EngineOptions,
        started: Instant,
    ) -> GenerationRunner {
        let page_bytes = kv.layout().page_bytes();
        let store = options.prefix.store.as_ref().filter(|_| options.prefix.enabled);
        let limits = SchedulerLimits {
            pages: kv.pages(),
            running_sequences_max: options.running_sequences_max,
            step_tokens_max: options.step_tokens_max,
            mixed_prefill_tokens_max: options.mixed_prefill_tokens_max,
            prefill_time_max: options.prefill_time_max,
            mixed_prefill_time_max: options.mixed_prefill_time_max,
            scored_rows_max: SCORED_ROWS_MAX,
            scrub_pages_max: SCRUB_PAGES_MAX,
            idle_scrub_pages_max: IDLE_SCRUB_PAGES_MAX,
            share_prefixes: options.prefix.enabled,
            disk: store.map(|_| DiskLimits::of(page_bytes)),
            stalled_client_max: options.stalled_client_max,
        };
        let disk = store.map(|store| Disk::new(store.client(store_folder, page_bytes)));
        GenerationRunner {
            network,
            kv,
            scheduler: Scheduler::new(limits),
            tokenizer,
            started,
            clock: options.step_clock.clone(),
            requests: BTreeMap::new(),
            next_id: 0,
            disk,
            actions: Actions::default(),
            events: Vec::new(),
            finished: Vec::new(),
            logits: Tensor::default(),
            choosing,
            ends: Vec::new(),
            guessing: Guessing::new(options.speculation, draft),
        }
    }

    pub fn accept(&mut self, generation: Generation) {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let (active, arrived) = generation.arrive(id);
        self.choosing.reserve(&active);
        self.requests.insert(id, active);
        self.events.push(arrived);
    }

    /// Takes in what happened, to know who wants a step.
    pub fn take_in(&mut self, counters: &mut Counters) {
        self.watch_clients(counters);
        if let Some(disk) = &self.disk {
            disk.receive(&mut self.kv, &mut self.events);
        }
        self.scheduler.take_in(self.started.elapsed(), self.events.drain(..));
    }

    /// On whose behalf there is something to compute; some of them more than once.
    pub fn wanting(&self) -> impl Iterator<Item = &Caller> {
        self.scheduler.wanting()
    }

    /// On whose behalf the last step ran, and in which parts.
    pub fn served(&self) -> impl Iterator<Item = (Payer, f64)> {
        self.scheduler.served()
    }

    /// Another model ran for so long for a principal.
    pub fn served_elsewhere(&mut self, payer: &Payer, took: Duration) {
        self.scheduler.served_elsewhere(payer, took);
    }

    /// Runs one step. Returns whether there was anything to do.
    pub fn step(&mut self, counters: &mut Counters) -> bool {
        self.watch_clients(counters);
        if let Some(disk) = &self.disk {
            disk.receive(&mut self.kv, &mut self.events);
        }
        let mut actions = std::mem::take(&mut self.actions);
        self.scheduler.step_into(self.started.elapsed(), self.events.drain(..), &mut actions);
        self.follow(&actions, counters);
        if let Some(disk) = &self.disk {
            // Before what is written is zeroed.
            disk.write(&actions.spill, &self.kv, &mut self.events);
            disk.read(&actions.restore, &mut self.events);
        }
        actions.zero.iter().for_each(|&page| self.kv.zero_page(page));
        self.guessing.zero(&actions.zero);
        if !actions.batch.tokens.is_empty() {
            self.run(&actions, counters);
        }
        let worked = !actions.is_idle();
        self.actions = actions;
        worked
    }

    /// When to look again although nothing happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.scheduler.next_deadline().map(|deadline| self.started + deadline)
    }

    pub fn pages(&self) -> &PagePool {
        self.scheduler.pages()
    }

    /// Accepted and not ended.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Overwrites what is left of anybody's context.
    pub fn wipe(&mut self) {
        self.save_pages();
        self.kv.wipe();
        self.guessing.wipe();
    }

    #[cfg(test)]
    pub fn kv(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Panics when a model is unloaded and its cache holds anything.
    #[cfg(test)]
    fn check_wiped(&self) {
        if std::thread::current().name() == Some(super::held::UNLOAD_THREAD) {
            assert!((0..self.kv.pages() as u32).all(|page| self.kv.is_zeroed(page)), "a cache was not wiped");
        }
    }

    /// Gives up cached pages, to the disk as far as it takes them, and the memory of all free ones.
    pub fn give_up_cached(&mut self) {
        let actions = self.scheduler.give_up_cached();
        if let Some(disk) = &self.disk {
            disk.write(&actions.spill, &self.kv, &mut self.events);
        }
        self.guessing.zero(&actions.zero);
        for page in self.scheduler.pages().clean() {
            self.kv.release_page(page);
        }
    }

    /// Adds its sequences to the gauges.
    pub fn count(&self, stats: &mut EngineStats) {
        for (&id, request) in &self.requests {
            let band = &mut stats.bands[request.band() as usize];
            // One that was put back waits again.
            let running = usize::from(self.scheduler.is_running(id));
            stats.running_sequences += running;
            band.running_sequences += running;
            band.waiting_sequences += 1 - running;
        }
    }

    /// Ends everything.
    pub fn cancel_all(&mut self, reason: FinishReason, counters: &mut Counters) {
        let ids: Vec<SequenceId> = self.requests.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cancel(id, reason, counters));
    }

    /// Looks at every stream: whose client is gone, whose does not read, whose reads again.
    fn watch_clients(&mut self, counters: &mut Counters) {
        let mut gone = Vec::new();
        for (&id, request) in &mut self.requests {
            if request.is_abandoned() {
                gone.push(id);
            } else if request.update_paused() {
                self.events.push(match request.is_paused() {
                    true => SchedulerEvent::Paused { id },
                    false => SchedulerEvent::Resumed { id },
                });
            }
        }
        gone.into_iter().for_each(|id| self.cancel(id, FinishReason::Cancelled, counters));
    }

    fn follow(&mut self, actions: &Actions, counters: &mut Counters) {
        let now = Instant::now();
        for id in &actions.admitted {
            if let Some(request) = self.requests.get_mut(id) {
                request.admit(now);
                counters.prompt_tokens += request.prompt_tokens() as u64;
                counters.band(request.band()).prompt_tokens += request.prompt_tokens() as u64;
            }
        }
        for reused in &actions.reused {
            if let Some(request) = self.requests.get_mut(&reused.id) {
                counters.prefix_hits += u64::from(request.reuse(reused.tokens));
                counters.reused_prompt_tokens += reused.tokens as u64;
            }
        }
        counters.preemptions += actions.preempted.len() as u64;
        for &id in &actions.stalled {
            tracing::info!(sequence = id.0, "cancelled: its client reads no more");
            self.cancel(id, FinishReason::Cancelled, counters);
        }
    }

    fn run(&mut self, actions: &Actions, counters: &mut Counters) {
        counters.steps += 1;
        let before = self.clock.now();
        let computed = catch_unwind(AssertUnwindSafe(|| {
            forward(self.network.as_mut(), &actions.batch, &mut self.kv, &mut self.logits);
            let (rows, took) = (actions.batch.tokens.len(), self.clock.now() - before);
            // Before what follows from the outputs: a sequence that ends now leaves its pages to others.
            let ran = self.events.len();
            self.events.push(SchedulerEvent::Ran { rows, took });
            self.guessing.begin_step(&actions.outputs, &self.requests, counters);
            self.answer(actions, counters);
            self.guessing.end_step(actions, took, &mut self.requests, &mut self.events, counters);
            // With what a draft model did beside it.
            self.events[ran] = SchedulerEvent::Ran { rows, took: self.clock.now() - before };
        }));
        self.events.extend(self.finished.drain(..).map(|id| SchedulerEvent::Ended { id }));
        if let Err(panic) = computed {
            self.fail(&actions.sequences, &panic_text(panic), counters);
        }
    }

    /// Uses the step's logits: scores prompt tokens and chooses the next ones.
    fn answer(&mut self, actions: &Actions, counters: &mut Counters) {
        let GenerationRunner { choosing, guessing, requests, logits, tokenizer, events, ends, .. } = self;
        // Of a step that panicked.
        ends.clear();
        choosing.choose(&actions.outputs, requests, logits, tokenizer, |part| {
            guessing.chosen(&part);
            let ends_by_token = part.end.as_ref().is_some_and(|end| end.chose_token);
            let generated = (part.tokens().len() + usize::from(ends_by_token)) as u64;
            counters.generated_tokens += generated;
            counters.band(part.request.band()).generated_tokens += generated;
            events.extend(part.tokens().iter().map(|&token| SchedulerEvent::Sampled { id: part.id, token }));
            ends.extend(part.end.map(|end| (part.id, end)));
        });
        counters.finished_requests += self.ends.len() as u64;
        for (id, end) in self.ends.drain(..) {
            let request = self.requests.remove(&id).expect("it was just used");
            self.finished.push(id);
            request.finish(end, Instant::now());
        }
    }

    /// Writes cached pages that are only in memory, once.
    fn save_pages(&mut self) {
        if let Some(disk) = self.disk.take() {
            // Whoever has ended leaves pages in the order in which they are worth keeping.
            self.scheduler.take_in(self.started.elapsed(), self.events.drain(..));
            disk.save(&self.scheduler.unsaved_pages(), &self.kv);
        }
    }

    /// How many pages were read back from disk.
    pub fn restored_pages(&self) -> u64 {
        self.scheduler.restored_pages()
    }

    /// Ends one request early.
    fn cancel(&mut self, id: SequenceId, reason: FinishReason, counters: &mut Counters) {
        if let Some(request) = self.remove(id) {
            counters.cancelled_requests += 1;
            request.finish(End::early(reason), Instant::now());
        }
    }

    /// The network broke in the middle of a step: what it left in the cache for the sequences of that
    /// step is in doubt, so those end. The others and the engine go on.
    fn fail(&mut self, ids: &[SequenceId], reason: &str, counters: &mut Counters) {
        tracing::error!(reason, requests = ids.len(), "a model failed in the middle of a step");
        for &id in ids {
            if let Some(request) = self.remove(id) {
                counters.failed_requests += 1;
                request.fail(format!("the model failed: {reason}"));
            }
        }
    }

    fn remove(&mut self, id: SequenceId) -> Option<ActiveRequest> {
        let request = self.requests.remove(&id)?;
        self.events.push(SchedulerEvent::Ended { id });
        Some(request)
    }
}

impl Drop for GenerationRunner {
    fn drop(&mut self) {
        self.save_pages();
        #[cfg(test)]
        self.check_wiped();
    }
}

fn forward(network: &mut dyn Decoder, batch: &Batch, kv: &mut KvCache, logits: &mut Tensor) {
    network.forward(batch, kv, logits);
    assert_eq!(logits.rows(), batch.logit_rows.len(), "one row of logits for each wanted row");
}
