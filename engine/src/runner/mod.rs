//! The engine's thread: it owns every model's network and cache, and does all the work.
//!
//! Models share the cores in turn, a step of a chat model or a slice of an embedding model each, as
//! `scheduler/turns.rs` says. With nothing to do the thread parks until a caller, or a client that reads
//! again, wakes it.
//!
//! | file | what is in it |
//! |---|---|
//! | `generation.rs` | a chat model: scheduler, forward, sampling |
//! | `disk.rs` | pages to and from the page store |
//! | `choosing.rs` | what a step's logits lead to, sequence by sequence on all threads |
//! | `arrival.rs` | a generation made ready on its caller's thread |
//! | `active.rs` | one running generation |
//! | `draft.rs` | a small model that guesses for a large one |
//! | `guessing.rs` | guesses of a step: asked for, compared, counted |
//! | `text.rs` | tokens to text, stop strings |
//! | `stream.rs` | the sending end of an event stream |
//! | `embedding.rs` | an embedding model |
//! | `held.rs` | a model's arrival, memory and end |

mod active;
mod arrival;
mod choosing;
mod disk;
mod draft;
mod embedding;
mod generation;
mod guessing;
mod held;
mod stream;
#[cfg(test)]
mod tests;
mod text;

use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use self::arrival::{Generation, Reception};
pub(crate) use self::embedding::Embedding;
use self::embedding::EmbeddingRunner;
use self::generation::GenerationRunner;
pub(crate) use self::held::Resident;
use self::held::{HeldModel, spawn_unload};
#[cfg(test)]
pub(crate) use self::stream::EventSender;
pub(crate) use self::stream::{StreamShared, event_channel};
use crate::handle::{BandStats, EngineStats};
use crate::inbox::{Command, Inbox, Intake};
use crate::residents::{ModelLease, Residents};
use crate::scheduler::turns::{Kind, Payer, Turn, TurnLimits, Turns};
use crate::watch::MemoryWatch;
use crate::{Band, EngineOptions};

/// Until a model that got no thread to be freed on tries again.
const UNLOAD_RETRY: Duration = Duration::from_millis(200);

/// Everything the thread owns.
pub(crate) struct Runner {
    models: Vec<HeldModel>,
    residents: Arc<Residents>,
    /// Threads that free models.
    freeing: Vec<JoinHandle<()>>,
    inbox: Arc<Inbox>,
    stats: Arc<Mutex<EngineStats>>,
    watch: Arc<MemoryWatch>,
    counters: Counters,
    turns: Turns,
    /// What the last turn took, by those it served.
    costs: Vec<(Payer, Duration)>,
    options: EngineOptions,
    started: Instant,
}

enum ModelRunner {
    Generate(Box<GenerationRunner>),
    Embed(Box<EmbeddingRunner>),
}

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    prompt_tokens: u64,
    reused_prompt_tokens: u64,
    generated_tokens: u64,
    embedded_tokens: u64,
    finished_requests: u64,
    cancelled_requests: u64,
    failed_requests: u64,
    preemptions: u64,
    steps: u64,
    guessed_tokens: u64,
    accepted_guesses: u64,
    drafted_guesses: u64,
    accepted_drafts: u64,
    prefix_hits: u64,
    /// Of models that are gone; each that is here counts its own.
    evictions: u64,
    restored_pages: u64,
    /// Tokens only.
    bands: [BandStats; Band::ALL.len()],
}

impl Runner {
    pub fn new(
        inbox: Arc<Inbox>,
        residents: Arc<Residents>,
        stats: Arc<Mutex<EngineStats>>,
        watch: Arc<MemoryWatch>,
        options: EngineOptions,
    ) -> Runner {
        let (models, freeing, counters) = (Vec::new(), Vec::new(), Counters::default());
        let turns = Turns::new(TurnLimits {
            embed_share: options.embed_share_percent as f64 / 100.0,
            embed_time_max: options.embed_time_max,
            mixed_embed_time_max: options.mixed_embed_time_max,
        });
        let (costs, started) = (Vec::new(), Instant::now());
        Runner { models, residents, freeing, inbox, stats, watch, counters, turns, costs, options, started }
    }

    pub fn add(&mut self, resident: Resident) {
        self.models.push(HeldModel::new(resident, Arc::clone(&self.residents), &self.options, self.started));
    }

    /// The thread's body: until the last handle is gone.
    pub fn run(mut self) {
        // However this function is left, nobody waits for it in vain.
        let _stop = StopOnDrop(Arc::clone(&self.inbox));
        self.inbox.set_thread(std::thread::current());
        self.models.iter().for_each(HeldModel::settle_thread);
        loop {
            let Intake { commands, drain_until, stopped } = self.inbox.take();
            commands.into_iter().for_each(|command| self.dispatch(command));
            let now = Instant::now();
            if stopped || drain_until.is_some_and(|deadline| deadline <= now) {
                self.cancel_all();
            }
            if stopped {
                return self.end();
            }
            if self.watch.wants_memory() {
                self.give_up_cached();
            }
            let worked = self.step();
            self.publish();
            self.free_models();
            if !worked {
                self.park(now, drain_until);
            }
        }
    }

    fn dispatch(&mut self, command: Command) {
        match command {
            Command::Generate(generation) => {
                if let Some(ModelRunner::Generate(runner)) = self.runner_of(&generation.model) {
                    runner.accept(*generation);
                }
            }
            Command::Embed(embedding) => {
                if let Some(ModelRunner::Embed(runner)) = self.runner_of(&embedding.model) {
                    runner.accept(embedding);
                }
            }
            Command::Load(resident) => {
                self.add(*resident);
                self.models.last().into_iter().for_each(HeldModel::settle_thread);
            }
        }
    }

    /// The runner a request is for. It is there: the request's lease keeps it.
    fn runner_of(&mut self, lease: &ModelLease) -> Option<&mut ModelRunner> {
        let served = lease.served();
        let held = self.models.iter_mut().find(|held| held.served.instance == served.instance)?;
        // Before the lease goes, so that the model is not taken for idle in between.
        served.gauges.requests.fetch_add(1, Ordering::SeqCst);
        Some(&mut held.runner)
    }

    /// One turn: a step of a chat model or a slice of an embedding model. Returns whether there was anything
    /// to do.
    fn step(&mut self) -> bool {
        if self.is_one_chat_model() {
            return self.step_chats();
        }
        let cleared = self.claim_turns();
        while let Some(turn) = self.turns.next() {
            if self.take(&turn) {
                return true;
            }
            self.turns.pass_over(turn.model);
        }
        cleared
    }

    /// Whether nobody but one chat model has requests: then all turns are its own.
    fn is_one_chat_model(&self) -> bool {
        let mut busy = self.models.iter().filter(|held| held.requests() > 0);
        let is_chat = |held: &HeldModel| matches!(held.runner, ModelRunner::Generate(_));
        busy.next().is_none_or(is_chat) && busy.next().is_none()
    }

    fn step_chats(&mut self) -> bool {
        let mut worked = false;
        for held in &mut self.models {
            if let ModelRunner::Generate(runner) = &mut held.runner {
                worked |= runner.step(&mut self.counters);
            }
        }
        worked
    }

    /// Says who wants turns. Chat models that have nothing to compute clear up meanwhile; returns whether any
    /// did.
    fn claim_turns(&mut self) -> bool {
        self.turns.begin();
        let mut cleared = false;
        for held in &mut self.models {
            let key = held.key();
            match &mut held.runner {
                ModelRunner::Generate(runner) => {
                    runner.take_in(&mut self.counters);
                    let mut wants = false;
                    for caller in runner.wanting() {
                        self.turns.claim(key, Kind::Chat, Payer::of(caller));
                        wants = true;
                    }
                    cleared |= !wants && runner.step(&mut self.counters);
                }
                ModelRunner::Embed(runner) => {
                    runner.claim(key, &mut self.turns, &mut self.counters);
                }
            }
        }
        cleared
    }

    /// Gives a model its turn and counts it for those it served. Returns whether it had anything to do.
    fn take(&mut self, turn: &Turn) -> bool {
        let Some(held) = self.models.iter_mut().find(|held| held.key() == turn.model) else { return false };
        let before = Instant::now();
        self.costs.clear();
        match &mut held.runner {
            ModelRunner::Generate(runner) => {
                if !runner.step(&mut self.counters) {
                    return false;
                }
                let took = before.elapsed();
                self.turns.chat_ran(took);
                self.costs.extend(runner.served().map(|(payer, part)| (payer, took.mul_f64(part))));
            }
            ModelRunner::Embed(runner) => {
                let ran = runner.step(turn, &mut self.turns, &mut self.counters);
                let Some(took) = ran else { return false };
                self.turns.embeddings_ran(took, turn);
                self.costs.extend(runner.payers().map(|(payer, part)| (payer.clone(), took.mul_f64(part))));
            }
        }
        for (payer, took) in &self.costs {
            self.turns.charge(turn.model, payer, *took);
            for held in self.models.iter_mut().filter(|held| held.key() != turn.model) {
                if let ModelRunner::Generate(runner) = &mut held.runner {
                    runner.served_elsewhere(payer, *took);
                }
            }
        }
        true
    }

    /// Prefixes kept for prompts to come go, and the memory of all free pages with them.
    fn give_up_cached(&mut self) {
        for held in &mut self.models {
            if let ModelRunner::Generate(runner) = &mut held.runner {
                runner.give_up_cached();
            }
        }
    }

    fn cancel_all(&mut self) {
        self.models.iter_mut().for_each(|held| held.cancel_all(&mut self.counters));
    }

    /// Lets go of models that are unloading and have nothing left to do.
    fn free_models(&mut self) {
        for held in self.models.iter_mut().filter(|held| held.served.is_cancelled()) {
            held.cancel_all(&mut self.counters);
        }
        let over: Vec<HeldModel> = self.models.extract_if(.., |held| held.is_over()).collect();
        for held in over {
            let key = held.key();
            let (evictions, restored_pages) = match &held.runner {
                ModelRunner::Generate(runner) => (runner.pages().evictions(), runner.restored_pages()),
                ModelRunner::Embed(_) => (0, 0),
            };
            match held.free_aside(spawn_unload) {
                Ok(thread) => {
                    self.turns.forget_model(key);
                    self.counters.evictions += evictions;
                    self.counters.restored_pages += restored_pages;
                    self.freeing.push(thread);
                }
                Err(held) => self.models.push(held),
            }
        }
        self.freeing.retain(|thread| !thread.is_finished());
    }

    fn end(self) {
        self.publish();
        for thread in self.freeing {
            // A panic there was reported where it happened.
            let _ = thread.join();
        }
    }

    /// Sleeps until woken, or until a client that does not read has to be given up or a drain ends.
    /// `now` is when drains were last looked at: one that ended since must not be slept through.
    fn park(&self, now: Instant, drain_until: Option<Instant>) {
        let stalls = self.models.iter().filter_map(|held| match &held.runner {
            ModelRunner::Generate(runner) => runner.next_deadline(),
            ModelRunner::Embed(_) => None,
        });
        // A drain that is over has nothing left to cancel.
        let drain_until = drain_until.filter(|&deadline| deadline > now);
        let retry = self.models.iter().any(HeldModel::is_over).then(|| now + UNLOAD_RETRY);
        match stalls.chain(drain_until).chain(retry).min() {
            Some(deadline) => std::thread::park_timeout(deadline.saturating_duration_since(Instant::now())),
            None => std::thread::park(),
        }
    }

    fn publish(&self) {
        let mut stats = self.counters.stats();
        for held in &self.models {
            held.publish();
            match &held.runner {
                ModelRunner::Generate(runner) => {
                    let pages = runner.pages();
                    stats.kv_pages_total += pages.total();
                    stats.kv_pages_used += pages.used();
                    stats.kv_pages_cached += pages.cached();
                    stats.kv_pages_retained += pages.retained();
                    stats.kv_evictions += pages.evictions();
                    stats.kv_pages_restored += runner.restored_pages();
                    runner.count(&mut stats);
                }
                ModelRunner::Embed(runner) => stats.embed_inputs_waiting += runner.inputs_waiting(),
            }
        }
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

impl Counters {
    fn band(&mut self, band: Band) -> &mut BandStats {
        &mut self.bands[band as usize]
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            prompt_tokens: self.prompt_tokens,
            reused_prompt_tokens: self.reused_prompt_tokens,
            generated_tokens: self.generated_tokens,
            embedded_tokens: self.embedded_tokens,
            finished_requests: self.finished_requests,
            cancelled_requests: self.cancelled_requests,
            failed_requests: self.failed_requests,
            preemptions: self.preemptions,
            steps: self.steps,
            guessed_tokens: self.guessed_tokens,
            accepted_guesses: self.accepted_guesses,
            drafted_guesses: self.drafted_guesses,
            accepted_drafts: self.accepted_drafts,
            prefix_hits: self.prefix_hits,
            kv_evictions: self.evictions,
            kv_pages_restored: self.restored_pages,
            bands: self.bands,
            ..EngineStats::default()
        }
    }
}

/// Marks the engine as stopped when its thread ends, by whatever way.
struct StopOnDrop(Arc<Inbox>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What a panic said.
fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown reason".to_owned())
}
