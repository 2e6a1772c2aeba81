//! One embedding model on the engine's thread: requests share its steps, a bounded number of tokens at
//! a time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use kernels::Tensor;
use tokio::sync::oneshot;

use super::{Counters, panic_text};
use crate::EngineError;
use crate::batch::Encoder;
use crate::inbox::{Inbox, Queue};
use crate::residents::ModelLease;
use crate::scheduler::Pace;

/// Texts to embed on their way to the thread.
pub(crate) struct Embedding {
    /// Held until the runner has it.
    pub model: ModelLease,
    pub inputs: Vec<Vec<u32>>,
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, EngineError>>,
}

/// A request that is being worked on.
struct Job {
    inputs: Vec<Vec<u32>>,
    /// Inputs in the order they run, by length: a step's inputs are of similar length.
    order: Vec<usize>,
    /// How many of them have run, or are in the step being put together.
    taken: usize,
    vectors: Vec<Vec<f32>>,
    tokens: usize,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, EngineError>>,
}

pub(super) struct EmbeddingRunner {
    network: Box<dyn Encoder>,
    /// The next one to be served first.
    jobs: VecDeque<Job>,
    vectors: Tensor,
    step_tokens_max: usize,
    pace: Pace,
}

/// One input of a step: which job's, and which of its inputs.
#[derive(Clone, Copy)]
struct Place {
    job: usize,
    input: usize,
}

impl EmbeddingRunner {
    pub fn new(network: Box<dyn Encoder>, step_tokens_max: usize) -> EmbeddingRunner {
        let (jobs, vectors) = (VecDeque::new(), Tensor::default());
        EmbeddingRunner { network, jobs, vectors, step_tokens_max, pace: Pace::default() }
    }

    pub fn accept(&mut self, embedding: Embedding) {
        let Embedding { inputs, reply, .. } = embedding;
        let mut order: Vec<usize> = (0..inputs.len()).collect();
        order.sort_by_key(|&input| inputs[input].len());
        let tokens = inputs.iter().map(Vec::len).sum();
        let vectors = vec![Vec::new(); inputs.len()];
        self.jobs.push_back(Job { inputs, order, taken: 0, vectors, tokens, reply });
    }

    /// Runs one step of about `time_max`, or of one input that takes longer. Returns whether there was
    /// anything to do.
    pub fn step(&mut self, time_max: Duration, inbox: &Inbox, counters: &mut Counters) -> bool {
        let before = self.jobs.len();
        self.end_where(inbox, |job| job.reply.is_closed());
        counters.cancelled_requests += (before - self.jobs.len()) as u64;
        if self.jobs.is_empty() {
            return false;
        }
        let places = self.take_inputs(self.pace.tokens_within(time_max, self.step_tokens_max));
        self.run(&places, inbox, counters);
        // Whoever was first is last next time; before jobs leave, or one that was not served would be.
        self.jobs.rotate_left(1.min(self.jobs.len()));
        self.finish_jobs(inbox, counters);
        true
    }

    /// Accepted and not ended.
    pub fn requests(&self) -> usize {
        self.jobs.len()
    }

    pub fn inputs_waiting(&self) -> usize {
        self.jobs.iter().map(|job| job.inputs.len() - job.taken).sum()
    }

    /// Ends everything, and tells the callers why.
    pub fn cancel_all(&mut self, why: impl Fn() -> EngineError, inbox: &Inbox, counters: &mut Counters) {
        counters.cancelled_requests += self.jobs.len() as u64;
        for job in self.jobs.drain(..) {
            inbox.leave(Queue::Embed, job.tokens);
            // Nobody there to be told.
            let _ = job.reply.send(Err(why()));
        }
    }

    /// One input from each job in turn, until the next would be too much.
    fn take_inputs(&mut self, tokens_max: usize) -> Vec<Place> {
        let (mut places, mut tokens) = (Vec::new(), 0);
        loop {
            let before = places.len();
            for (index, job) in self.jobs.iter_mut().enumerate() {
                let Some(&input) = job.order.get(job.taken) else { continue };
                let length = job.inputs[input].len();
                if !places.is_empty() && tokens + length > tokens_max {
                    continue;
                }
                tokens += length;
                job.taken += 1;
                places.push(Place { job: index, input });
            }
            if places.len() == before {
                return places;
            }
        }
    }

    fn run(&mut self, places: &[Place], inbox: &Inbox, counters: &mut Counters) {
        counters.steps += 1;
        let sequences: Vec<&[u32]> =
            places.iter().map(|place| self.jobs[place.job].inputs[place.input].as_slice()).collect();
        let network = &mut self.network;
        let vectors = &mut self.vectors;
        let before = Instant::now();
        let computed = catch_unwind(AssertUnwindSafe(|| {
            network.forward(&sequences, vectors);
            assert_eq!(vectors.rows(), sequences.len(), "one vector for each sequence");
        }));
        let tokens: usize = sequences.iter().map(|sequence| sequence.len()).sum();
        counters.embedded_tokens += tokens as u64;
        self.pace.observe(tokens, before.elapsed());
        match computed {
            Ok(()) => {
                for (row, &Place { job, input }) in places.iter().enumerate() {
                    self.jobs[job].vectors[input] = self.vectors.row(row).to_vec();
                }
            }
            Err(panic) => self.fail(places, &panic_text(panic), inbox, counters),
        }
    }

    /// The network broke: whoever had an input in that step gets an error.
    fn fail(&mut self, places: &[Place], reason: &str, inbox: &Inbox, counters: &mut Counters) {
        tracing::error!(reason, "an embedding model failed in the middle of a step");
        let mut failed: Vec<usize> = places.iter().map(|place| place.job).collect();
        failed.sort_unstable();
        failed.dedup();
        for index in failed.into_iter().rev() {
            let job = self.jobs.remove(index).expect("places name jobs that are there");
            counters.failed_requests += 1;
            inbox.leave(Queue::Embed, job.tokens);
            let _ = job.reply.send(Err(EngineError::Failed(reason.to_owned())));
        }
    }

    fn finish_jobs(&mut self, inbox: &Inbox, counters: &mut Counters) {
        let mut index = 0;
        while let Some(job) = self.jobs.get(index) {
            if job.taken < job.inputs.len() {
                index += 1;
                continue;
            }
            let job = self.jobs.remove(index).expect("just seen there");
            counters.finished_requests += 1;
            inbox.leave(Queue::Embed, job.tokens);
            // The caller may have gone in the meantime.
            let _ = job.reply.send(Ok(job.vectors));
        }
    }

    /// Drops jobs whose callers are gone.
    fn end_where(&mut self, inbox: &Inbox, is_over: impl Fn(&Job) -> bool) {
        self.jobs.retain(|job| {
            let over = is_over(job);
            if over {
                inbox.leave(Queue::Embed, job.tokens);
            }
            !over
        });
    }
}
