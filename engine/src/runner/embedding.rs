//! One embedding model on the engine's thread: texts of several requests share a pass through the network,
//! and a pass is computed in slices, as much at a time as `scheduler/turns.rs` says.
//!
//! Requests are served by how little time their principals got so far, over all models; those of one
//! principal in turn. Beside chats a pass is short, so that who comes does not wait for long.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use kernels::Tensor;
use tokio::sync::oneshot;

use super::{Counters, panic_text};
use crate::batch::Encoder;
use crate::inbox::LinePlace;
use crate::residents::ModelLease;
use crate::scheduler::Pace;
use crate::scheduler::turns::{BandSet, Kind, ModelKey, Payer, Turn, Turns};
use crate::{Caller, EngineError};

/// Tokens of a pass beside chats, unless a single text is longer.
const MIXED_PASS_TOKENS: usize = 128;

/// A slice ends when less than this part of its time is left: a piece would take longer.
const REST_MIN: f64 = 0.25;

/// Texts to embed on their way to the thread.
pub(crate) struct Embedding {
    /// Held until the runner has it.
    pub model: ModelLease,
    pub caller: Caller,
    pub inputs: Vec<Vec<u32>>,
    pub place: LinePlace,
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, EngineError>>,
}

/// A request that is being worked on.
struct Job {
    payer: Payer,
    inputs: Vec<Vec<u32>>,
    /// Inputs in the order they run, by length: a pass's inputs are of similar length.
    order: Vec<usize>,
    /// How many of them have run, or are in the pass at work; and how many have run.
    taken: usize,
    done: usize,
    /// When one was taken last, as a count of all that were.
    turn: u64,
    vectors: Vec<Vec<f32>>,
    /// Held to its end.
    place: LinePlace,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, EngineError>>,
}

pub(super) struct EmbeddingRunner {
    network: Box<dyn Encoder>,
    /// By arrival.
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    /// Inputs taken so far.
    turns: u64,
    pass: Pass,
    vectors: Tensor,
    step_tokens_max: usize,
    /// Of whole passes.
    pace: Pace,
    seconds_a_work: f64,
}

/// What the network is at work on.
#[derive(Default)]
struct Pass {
    places: Vec<Place>,
    tokens: usize,
    took: Duration,
    /// Who pays for it, and for how many of its tokens.
    payers: Vec<(Payer, usize)>,
}

/// One input of a pass: which job's, and which of its inputs.
#[derive(Clone, Copy)]
struct Place {
    job: u64,
    input: usize,
}

impl EmbeddingRunner {
    pub fn new(network: Box<dyn Encoder>, step_tokens_max: usize) -> EmbeddingRunner {
        EmbeddingRunner {
            network,
            jobs: BTreeMap::new(),
            next_job: 0,
            turns: 0,
            pass: Pass::default(),
            vectors: Tensor::default(),
            step_tokens_max,
            pace: Pace::default(),
            // A slow start, as the pace's.
            seconds_a_work: 1e-9,
        }
    }

    pub fn accept(&mut self, embedding: Embedding) {
        let Embedding { caller, inputs, place, reply, .. } = embedding;
        self.add(&caller, inputs, place, reply);
    }

    fn add(
        &mut self,
        caller: &Caller,
        inputs: Vec<Vec<u32>>,
        place: LinePlace,
        reply: oneshot::Sender<Result<Vec<Vec<f32>>, EngineError>>,
    ) {
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&input| inputs[input].len());
        let vectors = vec![Vec::new(); inputs.len()];
        let payer = Payer::of(caller);
        let job = Job { payer, inputs, order, taken: 0, done: 0, turn: 0, vectors, place, reply };
        self.jobs.insert(self.next_job, job);
        self.next_job += 1;
    }

    /// Claims turns for those with texts here, after letting go of who is gone.
    pub fn claim(&mut self, model: ModelKey, turns: &mut Turns, counters: &mut Counters) {
        let before = self.jobs.len();
        self.end_where(|job| job.reply.is_closed());
        counters.cancelled_requests += (before - self.jobs.len()) as u64;
        self.jobs.values().for_each(|job| turns.claim(model, Kind::Embed, job.payer.clone()));
    }

    /// Runs one slice. Returns what it took, if there was anything to do.
    pub fn step(&mut self, turn: &Turn, turns: &mut Turns, counters: &mut Counters) -> Option<Duration> {
        if self.pass.places.is_empty() {
            self.begin_pass(turn, turns);
        }
        if self.pass.places.is_empty() {
            return None;
        }
        let before = Instant::now();
        let computed = catch_unwind(AssertUnwindSafe(|| self.slice(turn.time_max)));
        self.pass.took += before.elapsed();
        match computed {
            Ok(false) => {}
            Ok(true) => self.end_pass(counters),
            Err(panic) => self.fail(&panic_text(panic), counters),
        }
        Some(before.elapsed())
    }

    /// Who pays for the pass that ran last, and for which part of it.
    pub fn payers(&self) -> impl Iterator<Item = (&Payer, f64)> {
        let tokens: usize = self.pass.payers.iter().map(|(_, tokens)| tokens).sum();
        self.pass.payers.iter().map(move |(payer, part)| (payer, *part as f64 / tokens as f64))
    }

    /// Accepted and not ended.
    pub fn requests(&self) -> usize {
        self.jobs.len()
    }

    pub fn inputs_waiting(&self) -> usize {
        self.jobs.values().map(|job| job.inputs.len() - job.taken).sum()
    }

    /// Ends everything, and tells the callers why.
    pub fn cancel_all(&mut self, why: impl Fn() -> EngineError, counters: &mut Counters) {
        counters.cancelled_requests += self.jobs.len() as u64;
        for (_, job) in std::mem::take(&mut self.jobs) {
            drop(job.place);
            // Nobody there to be told.
            let _ = job.reply.send(Err(why()));
        }
        self.pass.places.clear();
    }

    fn begin_pass(&mut self, turn: &Turn, turns: &mut Turns) {
        let tokens_max = match turn.beside_chats {
            true => MIXED_PASS_TOKENS.min(self.step_tokens_max),
            false => self.pace.tokens_within(turn.time_max, self.step_tokens_max),
        };
        self.take_inputs(tokens_max, turns);
        let sequences: Vec<&[u32]> = self
            .pass
            .places
            .iter()
            .map(|place| self.jobs[&place.job].inputs[place.input].as_slice())
            .collect();
        self.network.begin(&sequences);
    }

    /// Takes inputs in the order that turns say, until the next would be too much.
    fn take_inputs(&mut self, tokens_max: usize, turns: &mut Turns) {
        let mut line = Line::new(&self.jobs, turns, self.pace.seconds(1));
        self.pass = Pass::default();
        while let Some(id) = line.first(&self.jobs, turns) {
            let job = self.jobs.get_mut(&id).expect("the line is of jobs that are there");
            let input = job.order[job.taken];
            let length = job.inputs[input].len();
            if !self.pass.places.is_empty() && self.pass.tokens + length > tokens_max {
                return;
            }
            self.turns += 1;
            (job.taken, job.turn) = (job.taken + 1, self.turns);
            self.pass.tokens += length;
            self.pass.places.push(Place { job: id, input });
            self.pass.charge(&job.payer, length);
            line.charge(&job.payer, length);
        }
    }

    /// Computes for about `time_max`. Returns whether the pass is complete.
    fn slice(&mut self, time_max: Duration) -> bool {
        let (begun, time_max) = (Instant::now(), time_max.as_secs_f64());
        let mut left = time_max;
        loop {
            let before = Instant::now();
            // As a float a bound beyond all numbers becomes the greatest one.
            let work = self.network.advance((left / self.seconds_a_work) as u64);
            if work == 0 {
                self.network.finish(&mut self.vectors);
                assert_eq!(self.vectors.rows(), self.pass.places.len(), "one vector for each sequence");
                return true;
            }
            self.seconds_a_work += 0.2 * (before.elapsed().as_secs_f64() / work as f64 - self.seconds_a_work);
            left = time_max - begun.elapsed().as_secs_f64();
            if left <= REST_MIN * time_max {
                return false;
            }
        }
    }

    /// Hands out the vectors.
    fn end_pass(&mut self, counters: &mut Counters) {
        counters.steps += 1;
        counters.embedded_tokens += self.pass.tokens as u64;
        self.pace.observe(self.pass.tokens, 0, self.pass.took);
        for (row, Place { job: id, input }) in self.pass.places.drain(..).enumerate() {
            // It may have been cancelled in the meantime.
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.vectors[input] = self.vectors.row(row).to_vec();
            job.done += 1;
            if job.done == job.inputs.len() {
                let job = self.jobs.remove(&id).expect("just seen there");
                counters.finished_requests += 1;
                drop(job.place);
                // The caller may have gone in the meantime.
                let _ = job.reply.send(Ok(job.vectors));
            }
        }
    }

    /// The network broke: whoever had an input in that pass gets an error.
    fn fail(&mut self, reason: &str, counters: &mut Counters) {
        tracing::error!(reason, "an embedding model failed in the middle of a step");
        for Place { job, .. } in self.pass.places.drain(..) {
            let Some(job) = self.jobs.remove(&job) else { continue };
            counters.failed_requests += 1;
            drop(job.place);
            let _ = job.reply.send(Err(EngineError::Failed(reason.to_owned())));
        }
    }

    /// Drops jobs whose callers are gone.
    fn end_where(&mut self, is_over: impl Fn(&Job) -> bool) {
        self.jobs.retain(|_, job| !is_over(job));
        if !self.pass.places.iter().any(|place| self.jobs.contains_key(&place.job)) {
            // Nobody waits for it any more.
            self.pass.places.clear();
        }
    }
}

impl Pass {
    fn charge(&mut self, payer: &Payer, tokens: usize) {
        match self.payers.iter_mut().find(|(known, _)| known == payer) {
            Some((_, sum)) => *sum += tokens,
            None => self.payers.push((payer.clone(), tokens)),
        }
    }
}

/// Whose input is next while a pass is put together.
struct Line {
    /// Jobs with inputs left, and the place of each one's payer in `payers`.
    jobs: Vec<(u64, usize)>,
    payers: Vec<LinePayer>,
    seconds_a_token: f64,
}

struct LinePayer {
    payer: Payer,
    /// Service so far, what the pass gives it included.
    service: u64,
}

impl Line {
    fn new(jobs: &BTreeMap<u64, Job>, turns: &mut Turns, seconds_a_token: f64) -> Line {
        let mut line = Line { jobs: Vec::with_capacity(jobs.len()), payers: Vec::new(), seconds_a_token };
        for (&id, job) in jobs.iter().filter(|(_, job)| job.taken < job.inputs.len()) {
            let place = line.place(&job.payer).unwrap_or_else(|| {
                let service = turns.service(&job.payer);
                line.payers.push(LinePayer { payer: job.payer.clone(), service });
                line.payers.len() - 1
            });
            line.jobs.push((id, place));
        }
        line
    }

    /// Of the band in turn the least served principal's job that was served longest ago.
    fn first(&mut self, jobs: &BTreeMap<u64, Job>, turns: &Turns) -> Option<u64> {
        self.jobs.retain(|(id, _)| jobs[id].taken < jobs[id].inputs.len());
        let mut wanting = BandSet::default();
        self.jobs.iter().for_each(|&(_, place)| wanting[self.payers[place].payer.band as usize] = true);
        let band = turns.first_band(wanting)?;
        let in_band = self.jobs.iter().filter(|(_, place)| self.payers[*place].payer.band == band);
        let order = |&&(id, place): &&(u64, usize)| (self.payers[place].service, place, jobs[&id].turn);
        in_band.min_by_key(order).map(|&(id, _)| id)
    }

    fn charge(&mut self, payer: &Payer, tokens: usize) {
        let took = Duration::from_secs_f64(self.seconds_a_token * tokens as f64);
        if let Some(place) = self.place(payer) {
            self.payers[place].service += payer.price(took);
        }
    }

    fn place(&self, payer: &Payer) -> Option<usize> {
        self.payers.iter().position(|known| known.payer == *payer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Band;
    use crate::inbox::{Inbox, Queue, Waiting};
    use crate::scheduler::turns::TurnLimits;
    use crate::testing::MockEncoder;

    /// A runner, and what it needs to take turns.
    struct Lab {
        runner: EmbeddingRunner,
        turns: Turns,
        inbox: Arc<Inbox>,
        counters: Counters,
    }

    type Reply = oneshot::Receiver<Result<Vec<Vec<f32>>, EngineError>>;

    impl Lab {
        fn new() -> Lab {
            let room = Waiting { requests: 100, tokens: 1 << 20 };
            let limits = TurnLimits {
                embed_share: 0.2,
                embed_time_max: Duration::from_secs(3600),
                mixed_embed_time_max: Duration::from_secs(3600),
            };
            Lab {
                runner: EmbeddingRunner::new(Box::new(MockEncoder::default()), 64),
                turns: Turns::new(limits),
                inbox: Arc::new(Inbox::new(room, room)),
                counters: Counters::default(),
            }
        }

        fn ask(&mut self, principal: &str, band: Band, inputs: usize, tokens: usize) -> Reply {
            let caller = Caller { principal: principal.into(), band, ..Caller::default() };
            let (reply, vectors) = oneshot::channel();
            let place = self.inbox.enter(Queue::Embed, &caller.principal, inputs * tokens).unwrap();
            self.runner.add(&caller, vec![vec![1; tokens]; inputs], place, reply);
            vectors
        }

        /// One pass. What it takes is said to be a millisecond a token.
        fn pass(&mut self) -> Vec<(String, usize)> {
            self.turns.begin();
            self.runner.claim(ModelKey(0), &mut self.turns, &mut self.counters);
            let Some(turn) = self.turns.next() else { return Vec::new() };
            self.runner.step(&turn, &mut self.turns, &mut self.counters);
            let payers = self.runner.pass.payers.clone();
            for (payer, tokens) in &payers {
                self.turns.charge(turn.model, payer, Duration::from_millis(*tokens as u64));
            }
            payers.into_iter().map(|(payer, tokens)| (payer.principal.to_string(), tokens)).collect()
        }
    }

    fn tokens_of(passes: &[Vec<(String, usize)>], principal: &str) -> usize {
        passes.iter().flatten().filter(|(name, _)| name == principal).map(|(_, tokens)| tokens).sum()
    }

    #[test]
    fn a_single_text_is_in_the_pass_after_another_principals_ten_thousand() {
        let mut lab = Lab::new();
        let _many = lab.ask("many", Band::Interactive, 10_000, 30);
        (0..20).for_each(|_| _ = lab.pass());
        let mut single = lab.ask("single", Band::Interactive, 1, 30);
        let pass = lab.pass();
        assert!(pass.contains(&("single".to_owned(), 30)), "{pass:?}");
        assert!(single.try_recv().is_ok());
    }

    #[test]
    fn principals_share_passes_whatever_number_of_requests_they_have() {
        let mut lab = Lab::new();
        let _many: Vec<Reply> = (0..50).map(|_| lab.ask("many", Band::Interactive, 100, 20)).collect();
        let _one = lab.ask("one", Band::Interactive, 2000, 20);
        let passes: Vec<_> = (0..200).map(|_| lab.pass()).collect();
        let (many, one) = (tokens_of(&passes, "many"), tokens_of(&passes, "one"));
        assert!(many.abs_diff(one) <= 2 * 64, "{many} and {one} tokens");
    }

    #[test]
    fn less_urgent_texts_wait_but_for_their_floor() {
        let mut lab = Lab::new();
        let _batch = lab.ask("batch", Band::Batch, 5000, 60);
        let _urgent = lab.ask("urgent", Band::Interactive, 5000, 60);
        let passes: Vec<_> = (0..500).map(|_| lab.pass()).collect();
        let part = tokens_of(&passes, "batch") as f64 / (500.0 * 60.0);
        assert!((part - 0.1).abs() < 0.02, "{part} of the tokens");
    }

    #[test]
    fn requests_of_one_principal_take_turns() {
        let mut lab = Lab::new();
        let _large = lab.ask("a", Band::Interactive, 10_000, 30);
        lab.pass();
        let mut small = lab.ask("a", Band::Interactive, 2, 30);
        (0..2).for_each(|_| _ = lab.pass());
        assert!(small.try_recv().is_ok());
    }

    #[test]
    fn what_a_cancelled_request_left_in_a_pass_harms_nobody() {
        let mut lab = Lab::new();
        let gone = lab.ask("gone", Band::Interactive, 3, 10);
        let mut stays = lab.ask("stays", Band::Interactive, 3, 10);
        lab.turns.begin();
        lab.runner.claim(ModelKey(0), &mut lab.turns, &mut lab.counters);
        let turn = Turn { time_max: Duration::ZERO, ..lab.turns.next().expect("two wait") };
        lab.runner.step(&turn, &mut lab.turns, &mut lab.counters);
        assert!(!lab.runner.pass.places.is_empty(), "a slice of no length ends in the middle");
        drop(gone);
        (0..10).for_each(|_| _ = lab.pass());
        let vectors = stays.try_recv().expect("it was answered").expect("the model did not fail");
        assert_eq!(vectors, vec![vec![10.0, 1.0, 1.0, 10.0]; 3]);
        assert_eq!((lab.counters.cancelled_requests, lab.counters.finished_requests), (1, 1));
    }
}
