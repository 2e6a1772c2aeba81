//! Seeded simulation: arrivals, cancels, slow clients and full memory, against a cache that remembers
//! who wrote what. What holds of every step is in `checks.rs`, and `faults.rs` makes mistakes on purpose to see
//! that it is noticed. Who gets how much is in `shares.rs`, on the machine of `clients.rs`.
//! `SCHEDULER_SEED=n cargo test -p engine simulation` replays one seed.

mod checks;
mod clients;
mod disk;
mod early;
mod faults;
mod followers;
mod models;
mod shares;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use kernels::PAGE_TOKENS;

use self::checks::{check_idle, check_streams};
use self::faults::Fault;
use super::*;
use crate::pages::{ChainHash, Group, Keep, NamedPage, PrefixScope};
use crate::sampler::random::CounterRandom;

/// What a slot of the cache holds: a digest of the token, of all before it and of who may read it; and
/// who wrote it.
type Slot = Option<(u64, SequenceId)>;

struct Client {
    prompt_tokens: usize,
    max_new_tokens: usize,
    score_prompt: bool,
    tokens: Vec<u32>,
    scope: PrefixScope,
    /// What the slot of each of `tokens` holds.
    digests: Vec<u64>,
    /// Prompt tokens that were found in the cache.
    reused: usize,
    scored: usize,
    paused: bool,
    /// A guess of this step was wrong: so are those after it.
    guessed_wrong: bool,
}

impl Client {
    fn push(&mut self, token: u32) {
        self.digests.push(self.digest(&self.digests, token));
        self.tokens.push(token);
    }

    /// What the slot of a token holds after those of `before`.
    fn digest(&self, before: &[u64], token: u32) -> u64 {
        let PrefixScope { root, public_root, public_tokens, .. } = self.scope;
        let public = public_tokens / PAGE_TOKENS * PAGE_TOKENS;
        let reader = if before.len() < public { public_root } else { root };
        let mut hasher = DefaultHasher::new();
        (reader.0, before.last(), token).hash(&mut hasher);
        hasher.finish()
    }
}

/// Who may share with whom: two tenants, and what is public for both.
fn scope(tenant: usize, public_tokens: usize) -> PrefixScope {
    let (root, public_root) = (ChainHash([tenant as u8; 32]), ChainHash([255; 32]));
    let keep = match (tenant + public_tokens) % 3 {
        0 => Keep::Usual,
        1 => Keep::InMemory,
        _ => Keep::Retained(Group::new(root, "")),
    };
    PrefixScope { root, public_root, public_tokens, keep, shares: true }
}

struct World {
    random: CounterRandom,
    draws: u64,
    scheduler: Scheduler,
    limits: SchedulerLimits,
    cache: Vec<[Slot; PAGE_TOKENS]>,
    disk: BTreeMap<ChainHash, [Slot; PAGE_TOKENS]>,
    /// Pages that are being read, and whether they will be found.
    reads: Vec<(NamedPage, bool)>,
    clients: BTreeMap<SequenceId, Client>,
    events: Vec<SchedulerEvent>,
    arrived: u64,
    /// Prompts, some of which others begin with.
    spoken: Vec<Vec<u32>>,
    public: Vec<u32>,
    admitted: BTreeSet<SequenceId>,
    preemptions: usize,
    guesses_right: usize,
    reused: usize,
    restored: usize,
    failed_steps: usize,
    now: Duration,
    /// A mistake that it makes on purpose.
    fault: Option<Fault>,
}

impl World {
    fn new(seed: u64) -> World {
        let random = CounterRandom::new(seed);
        let mut world = World {
            random,
            draws: 0,
            scheduler: Scheduler::new(limits(1)),
            limits: limits(1),
            cache: Vec::new(),
            disk: BTreeMap::new(),
            reads: Vec::new(),
            clients: BTreeMap::new(),
            events: Vec::new(),
            arrived: 0,
            spoken: Vec::new(),
            public: (2000..2070).collect(),
            admitted: BTreeSet::new(),
            preemptions: 0,
            guesses_right: 0,
            reused: 0,
            restored: 0,
            failed_steps: 0,
            now: Duration::ZERO,
            fault: None,
        };
        let pages = 2 + world.below(30);
        world.limits = SchedulerLimits {
            running_sequences_max: 1 + world.below(12),
            step_tokens_max: 1 + world.below(200),
            mixed_prefill_tokens_max: 1 + world.below(100),
            prefill_time_max: Duration::from_millis(10 + world.below(500) as u64),
            mixed_prefill_time_max: Duration::from_millis(10 + world.below(500) as u64),
            share_prefixes: world.below(8) > 0,
            disk: (world.below(2) > 0).then(|| DiskLimits::of(1)),
            ..limits(pages)
        };
        world.scheduler = Scheduler::new(world.limits);
        world.limits = world.scheduler.limits;
        world.cache = vec![[None; PAGE_TOKENS]; pages];
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        self.draws += 1;
        (self.random.uniform(self.draws) * bound as f64) as usize
    }

    fn arrive(&mut self) {
        let capacity = self.limits.pages * PAGE_TOKENS;
        let room = if self.below(4) == 0 { capacity } else { capacity.min(100) };
        let prompt_tokens = 1 + self.below(room - 1);
        let max_new_tokens = 1 + self.below((capacity - prompt_tokens).min(80));
        let id = SequenceId(self.arrived);
        let prompt = self.prompt(prompt_tokens);
        let public_tokens = prompt.iter().zip(&self.public).take_while(|(a, b)| a == b).count();
        let scope = scope(self.below(2), public_tokens);
        let score_prompt = self.below(5) == 0;
        self.arrived += 1;
        let mut client = Client {
            prompt_tokens,
            max_new_tokens,
            score_prompt,
            scope,
            tokens: Vec::new(),
            digests: Vec::new(),
            reused: 0,
            scored: 0,
            paused: false,
            guessed_wrong: false,
        };
        prompt.iter().for_each(|&token| client.push(token));
        self.clients.insert(id, client);
        let caller = self.caller();
        self.events.push(SchedulerEvent::Arrived { id, caller, prompt, score_prompt, chain: scope.into() });
    }

    /// Tokens of which the first may be those of something said before, or public.
    fn prompt(&mut self, length: usize) -> Vec<u32> {
        let from = match (self.below(4), self.spoken.len()) {
            (0, _) => self.public.clone(),
            (1 | 2, said) if said > 0 => {
                let index = self.below(said);
                self.spoken[index].clone()
            }
            _ => Vec::new(),
        };
        let common = self.below(from.len() + 1).max(self.below(from.len() + 1)).min(length);
        let mut prompt = from[..common].to_vec();
        prompt.extend((common..length).map(|_| self.below(1000) as u32));
        self.spoken.push(prompt.clone());
        prompt
    }

    /// One of a few principals, mostly in the usual band.
    fn caller(&mut self) -> Caller {
        let principal = ["a", "b", "c", "d"][self.below(4)].into();
        let weight = std::num::NonZeroU32::new(1 + self.below(4) as u32).expect("at least 1");
        let band = fairness::BANDS[[0, 1, 1, 1, 2, 3][self.below(6)]];
        Caller { principal, weight, band, ..Caller::default() }
    }

    /// Ends, pauses or resumes somebody.
    fn disturb(&mut self) {
        let chosen = self.below(self.clients.len().max(1));
        let Some(&id) = self.clients.keys().nth(chosen) else { return };
        match self.below(3) {
            0 => self.end(id),
            _ => self.toggle_pause(id),
        }
    }

    fn toggle_pause(&mut self, id: SequenceId) {
        let client = self.clients.get_mut(&id).expect("a live client");
        client.paused = !client.paused;
        self.events.push(match client.paused {
            true => SchedulerEvent::Paused { id },
            false => SchedulerEvent::Resumed { id },
        });
    }

    fn end(&mut self, id: SequenceId) {
        let client = self.clients.remove(&id).expect("a live client");
        // The next turn of the conversation.
        self.spoken.push(client.tokens);
        self.events.push(SchedulerEvent::Ended { id });
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        let fault = self.fault;
        fault.iter().for_each(|fault| (fault.before)(self));
        let mut actions = self.scheduler.step(self.now, std::mem::take(&mut self.events));
        fault.iter().for_each(|fault| (fault.after)(self, &mut actions));
        self.preemptions += actions.preempted.len();
        for &id in &actions.admitted {
            assert!(self.admitted.insert(id), "{id:?} is admitted twice");
        }
        for &Reused { id, tokens } in &actions.reused {
            self.reused += tokens;
            let client = self.clients.get_mut(&id).expect("a live client");
            client.reused += tokens;
            assert!(client.reused < client.prompt_tokens, "something is left to compute");
        }
        self.write_to_disk(&actions);
        for &page in &actions.zero {
            self.cache[page as usize] = [None; PAGE_TOKENS];
        }
        assert_eq!(self.scheduler.pool.drain_evicted().count(), 0, "pages given up are remembered for ever");
        self.check_sizes(&actions);
        self.check_nobody_is_lost();
        check_streams(&self.scheduler, &actions);
        check_idle(&mut self.scheduler, &actions);
        self.check_preempted(&actions);
        self.check_pages(&actions);
        self.run(&actions);
        self.read_from_disk(&actions);
        actions.stalled.iter().for_each(|&id| self.end(id));
    }

    /// A stream that its client reads goes on as long as anybody weaker has pages.
    fn check_preempted(&self, actions: &Actions) {
        let is_streaming = |id: &SequenceId| {
            let client = &self.clients[id];
            !client.paused && client.tokens.len() > client.prompt_tokens
        };
        if actions.preempted.iter().any(is_streaming) {
            assert!(self.scheduler.running.keys().all(is_streaming), "a stream gave way to somebody weaker");
        }
    }

    fn check_sizes(&self, actions: &Actions) {
        let rows = actions.batch.tokens.len();
        assert!(rows <= self.limits.step_tokens_max);
        let is_prompt = |output: &&Output| matches!(output.kind, OutputKind::Prompt { .. });
        let scored = actions.outputs.iter().filter(is_prompt).count();
        assert!(scored <= self.limits.scored_rows_max);
        assert_eq!(actions.outputs.len(), actions.batch.logit_rows.len());
        assert!(actions.batch.logit_rows.is_sorted_by(|a, b| a < b));
    }

    /// Who has not ended runs or waits, and only those whose clients read may have a turn.
    fn check_nobody_is_lost(&self) {
        let known: BTreeMap<SequenceId, bool> =
            self.scheduler.sequences().map(|(id, sequence)| (id, sequence.is_paused())).collect();
        let expected = self.clients.iter().map(|(&id, client)| (id, client.paused));
        assert!(expected.eq(known), "a sequence is forgotten, or not let go");
    }

    /// Every page is free or owned by running sequences that may all read it.
    fn check_pages(&self, actions: &Actions) {
        let mut owners = vec![0; self.limits.pages];
        let reads = self.reads.len() + actions.restore.len();
        assert_eq!(self.scheduler.disk.pages().count(), reads, "pages are kept for reads that have ended");
        self.scheduler.disk.pages().for_each(|page| owners[page as usize] += 1);
        for (id, sequence) in &self.scheduler.running {
            assert!(sequence.computed <= sequence.pages.len() * PAGE_TOKENS);
            for (index, &page) in sequence.pages.iter().enumerate() {
                owners[page as usize] += 1;
                if index < sequence.sealed {
                    let last = (index + 1) * PAGE_TOKENS - 1;
                    let slot = self.cache[page as usize][PAGE_TOKENS - 1].map(|slot| slot.0);
                    assert_eq!(slot, Some(self.clients[id].digests[last]), "{id:?} owns another's page");
                }
            }
        }
        assert!(self.scheduler.waiting.values().all(|sequence| sequence.pages.is_empty()));
        assert!(self.scheduler.running.len() <= self.limits.running_sequences_max);
        for page in self.scheduler.pool.check(&owners) {
            assert_eq!(self.cache[page as usize], [None; PAGE_TOKENS], "page {page} is not zero");
        }
    }

    /// Plays the model: reads the whole past through the pages, writes the new rows, answers outputs.
    fn run(&mut self, actions: &Actions) {
        let batch = &actions.batch;
        assert_eq!(batch.sequences.len(), actions.sequences.len());
        for (rows, &id) in batch.sequences.iter().zip(&actions.sequences) {
            let client = &self.clients[&id];
            assert!(!client.paused, "{id:?} runs although its client does not read");
            let mut digests = client.digests[..rows.past].to_vec();
            for position in 0..rows.past + rows.rows {
                let page = rows.pages[position / PAGE_TOKENS] as usize;
                let slot = &mut self.cache[page][position % PAGE_TOKENS];
                if position < rows.past {
                    assert_eq!(
                        slot.map(|slot| slot.0),
                        Some(digests[position]),
                        "{id:?} reads another's keys"
                    );
                    continue;
                }
                let row = rows.first_row + position - rows.past;
                let written = client.digest(&digests, batch.tokens[row]);
                // Nothing is true yet of the places of guesses.
                let truth = client.digests.get(position);
                assert!(
                    truth.is_none_or(|&truth| truth == written),
                    "{id:?} runs another token than its own"
                );
                let own_guess = slot.is_some_and(|(_, writer)| writer == id);
                assert!(slot.is_none() || own_guess, "page {page} was not zeroed");
                assert_eq!(batch.positions[row], position as u32);
                *slot = Some((written, id));
                digests.push(written);
            }
        }
        if self.below(100) == 0 {
            self.failed_steps += 1;
            actions.sequences.iter().for_each(|&id| self.end(id));
            return;
        }
        let rows = batch.tokens.len();
        let took = Duration::from_micros((rows * self.below(5000)) as u64);
        self.events.push(SchedulerEvent::Ran { rows, took });
        for output in &actions.outputs {
            self.answer(*output);
        }
        for &id in &actions.sequences {
            self.guess(id);
        }
    }

    /// Says what may come next, right or wrong.
    fn guess(&mut self, id: SequenceId) {
        let Some(next) = self.clients.get(&id).map(|client| client.tokens.len()) else { return };
        let count = self.below(2) * self.below(6);
        let right = self.below(count + 1);
        let tokens: Vec<u32> = (0..count).map(|i| token_at(id, next + i) ^ u32::from(i >= right)).collect();
        if count > 0 {
            self.events.push(SchedulerEvent::Guessed { id, tokens: Guesses::new(&tokens) });
        }
    }

    fn answer(&mut self, output: Output) {
        // It ended by an earlier row of this step.
        let Some(client) = self.clients.get_mut(&output.id) else { return };
        let token = token_at(output.id, client.tokens.len());
        match output.kind {
            OutputKind::AfterGuess { guess } if client.tokens.last() != Some(&guess) => {
                client.guessed_wrong = true;
            }
            OutputKind::AfterGuess { .. } if client.guessed_wrong => {}
            OutputKind::Prompt { position } => {
                assert_eq!(position, client.scored, "prompt rows come once each, in order");
                client.scored += 1;
            }
            OutputKind::Next | OutputKind::AfterGuess { .. } => {
                client.guessed_wrong = false;
                self.guesses_right += usize::from(output.kind != OutputKind::Next);
                let expected = if client.score_prompt { client.prompt_tokens - 1 } else { 0 };
                assert_eq!(client.scored, expected);
                client.push(token);
                if client.tokens.len() == client.prompt_tokens + client.max_new_tokens {
                    self.end(output.id);
                } else {
                    self.events.push(SchedulerEvent::Sampled { id: output.id, token });
                }
            }
        }
    }

    /// No more arrivals; clients read again. Everything has to end.
    fn finish(&mut self) {
        let paused: Vec<SequenceId> =
            self.clients.iter().filter(|(_, client)| client.paused).map(|(&id, _)| id).collect();
        paused.into_iter().for_each(|id| self.toggle_pause(id));
        let mut steps = 0;
        while !self.clients.is_empty() || !self.reads.is_empty() {
            self.step();
            steps += 1;
            assert!(steps < 100_000, "{} sequences never end", self.clients.len());
        }
        while !self.scheduler.step(self.now, std::mem::take(&mut self.events)).is_idle() {}
        assert_eq!(self.scheduler.pool.free(), self.limits.pages);
        assert_eq!(self.scheduler.pool.dirty(), 0, "an idle scheduler leaves nothing unscrubbed");
    }
}

/// What the model would say, whatever the rest of the step.
fn token_at(id: SequenceId, position: usize) -> u32 {
    let bits = CounterRandom::new(id.0).bits(position as u64);
    (bits % 1000) as u32
}

fn limits(pages: usize) -> SchedulerLimits {
    SchedulerLimits {
        pages,
        running_sequences_max: 8,
        step_tokens_max: 256,
        mixed_prefill_tokens_max: 64,
        prefill_time_max: Duration::from_secs(3600),
        mixed_prefill_time_max: Duration::from_secs(3600),
        scored_rows_max: 16,
        scrub_pages_max: 2,
        idle_scrub_pages_max: 4,
        share_prefixes: true,
        disk: None,
        stalled_client_max: Duration::from_secs(1),
    }
}

fn simulate(seed: u64, fault: Option<Fault>) -> World {
    let mut world = World { fault, ..World::new(seed) };
    for _ in 0..60 {
        for _ in 0..world.below(3) {
            world.arrive();
        }
        if world.below(3) == 0 {
            world.disturb();
        }
        world.step();
    }
    world.finish();
    world
}

/// The seeds to run: so many, or the one to replay.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("SCHEDULER_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).expect("SCHEDULER_SEED is a number"),
        Err(_) => 0..count,
    }
}

/// Rows a sequence got in a step.
fn rows_of(actions: &Actions, id: u64) -> usize {
    let place = actions.sequences.iter().position(|&other| other == SequenceId(id));
    place.map_or(0, |place| actions.batch.sequences[place].rows)
}

#[test]
fn simulation_keeps_every_invariant() {
    let seeds = seeds(1000);
    let (mut arrived, mut preemptions, mut guesses_right, mut reused, mut restored) = (0, 0, 0, 0, 0);
    let mut failed_steps = 0;
    for seed in seeds.clone() {
        let world = std::panic::catch_unwind(|| simulate(seed, None))
            .unwrap_or_else(|_| panic!("replay with SCHEDULER_SEED={seed} cargo test -p engine simulation"));
        arrived += world.arrived;
        preemptions += world.preemptions;
        guesses_right += world.guesses_right;
        reused += world.reused;
        restored += world.restored;
        failed_steps += world.failed_steps;
    }
    println!("{arrived} arrivals, {preemptions} preemptions");
    println!("{guesses_right} right guesses, {reused} prompt tokens reused, {restored} pages restored");
    if seeds.end - seeds.start > 1 {
        assert!(
            arrived > 10_000 && preemptions > 1_000 && guesses_right > 10_000,
            "the simulation lost its teeth"
        );
        assert!(reused > 100_000 && restored > 1_000, "and the prefix cache its use");
        assert!(failed_steps > 100, "and nothing ever goes wrong");
    }
}
