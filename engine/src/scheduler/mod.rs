//! Decides what the next step of one model computes. Pure: no threads, no clock, no input or output;
//! [`Scheduler::step`] takes the time and what happened, and returns plain data.
//!
//! * A step has a budget of tokens, and of time as far as earlier steps tell it. Running streams decode
//!   first, one row each; prompts share the rest in chunks: half of it for the oldest, so that no prompt
//!   starves, and the other half for those that got least so far, so that a newcomer starts at once beside
//!   a long prompt.
//! * A sequence is admitted when there are pages for all of its prompt, in the order that `fairness/`
//!   says, one whose prompt is cached a little before its turn. The last places and pages are kept for
//!   principals that have nothing running.
//! * When pages run out, the weakest sequence gives up its own and is computed again later, under its
//!   old rank: first those whose client does not read, then those that have not answered yet, then
//!   the less urgent, then the latest. The strongest always goes on, so everything admitted ends.
//! * A sequence that has not answered yet also gives way, once, to one of a more urgent band that finds
//!   no room.
//! * A sequence whose client does not read is skipped, and reported when it lasts too long.
//!
//! | file | what is in it |
//! |---|---|
//! | `sequence.rs` | one generation's state |
//! | `pace.rs` | how many tokens fit into a step's time |
//! | `fairness/` | whom to serve next |
//! | `admit.rs` | who gets a place and pages, and who gives them up |
//! | `plan.rs` | who gets how many rows of a step, and the pages for them |
//! | `turns.rs` | which model computes next, and for how long |
//! | `disk.rs` | pages on disk: which to write, which to read back |
//! | `prefix.rs` | pages of prefixes that were computed before, or are right now |
//! | `simulation.rs` | seeded tests over arrivals, cancels, pauses and full memory |

mod admit;
mod disk;
mod fairness;
mod pace;
mod plan;
mod prefix;
mod sequence;
#[cfg(test)]
mod simulation;
pub(crate) mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use self::disk::Disk;
pub use self::disk::DiskLimits;
use self::fairness::{AccountId, Fairness};
pub use self::pace::Pace;
use self::pace::Price;
use self::plan::Grant;
pub use self::prefix::Reused;
use self::sequence::Sequence;
pub use self::sequence::{ROOM_TOKENS, SequenceId, pages_with_room};
use self::turns::Payer;
use crate::Caller;
use crate::batch::{Batch, PageTables};
use crate::pages::{Chain, ChainHash, NamedPage, PagePool};
pub use crate::speculation::Guesses;

/// Bounds of one scheduler. [`Scheduler::new`] raises `step_tokens_max` where it must.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Pages of the model's cache.
    pub pages: usize,
    pub running_sequences_max: usize,
    pub step_tokens_max: usize,
    /// Prompt tokens in a step that also decodes.
    pub mixed_prefill_tokens_max: usize,
    /// Time for prompt tokens in a step: while one principal is alone and nothing decodes, and otherwise.
    pub prefill_time_max: Duration,
    pub mixed_prefill_time_max: Duration,
    /// Prompt rows with logits in one step: each is a row of the whole vocabulary.
    pub scored_rows_max: usize,
    /// Freed pages zeroed beside a step, and when there is nothing else to do.
    pub scrub_pages_max: usize,
    pub idle_scrub_pages_max: usize,
    /// Keep full pages for those who come with the same tokens.
    pub share_prefixes: bool,
    /// Pages can be written to disk and read back, so many at a time.
    pub disk: Option<DiskLimits>,
    /// A sequence paused this long is reported in [`Actions::stalled`].
    pub stalled_client_max: Duration,
}

/// What happened since the last step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchedulerEvent {
    Arrived {
        /// Greater than all before it.
        id: SequenceId,
        caller: Caller,
        /// Not empty, and together with what will be generated within the pool.
        prompt: Vec<u32>,
        /// Whether the logits of all prompt rows are wanted.
        score_prompt: bool,
        /// Whose pages it may share, and its own names as far as they are made.
        chain: Chain,
    },
    /// The token chosen for a [`OutputKind::Next`] row; the sequence goes on with it.
    Sampled {
        id: SequenceId,
        token: u32,
    },
    /// What may come after the token sampled last, to be computed with it as far as there is room;
    /// replaces earlier guesses. Nothing depends on a guess but the time it saves or costs.
    Guessed {
        id: SequenceId,
        tokens: Guesses,
    },
    /// Finished, failed or cancelled, in whatever state. Its pages are free at once.
    Ended {
        id: SequenceId,
    },
    /// The client's buffer is full.
    Paused {
        id: SequenceId,
    },
    Resumed {
        id: SequenceId,
    },
    /// The last step's batch of so many rows took this long. Comes before what follows from its outputs;
    /// without it, the step has failed and its sequences have ended.
    Ran {
        rows: usize,
        took: Duration,
    },
    /// A page of this name is on disk from earlier.
    Stored {
        hash: ChainHash,
    },
    /// It is there no more.
    Unstored {
        hash: ChainHash,
    },
    /// A page of [`Actions::spill`] was written, or was not.
    SpillEnded {
        hash: ChainHash,
        stored: bool,
    },
    /// A page of [`Actions::restore`] was filled with what was found on disk, or is as it was.
    Restored {
        hash: ChainHash,
        found: bool,
        took: Duration,
    },
}

/// What to do now: copy the pages to be written, zero those to be zeroed, run the batch, choose tokens for
/// its outputs.
#[derive(Clone, Debug, Default)]
pub struct Actions {
    /// Pages to be written to disk. Each is answered by [`SchedulerEvent::SpillEnded`].
    pub spill: Vec<NamedPage>,
    /// Pages to be filled from disk, in later steps. Each is answered by [`SchedulerEvent::Restored`].
    pub restore: Vec<NamedPage>,
    pub zero: Vec<u32>,
    pub batch: Batch,
    /// Whose rows they are: one entry for each of `batch.sequences`.
    pub sequences: Vec<SequenceId>,
    /// One entry for each of `batch.logit_rows`.
    pub outputs: Vec<Output>,
    /// Prompt tokens that need not be computed; for some sequences again and again.
    pub reused: Vec<Reused>,
    /// Sequences that run for the first time.
    pub admitted: Vec<SequenceId>,
    /// Sequences that lost their pages and will be computed again.
    pub preempted: Vec<SequenceId>,
    /// Sequences paused for too long; the caller ends them.
    pub stalled: Vec<SequenceId>,
}

impl Actions {
    /// Empties them and keeps their memory.
    fn clear(&mut self, tables: &mut PageTables) {
        let Actions { spill, restore, zero, batch, sequences, outputs, .. } = self;
        tables.recycle(batch);
        spill.clear();
        restore.clear();
        zero.clear();
        sequences.clear();
        outputs.clear();
        self.reused.clear();
        self.admitted.clear();
        self.preempted.clear();
        self.stalled.clear();
    }

    /// Nothing to do until the next event.
    pub fn is_idle(&self) -> bool {
        self.zero.is_empty()
            && self.batch.tokens.is_empty()
            && self.stalled.is_empty()
            && self.spill.is_empty()
            && self.restore.is_empty()
    }
}

/// Whose logits a row of the step's result holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    pub id: SequenceId,
    pub kind: OutputKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The token at `position + 1` of the prompt is known; its probability is wanted.
    Prompt { position: usize },
    /// The sequence's next token is to be chosen.
    Next,
    /// The token after a guess: to be chosen when `guess` is what was chosen from the row before.
    AfterGuess { guess: u32 },
}

#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    pool: PagePool,
    pace: Pace,
    price: Price,
    /// Tokens before those of the last step, summed over them.
    step_pairs: usize,
    fairness: Fairness,
    disk: Disk,
    /// Of the last step.
    now: Duration,
    /// Those with pages, by rank.
    running: BTreeMap<SequenceId, Sequence>,
    /// Those without, by rank: new ones and preempted ones.
    waiting: BTreeMap<SequenceId, Sequence>,
    // Kept from step to step for their memory alone.
    tables: PageTables,
    decoding: Vec<SequenceId>,
    grants: Vec<Grant>,
}

impl Scheduler {
    pub fn new(limits: SchedulerLimits) -> Scheduler {
        // Every running stream can decode in every step, with room for a prompt beside them.
        let step_tokens_min = limits.running_sequences_max + kernels::PAGE_TOKENS;
        let limits = SchedulerLimits {
            running_sequences_max: limits.running_sequences_max.max(1),
            step_tokens_max: limits.step_tokens_max.max(step_tokens_min),
            mixed_prefill_tokens_max: limits.mixed_prefill_tokens_max.max(1),
            scored_rows_max: limits.scored_rows_max.max(1),
            ..limits
        };
        Scheduler {
            pool: PagePool::new(limits.pages),
            limits,
            pace: Pace::default(),
            price: Price::default(),
            step_pairs: 0,
            fairness: Fairness::default(),
            disk: Disk::default(),
            now: Duration::ZERO,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            tables: PageTables::default(),
            decoding: Vec::new(),
            grants: Vec::new(),
        }
    }

    /// Takes in `events` and plans the next step. `now` only ever grows.
    pub fn step(&mut self, now: Duration, events: impl IntoIterator<Item = SchedulerEvent>) -> Actions {
        let mut actions = Actions::default();
        self.step_into(now, events, &mut actions);
        actions
    }

    /// [`Scheduler::step`] in place of what `actions` held, whose memory it uses again: a step of sequences
    /// that all decode allocates nothing.
    pub fn step_into(
        &mut self,
        now: Duration,
        events: impl IntoIterator<Item = SchedulerEvent>,
        actions: &mut Actions,
    ) {
        self.take_in(now, events);
        self.pool.advance(now);
        actions.clear(&mut self.tables);
        self.find_stalled(now, &mut actions.stalled);
        self.fairness.begin_step(now);
        while self.admit_next(now, actions) {}
        self.plan(actions);
        let pairs = |rows: &kernels::PagedRows| rows.rows * rows.past + rows.rows * rows.rows / 2;
        self.step_pairs = actions.batch.sequences.iter().map(pairs).sum();
        let idle = actions.batch.tokens.is_empty();
        let scrub = if idle { self.limits.idle_scrub_pages_max } else { self.limits.scrub_pages_max };
        self.pool.scrub(scrub, &mut actions.zero);
        self.plan_spills(actions);
    }

    /// Takes in `events` alone, to know who wants a step.
    pub fn take_in(&mut self, now: Duration, events: impl IntoIterator<Item = SchedulerEvent>) {
        self.now = now;
        for event in events {
            self.apply(now, event);
        }
    }

    /// On whose behalf there is something to compute; some of them more than once.
    pub fn wanting(&self) -> impl Iterator<Item = &Caller> {
        let wants = |sequence: &&Sequence| sequence.is_runnable();
        let mut last: Option<AccountId> = None;
        let callers = self.running.values().chain(self.waiting.values()).filter(wants);
        callers.filter_map(move |sequence| {
            (last.replace(sequence.account) != Some(sequence.account)).then_some(&sequence.caller)
        })
    }

    /// On whose behalf the last step ran, and in which parts.
    pub fn served(&self) -> impl Iterator<Item = (Payer, f64)> {
        let total: u64 = self.fairness.step_costs().map(|(_, cost)| cost).sum();
        self.fairness.step_costs().map(move |(payer, cost)| (payer, cost as f64 / total as f64))
    }

    /// Another model ran for so long for a principal: its service counts here too, as the tokens that this
    /// model computes in that time.
    pub fn served_elsewhere(&mut self, payer: &Payer, took: Duration) {
        self.fairness.charge_elsewhere(payer.band, &payer.principal, self.price.tokens(took));
    }

    /// Between steps: names cached pages to be written, as far as there is room for them on their way, and all
    /// pages to be zeroed. Nothing is cached after it.
    pub fn give_up_cached(&mut self) -> Actions {
        let mut actions = Actions::default();
        self.pool.evict_all();
        self.plan_spills(&mut actions);
        self.pool.scrub(usize::MAX, &mut actions.zero);
        actions
    }

    /// When a paused sequence has to be reported or one stops waiting for the disk, if nothing else happens
    /// before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let paused = self.sequences().filter_map(|(_, sequence)| sequence.paused_since).min();
        let stalled = paused.map(|since| since + self.limits.stalled_client_max);
        stalled.into_iter().chain(self.disk.next_deadline(self.now)).min()
    }

    pub fn pages(&self) -> &PagePool {
        &self.pool
    }

    /// Whether a sequence has a place and pages.
    pub fn is_running(&self, id: SequenceId) -> bool {
        self.running.contains_key(&id)
    }

    /// New and preempted sequences.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn apply(&mut self, now: Duration, event: SchedulerEvent) {
        match event {
            SchedulerEvent::Arrived { id, caller, prompt, score_prompt, chain } => {
                assert!(!prompt.is_empty(), "requests with an empty prompt are refused");
                let account = self.fairness.open(&caller);
                self.waiting.insert(id, Sequence::new(caller, account, prompt, score_prompt, chain));
                self.fairness.wait(account, id);
            }
            SchedulerEvent::Sampled { id, token } => {
                if let Some(sequence) = self.get_mut(id)
                    && sequence.push(token)
                {
                    // A guess that was right leads to one more token than the step was charged for.
                    let account = sequence.account;
                    self.fairness.charge_output(account);
                }
            }
            SchedulerEvent::Guessed { id, tokens } => {
                if let Some(sequence) = self.get_mut(id) {
                    sequence.guesses = tokens;
                }
            }
            SchedulerEvent::Ended { id } => self.end(id, now),
            SchedulerEvent::Paused { id } => {
                if let Some(sequence) = self.get_mut(id) {
                    sequence.paused_since.get_or_insert(now);
                    let account = sequence.account;
                    self.fairness.leave(account, id);
                }
            }
            SchedulerEvent::Resumed { id } => {
                if let Some(sequence) = self.get_mut(id) {
                    sequence.paused_since = None;
                    self.wait(id);
                }
            }
            SchedulerEvent::Ran { rows, took } => {
                self.pace.observe(rows, self.step_pairs, took);
                self.price.observe(self.fairness.step_costs().map(|(_, cost)| cost).sum(), took);
                self.seal_filled_pages();
            }
            SchedulerEvent::Stored { hash } => self.disk.stored(hash),
            SchedulerEvent::Unstored { hash } => self.disk.unstored(&hash),
            SchedulerEvent::SpillEnded { hash, stored } => self.disk.spill_ended(&hash, stored),
            SchedulerEvent::Restored { hash, found, took } => self.end_restore(&hash, found, took),
        }
    }

    fn end(&mut self, id: SequenceId, now: Duration) {
        let sequence = if let Some(mut sequence) = self.running.remove(&id) {
            let keep = sequence.chain.keep();
            sequence.pages[..sequence.sealed].iter().for_each(|&page| self.pool.keep(page, keep));
            self.pool.release(&mut sequence.pages);
            self.fairness.yield_place(sequence.account);
            sequence
        } else if let Some(sequence) = self.waiting.remove(&id) {
            self.fairness.leave(sequence.account, id);
            sequence
        } else {
            return;
        };
        if sequence.admitted {
            self.fairness.refund(sequence.account, sequence.prompt_unreached());
        }
        self.fairness.end(sequence.account, now);
    }

    fn find_stalled(&self, now: Duration, stalled: &mut Vec<SequenceId>) {
        let expired = |sequence: &Sequence| {
            sequence.paused_since.is_some_and(|since| since + self.limits.stalled_client_max <= now)
        };
        stalled.extend(self.sequences().filter(|(_, sequence)| expired(sequence)).map(|(id, _)| id));
    }

    fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.running.get_mut(&id).or_else(|| self.waiting.get_mut(&id))
    }

    fn sequences(&self) -> impl Iterator<Item = (SequenceId, &Sequence)> {
        self.running.iter().chain(&self.waiting).map(|(&id, sequence)| (id, sequence))
    }
}
