//! Clients of a virtual machine: who asks for what and when, on a clock that a cost model moves.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::super::*;
use super::checks::{check_idle, check_streams};
use crate::pages::{ChainHash, Keep, PrefixScope};
use crate::sampler::random::CounterRandom;
use crate::{Band, Caller};

/// When a client asks.
#[derive(Clone, Copy, Debug)]
pub enum Arrivals {
    /// Always has this many requests waiting or running.
    Backlog(usize),
    /// So many a second, independent of each other.
    Poisson(f64),
    /// So many at once, every so many seconds.
    Bursts(usize, f64),
    /// So many conversations, each asking again so many seconds after its answer.
    Turns(usize, f64),
}

/// One principal's behaviour.
#[derive(Clone, Debug)]
pub struct Client {
    pub arrivals: Arrivals,
    pub weight: u32,
    pub band: Band,
    pub prompt_tokens_min: usize,
    pub prompt_tokens_max: usize,
    pub output_tokens_max: usize,
    /// Prompts begin with one of so many prefixes, or each as no other does, of so many tokens.
    pub prefixes: usize,
    pub prefix_tokens: usize,
    /// One request in so many is cancelled at some time.
    pub cancels_one_in: usize,
    /// It reads no more for a while after one token in so many.
    pub pauses_one_in: usize,
    /// So many tokens at most are guessed after each, of which the first may be right.
    pub guesses_max: usize,
}

impl Default for Client {
    fn default() -> Client {
        Client {
            arrivals: Arrivals::Backlog(16),
            weight: 1,
            band: Band::Interactive,
            prompt_tokens_min: 1,
            prompt_tokens_max: 64,
            output_tokens_max: 24,
            prefixes: 0,
            prefix_tokens: 32,
            cancels_one_in: usize::MAX,
            pauses_one_in: usize::MAX,
            guesses_max: 0,
        }
    }
}

/// What came of a client's requests.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Prompt tokens computed once, and twice those generated.
    pub service: u64,
    pub arrived: usize,
    pub ended: usize,
    /// Of requests that no place was found for yet.
    pub waiting: usize,
    pub first_token_seconds: Vec<f64>,
    pub admitted_at: Vec<f64>,
    /// Prompt tokens found in the cache.
    pub reused: usize,
}

struct Request {
    client: usize,
    prompt_tokens: usize,
    prompt_reached: usize,
    output_tokens: usize,
    generated: usize,
    arrived: f64,
    admitted: bool,
    cancelled_at: f64,
    /// When its client reads again.
    paused_until: Option<f64>,
    /// A guess of this step was wrong: so are those after it.
    guessed_wrong: bool,
}

/// What the model says after everything, and what it never says.
const TOKEN: u32 = 1;
const OTHER_TOKEN: u32 = 2;

/// Longest time for which a client does not read: some of them are given up.
const PAUSE_MAX: f64 = 1.2;

/// How much longer than others a step may take, now and then.
const SPIKE: f64 = 8.0;

/// Seconds a step takes: for itself, for each token, each stream, and each pair of a token and one
/// before it. About a model of a hundred million parameters on two cores.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    pub step: f64,
    pub token: f64,
    pub stream: f64,
    pub pair: f64,
    /// One step in so many is disturbed, and takes [`SPIKE`] times as long.
    pub spikes_one_in: usize,
}

impl Default for Costs {
    fn default() -> Costs {
        Costs { step: 2e-3, token: 4e-4, stream: 2e-4, pair: 1e-7, spikes_one_in: usize::MAX }
    }
}

impl Costs {
    /// On a machine that takes so many times as long.
    pub fn times(self, factor: f64) -> Costs {
        let Costs { step, token, stream, pair, .. } = self;
        Costs {
            step: factor * step,
            token: factor * token,
            stream: factor * stream,
            pair: factor * pair,
            ..self
        }
    }
}

pub struct Machine {
    pub clients: Vec<Client>,
    pub records: Vec<Record>,
    pub seconds: f64,
    pub preemptions: usize,
    pub pauses: usize,
    pub guesses_right: usize,
    pub limits: SchedulerLimits,
    costs: Costs,
    /// Whether the scheduler is told who asks; else it serves in order of arrival.
    tells_callers: bool,
    random: CounterRandom,
    draws: u64,
    scheduler: Scheduler,
    requests: BTreeMap<SequenceId, Request>,
    events: Vec<SchedulerEvent>,
    /// By client, when the next requests arrive, and how many.
    due: Vec<Vec<(f64, usize)>>,
    next_id: u64,
}

impl Machine {
    pub fn new(seed: u64, limits: SchedulerLimits, costs: Costs, clients: Vec<Client>) -> Machine {
        let mut machine = Machine {
            records: vec![Record::default(); clients.len()],
            due: vec![Vec::new(); clients.len()],
            clients,
            seconds: 0.0,
            preemptions: 0,
            pauses: 0,
            guesses_right: 0,
            scheduler: Scheduler::new(limits),
            limits,
            costs,
            tells_callers: true,
            random: CounterRandom::new(seed),
            draws: 0,
            requests: BTreeMap::new(),
            events: Vec::new(),
            next_id: 0,
        };
        for index in 0..machine.clients.len() {
            let first = match machine.clients[index].arrivals {
                Arrivals::Backlog(_) => vec![],
                Arrivals::Poisson(rate) => vec![(machine.exponential(rate), 1)],
                Arrivals::Bursts(size, every) => vec![(machine.uniform() * every, size)],
                Arrivals::Turns(count, pause) => (0..count).map(|_| (machine.uniform() * pause, 1)).collect(),
            };
            machine.due[index] = first;
        }
        machine
    }

    pub fn hide_callers(&mut self) {
        self.tells_callers = false;
    }

    pub fn uniform(&mut self) -> f64 {
        self.draws += 1;
        self.random.uniform(self.draws)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.uniform() * bound as f64) as usize
    }

    fn exponential(&mut self, rate: f64) -> f64 {
        -(1.0 - self.uniform()).ln() / rate
    }

    /// Lets clients ask and cancel, and runs one step.
    pub fn step(&mut self) {
        self.listen();
        self.turn();
        if !self.has_readers() {
            let next = self.next_event();
            self.seconds = self.seconds.max(if next.is_finite() { next } else { 0.0 });
        }
    }

    /// Whether there is a request whose client reads.
    fn has_readers(&self) -> bool {
        self.requests.values().any(|request| request.paused_until.is_none())
    }

    /// Lets clients ask, cancel and read again.
    pub fn listen(&mut self) {
        self.arrive();
        self.cancel();
        self.resume();
        let now = Duration::from_secs_f64(self.seconds);
        self.scheduler.take_in(now, self.events.drain(..));
    }

    pub fn scheduler(&mut self) -> &mut Scheduler {
        &mut self.scheduler
    }

    /// When somebody asks or reads again; never, as infinity.
    pub fn next_event(&self) -> f64 {
        let arrivals = self.due.iter().flatten().map(|(at, _)| *at);
        let resumed = self.requests.values().filter_map(|request| request.paused_until);
        arrivals.chain(resumed).fold(f64::INFINITY, f64::min)
    }

    /// No more requests.
    pub fn close(&mut self) {
        self.due.iter_mut().for_each(Vec::clear);
        self.clients.iter_mut().for_each(|client| client.arrivals = Arrivals::Backlog(0));
    }

    /// Runs one step.
    pub fn turn(&mut self) {
        let now = Duration::from_secs_f64(self.seconds);
        let actions = self.scheduler.step(now, std::mem::take(&mut self.events));
        self.preemptions += actions.preempted.len();
        for id in &actions.admitted {
            let request = self.requests.get_mut(id).expect("a live request");
            request.admitted = true;
            let record = &mut self.records[request.client];
            record.waiting -= 1;
            record.admitted_at.push(self.seconds);
        }
        for Reused { id, tokens } in &actions.reused {
            let request = self.requests.get_mut(id).expect("a live request");
            request.prompt_reached += tokens;
            self.records[request.client].reused += tokens;
        }
        check_streams(&self.scheduler, &actions);
        check_idle(&mut self.scheduler, &actions);
        let is_idle = actions.batch.tokens.is_empty();
        assert!(!is_idle || !self.has_readers(), "an idle step while {} requests wait", self.requests.len());
        let took = self.cost(&actions);
        self.seconds += took;
        if !is_idle {
            let (rows, took) = (actions.batch.tokens.len(), Duration::from_secs_f64(took));
            self.events.push(SchedulerEvent::Ran { rows, took });
        }
        self.compute(&actions);
        actions.stalled.iter().for_each(|&id| self.end(id));
    }

    /// No more requests; all that were made have to end.
    pub fn finish(&mut self) {
        self.close();
        let mut steps = 0;
        while !self.requests.is_empty() {
            self.step();
            steps += 1;
            assert!(steps < 1_000_000, "{} requests never end", self.requests.len());
        }
        self.assert_over();
    }

    pub fn assert_over(&mut self) {
        while !self.scheduler.step(Duration::from_secs_f64(self.seconds), self.events.drain(..)).is_idle() {}
        assert_eq!(self.scheduler.pool.used(), 0, "pages leaked");
        assert!(self.records.iter().all(|record| record.arrived == record.ended && record.waiting == 0));
    }

    fn arrive(&mut self) {
        for index in 0..self.clients.len() {
            let client = self.clients[index].clone();
            if let Arrivals::Backlog(count) = client.arrivals {
                let live = self.records[index].arrived - self.records[index].ended;
                (live..count).for_each(|_| self.ask(index));
            }
            let (now, mut later) = (self.seconds, Vec::new());
            for (at, count) in std::mem::take(&mut self.due[index]) {
                if at > now {
                    later.push((at, count));
                    continue;
                }
                (0..count).for_each(|_| self.ask(index));
                match client.arrivals {
                    Arrivals::Poisson(rate) => later.push((at + self.exponential(rate), 1)),
                    Arrivals::Bursts(size, every) => later.push((at + every, size)),
                    Arrivals::Backlog(_) | Arrivals::Turns(..) => {}
                }
            }
            self.due[index] = later;
        }
    }

    fn ask(&mut self, index: usize) {
        let client = self.clients[index].clone();
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let spread = 1 + client.prompt_tokens_max - client.prompt_tokens_min;
        let prompt_tokens = client.prompt_tokens_min + self.below(spread);
        let output_tokens = 1 + self.below(client.output_tokens_max);
        let is_cancelled = self.one_in(client.cancels_one_in);
        let cancelled_at = if is_cancelled { self.seconds + self.uniform() * 3.0 } else { f64::INFINITY };
        let request = Request {
            client: index,
            prompt_tokens,
            prompt_reached: 0,
            output_tokens,
            generated: 0,
            arrived: self.seconds,
            admitted: false,
            cancelled_at,
            paused_until: None,
            guessed_wrong: false,
        };
        self.requests.insert(id, request);
        self.records[index].arrived += 1;
        self.records[index].waiting += 1;
        let caller = match self.tells_callers {
            true => Caller {
                principal: index.to_string().into(),
                weight: NonZeroU32::new(client.weight).expect("at least 1"),
                band: client.band,
                ..Caller::default()
            },
            false => Caller::default(),
        };
        let mut prompt = vec![id.0 as u32; prompt_tokens];
        if client.prefixes > 0 {
            // Ids are smaller.
            let prefix = u32::MAX - self.below(client.prefixes) as u32;
            prompt[..client.prefix_tokens.min(prompt_tokens)].fill(prefix);
        }
        let root = ChainHash::tenant_root(b"model", "");
        let scope =
            PrefixScope { root, public_root: root, public_tokens: 0, keep: Keep::Usual, shares: true };
        self.events.push(SchedulerEvent::Arrived {
            id,
            caller,
            prompt,
            score_prompt: false,
            chain: scope.into(),
        });
    }

    fn cancel(&mut self) {
        let now = self.seconds;
        let gone = self.requests.iter().filter(|(_, request)| request.cancelled_at <= now);
        let gone: Vec<SequenceId> = gone.map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|id| self.end(id));
    }

    fn resume(&mut self) {
        for (&id, request) in &mut self.requests {
            if request.paused_until.take_if(|until| *until <= self.seconds).is_some() {
                self.events.push(SchedulerEvent::Resumed { id });
            }
        }
    }

    fn end(&mut self, id: SequenceId) {
        let request = self.requests.remove(&id).expect("a live request");
        let record = &mut self.records[request.client];
        record.ended += 1;
        record.waiting -= usize::from(!request.admitted);
        self.events.push(SchedulerEvent::Ended { id });
        if let Arrivals::Turns(_, pause) = self.clients[request.client].arrivals {
            self.due[request.client].push((self.seconds + pause, 1));
        }
    }

    fn cost(&mut self, actions: &Actions) -> f64 {
        let costs = self.costs;
        let rows: usize = actions.batch.sequences.iter().map(|rows| rows.rows).sum();
        let pairs: usize = actions.batch.sequences.iter().map(|rows| rows.rows * rows.past).sum();
        let streams = actions.batch.sequences.len();
        let seconds = costs.step
            + costs.token * rows as f64
            + costs.stream * streams as f64
            + costs.pair * pairs as f64;
        if self.one_in(costs.spikes_one_in) { SPIKE * seconds } else { seconds }
    }

    fn one_in(&mut self, count: usize) -> bool {
        count < usize::MAX && self.below(count) == 0
    }

    /// Plays the model: counts service, and answers.
    fn compute(&mut self, actions: &Actions) {
        for (rows, id) in actions.batch.sequences.iter().zip(&actions.sequences) {
            let request = self.requests.get_mut(id).expect("a live request");
            let reached = (rows.past + rows.rows).min(request.prompt_tokens);
            let fresh = reached.saturating_sub(request.prompt_reached);
            request.prompt_reached += fresh;
            self.records[request.client].service += fresh as u64;
        }
        for output in &actions.outputs {
            self.answer(output);
        }
        for &id in &actions.sequences {
            self.go_on(id);
        }
    }

    /// Takes a row's token, unless an earlier row of the step tells otherwise.
    fn answer(&mut self, output: &Output) {
        let id = output.id;
        let Some(request) = self.requests.get_mut(&id) else { return };
        if let OutputKind::AfterGuess { guess } = output.kind {
            request.guessed_wrong |= guess != TOKEN;
            if request.guessed_wrong {
                return;
            }
            self.guesses_right += 1;
        }
        let record = &mut self.records[request.client];
        record.service += 2;
        if request.generated == 0 {
            record.first_token_seconds.push(self.seconds - request.arrived);
        }
        request.generated += 1;
        if request.generated == request.output_tokens {
            self.end(id);
        } else {
            self.events.push(SchedulerEvent::Sampled { id, token: TOKEN });
        }
    }

    /// After its rows of a step: what may come next is guessed, and its client may read no more for a while.
    fn go_on(&mut self, id: SequenceId) {
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.generated > 0) else {
            return;
        };
        request.guessed_wrong = false;
        let Client { guesses_max, pauses_one_in, .. } = self.clients[request.client];
        if guesses_max > 0 {
            let right = self.below(guesses_max + 1);
            let guess = |index: usize| if index < right { TOKEN } else { OTHER_TOKEN };
            let tokens: Vec<u32> = (0..guesses_max).map(guess).collect();
            self.events.push(SchedulerEvent::Guessed { id, tokens: Guesses::new(&tokens) });
        }
        if self.one_in(pauses_one_in) {
            self.pauses += 1;
            let until = self.seconds + PAUSE_MAX * self.uniform();
            self.requests.get_mut(&id).expect("it goes on").paused_until = Some(until);
            self.events.push(SchedulerEvent::Paused { id });
        }
    }
}
