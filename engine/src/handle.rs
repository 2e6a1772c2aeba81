//! The way into the engine: a bounded queue to its thread, and a bounded stream back.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::PAGE_TOKENS;
use tokio::sync::{mpsc, oneshot};

use crate::inbox::{Command, Inbox, Queue, Waiting};
use crate::loading;
use crate::memory::MemoryBudget;
use crate::model::{LoadedModel, ModelInfo, Task};
use crate::pages::store::{PageStore, StoreStats};
use crate::residents::{ModelLease, Residents};
use crate::runner::{Embedding, Generation, Runner, StreamShared, event_channel};
use crate::watch::{MemoryWatch, WatchOptions};
use crate::{Band, Caller, EngineError, Event, PrefixOptions, Request, Speculation, StepClock};

/// How long a start waits to hear what the page store has: a large folder is looked through beside requests.
const STORE_LOOK_MAX: Duration = Duration::from_secs(2);

/// Sizes and limits of one engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Requests that may wait for a place, besides those running.
    pub waiting_requests_max: usize,
    /// Prompt tokens that may wait, summed over those requests.
    pub waiting_tokens_max: usize,
    /// Sequences decoded together.
    pub running_sequences_max: usize,
    /// Tokens in one step: all decodes plus prefill chunks.
    pub step_tokens_max: usize,
    /// Prompt tokens in a step that also decodes: what bounds the wait for a running stream's next token.
    pub mixed_prefill_tokens_max: usize,
    /// Time for prompt tokens in a step, while one principal is alone and nothing decodes, and otherwise. The
    /// engine measures how many tokens that is: someone who arrives in the middle waits so long before
    /// being looked at.
    pub prefill_time_max: Duration,
    pub mixed_prefill_time_max: Duration,
    /// Tokens that one pass of an embedding model computes together.
    pub embed_step_tokens_max: usize,
    /// Time of embeddings for the time of chats beside them, in percent: how much later a stream's next token
    /// comes. They take it in slices between the steps of chats.
    pub embed_share_percent: usize,
    /// The longest slice, alone and beside chats.
    pub embed_time_max: Duration,
    pub mixed_embed_time_max: Duration,
    /// Tokens of inputs that may wait to be embedded.
    pub embed_waiting_tokens_max: usize,
    /// Memory for weights, keys and values of all models together.
    pub memory_bytes_max: usize,
    /// When new work is refused because others have taken the machine's memory.
    pub watch: WatchOptions,
    /// Memory for keys and values of each chat model, at most.
    pub kv_bytes_max: usize,
    /// How much of the memory that weights leave goes to keys and values, in percent. The rest is for
    /// models loaded later. Where it is less than one whole context, that much is taken.
    pub kv_share_percent: usize,
    /// The models the engine starts with are never unloaded to make room for others.
    pub pin_first_models: bool,
    /// What is kept of prompts for those that begin with the same tokens.
    pub prefix: PrefixOptions,
    /// Events buffered for a client that reads slowly; a full buffer pauses that sequence only.
    pub stream_backlog: usize,
    /// A sequence paused this long by its client is cancelled.
    pub stalled_client_max: Duration,
    /// When next tokens are guessed and computed ahead.
    pub speculation: Speculation,
    /// What steps are timed by: this machine's clock, but in tests.
    pub step_clock: StepClock,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            waiting_requests_max: 256,
            waiting_tokens_max: 1 << 20,
            running_sequences_max: 64,
            step_tokens_max: 512,
            mixed_prefill_tokens_max: 256,
            prefill_time_max: Duration::from_millis(200),
            mixed_prefill_time_max: Duration::from_millis(50),
            embed_step_tokens_max: 2048,
            embed_share_percent: 20,
            embed_time_max: Duration::from_millis(200),
            mixed_embed_time_max: Duration::from_millis(25),
            embed_waiting_tokens_max: 1 << 22,
            memory_bytes_max: usize::MAX,
            watch: WatchOptions::default(),
            kv_bytes_max: 1 << 30,
            kv_share_percent: 50,
            pin_first_models: true,
            prefix: PrefixOptions::default(),
            stream_backlog: 64,
            stalled_client_max: Duration::from_secs(60),
            speculation: Speculation::default(),
            step_clock: StepClock::default(),
        }
    }
}

/// A running engine. Cheap to clone; the last clone ends the thread and waits for it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub residents: Arc<Residents>,
    pub budget: MemoryBudget,
    pub options: EngineOptions,
    pub inbox: Arc<Inbox>,
    watch: Arc<MemoryWatch>,
    pub(crate) stats: Arc<Mutex<EngineStats>>,
    thread: Option<JoinHandle<()>>,
}

/// Events of one request. Dropping it cancels the request within a step.
pub struct EventStream {
    events: mpsc::Receiver<Event>,
    shared: Arc<StreamShared>,
    inbox: Arc<Inbox>,
    ended: bool,
}

impl EventStream {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        self.after_read(event)
    }

    /// The same for a thread that may block.
    pub fn next_blocking(&mut self) -> Option<Event> {
        let event = self.events.blocking_recv();
        self.after_read(event)
    }

    /// For `Stream` adapters.
    pub fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        self.events.poll_recv(context).map(|event| self.after_read(event))
    }

    fn after_read(&mut self, event: Option<Event>) -> Option<Event> {
        if event.is_some() {
            if self.shared.take_starved() {
                self.inbox.wake();
            }
            return event;
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        // An engine that ends in good order says so; one that died leaves nothing here.
        Some(self.shared.take_last().unwrap_or_else(|| Event::Failed("the engine stopped".to_owned())))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.events.close();
        if !self.ended {
            self.inbox.wake();
        }
    }
}

/// Texts (as token ids, special tokens included) to embed.
#[derive(Clone, Debug)]
pub struct EmbedRequest {
    pub model: String,
    /// On whose behalf.
    pub caller: Caller,
    pub inputs: Vec<Vec<u32>>,
}

/// The vectors of an [`EmbedRequest`], in its order. Dropping it cancels what has not run yet.
pub struct EmbedReply {
    vectors: oneshot::Receiver<Result<Vec<Vec<f32>>, EngineError>>,
}

impl EmbedReply {
    pub async fn wait(self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.vectors.await.unwrap_or(Err(EngineError::Stopped))
    }

    /// The same for a thread that may block.
    pub fn wait_blocking(self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.vectors.blocking_recv().unwrap_or(Err(EngineError::Stopped))
    }
}

/// What one band of urgency has and got, over all models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BandStats {
    pub running_sequences: usize,
    pub waiting_sequences: usize,
    /// Those of its admitted requests, found in the cache or computed.
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
}

/// Gauges and counters since the start, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub waiting_requests: usize,
    pub waiting_tokens: usize,
    pub running_sequences: usize,
    pub kv_pages_total: usize,
    /// Pages that sequences own.
    pub kv_pages_used: usize,
    /// Pages kept for prefixes to come, owned by nobody.
    pub kv_pages_cached: usize,
    /// Those of them that go last.
    pub kv_pages_retained: usize,
    pub embed_inputs_waiting: usize,
    /// Models that take requests.
    pub models: usize,
    /// Of the memory budget: all, and what models hold.
    pub memory_bytes_total: usize,
    pub memory_bytes_used: usize,
    pub prompt_tokens: u64,
    /// Those of them that were found in the cache.
    pub reused_prompt_tokens: u64,
    pub generated_tokens: u64,
    pub embedded_tokens: u64,
    pub finished_requests: u64,
    pub cancelled_requests: u64,
    /// Ended by a failure of the model.
    pub failed_requests: u64,
    pub preemptions: u64,
    /// Requests that found part of their prompt in the cache.
    pub prefix_hits: u64,
    /// Cached pages given up for new ones.
    pub kv_evictions: u64,
    /// Pages read back from disk.
    pub kv_pages_restored: u64,
    pub steps: u64,
    /// Tokens guessed and computed ahead, and those that turned out right.
    pub guessed_tokens: u64,
    pub accepted_guesses: u64,
    /// Those of them that a draft model made.
    pub drafted_guesses: u64,
    pub accepted_drafts: u64,
    /// By band, the most urgent first.
    pub bands: [BandStats; Band::ALL.len()],
    /// Pages on disk, where a store is configured.
    pub store: Option<StoreStats>,
}

impl Engine {
    /// Starts the engine's thread over these models; [`Engine::load`] adds others later.
    ///
    /// # Errors
    /// `InvalidParameter` when served names are not unique, or a cache cannot hold a single page;
    /// `NoMemory` when they do not fit the budget; `Failed` when the system gives no thread.
    pub fn start(models: Vec<LoadedModel>, options: EngineOptions) -> Result<Engine, EngineError> {
        check_names(&models)?;
        let inbox = Arc::new(Inbox::new(
            Waiting { requests: options.waiting_requests_max, tokens: options.waiting_tokens_max },
            Waiting { requests: options.waiting_requests_max, tokens: options.embed_waiting_tokens_max },
        ));
        let (stats, residents) =
            (Arc::new(Mutex::new(EngineStats::default())), Arc::new(Residents::default()));
        let budget = MemoryBudget::new(options.memory_bytes_max);
        let watch = Arc::new(MemoryWatch::new(options.watch));
        let mut runner = Runner::new(
            Arc::clone(&inbox),
            Arc::clone(&residents),
            Arc::clone(&stats),
            Arc::clone(&watch),
            options.clone(),
        );
        for prepared in loading::prepare_all(models, &options, &budget)? {
            loading::add(&residents, prepared, &options, |resident| {
                runner.add(resident);
                Ok(())
            })?;
        }
        // Who asks first after a restart finds what was kept for it.
        if let Some(store) = &options.prefix.store {
            store.wait_for_clients(STORE_LOOK_MAX);
        }
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || runner.run())
            .map_err(|error| EngineError::Failed(format!("cannot start its thread: {error}")))?;
        let inner = Inner { residents, budget, options, inbox, watch, stats, thread: Some(thread) };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// What is served: tokenizer, template, limits of each model.
    pub fn models(&self) -> Vec<ModelInfo> {
        self.inner.residents.ready()
    }

    /// The model served under a name now. It stays loaded while this is held.
    ///
    /// # Errors
    /// `UnknownModel`, or `ModelUnloading` when it was there a moment ago.
    pub fn model(&self, name: &str) -> Result<ModelLease, EngineError> {
        self.inner.residents.lease(name, &self.inner.inbox)
    }

    /// Validates, makes ready and queues a generation. Never waits, but takes some 100 ns a token of its
    /// prompt, so that the engine's thread need not; a full queue is an error.
    ///
    /// # Errors
    /// `UnknownModel`, `WrongModel`, `InvalidParameter`, `ContextLength` and `NoPages` are the request's
    /// fault; `QueueFull`, `LowMemory` and `Stopped` may pass.
    pub fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        self.submit_to(&self.model(&request.model)?, request)
    }

    /// [`Engine::submit`] to the very model that is leased, whatever is served under its name by now:
    /// for a prompt made with its tokenizer.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_to(&self, model: &ModelLease, mut request: Request) -> Result<EventStream, EngineError> {
        if model.task != Task::Generate {
            let reason = "makes embeddings; ask a chat model to generate";
            return Err(EngineError::WrongModel { model: request.model, reason });
        }
        request.validate(model.served().vocabulary)?;
        request.max_new_tokens = new_tokens(&request, model.context_tokens, model.served().pages)?;
        self.check_memory()?;

        let (stream, events, shared) = event_channel(self.inner.options.stream_backlog);
        let tokens = request.prompt.len();
        let place = self.inner.inbox.enter(Queue::Generate, &request.caller.principal, tokens)?;
        let generation = Generation::new(model.clone(), request, stream, place);
        self.inner.inbox.leave_command(Command::Generate(Box::new(generation)))?;
        self.inner.inbox.wake();
        Ok(EventStream { events, shared, inbox: Arc::clone(&self.inner.inbox), ended: false })
    }

    /// Validates and queues texts to embed. Never blocks; a full queue is an error.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed(&self, request: EmbedRequest) -> Result<EmbedReply, EngineError> {
        self.embed_with(&self.model(&request.model)?, request)
    }

    /// [`Engine::embed`] with the very model that is leased.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn embed_with(&self, model: &ModelLease, request: EmbedRequest) -> Result<EmbedReply, EngineError> {
        if model.task == Task::Generate {
            let reason = "generates text; ask an embedding model for vectors";
            return Err(EngineError::WrongModel { model: request.model, reason });
        }
        request.validate(model.served().vocabulary, model.context_tokens)?;
        self.check_memory()?;

        let (reply, vectors) = oneshot::channel();
        let tokens = request.inputs.iter().map(Vec::len).sum();
        let EmbedRequest { caller, inputs, .. } = request;
        let place = self.inner.inbox.enter(Queue::Embed, &caller.principal, tokens)?;
        let embedding = Embedding { model: model.clone(), caller, inputs, place, reply };
        self.inner.inbox.leave_command(Command::Embed(embedding))?;
        self.inner.inbox.wake();
        Ok(EmbedReply { vectors })
    }

    /// Refuses new work while memory is short, and has the thread give up what it can do without.
    fn check_memory(&self) -> Result<(), EngineError> {
        self.inner.watch.check().inspect_err(|_| self.inner.inbox.wake())
    }

    pub fn stats(&self) -> EngineStats {
        let waiting = self.inner.inbox.waiting(Queue::Generate);
        EngineStats {
            waiting_requests: waiting.requests,
            waiting_tokens: waiting.tokens,
            models: self.inner.residents.ready().len(),
            memory_bytes_total: self.inner.budget.total(),
            memory_bytes_used: self.inner.budget.used(),
            store: self.inner.options.prefix.store.as_ref().map(PageStore::stats),
            ..*self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Refuses new work from now on; what was accepted finishes, or is cancelled after `deadline`.
    /// Returns at once.
    pub fn drain(&self, deadline: Duration) {
        self.inner.inbox.drain(Instant::now() + deadline);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            // It ended by a panic that was reported where it happened; there is nothing more to say.
            let _ = thread.join();
        }
    }
}

fn check_names(models: &[LoadedModel]) -> Result<(), EngineError> {
    for (i, model) in models.iter().enumerate() {
        let name = &model.info.name;
        if models[..i].iter().any(|earlier| &earlier.info.name == name) {
            let reason = format!("name `{name}` is given twice; served names must differ");
            return Err(EngineError::InvalidParameter { parameter: "model", reason });
        }
    }
    Ok(())
}

/// How many tokens a request may generate: what it asks for, when that fits.
fn new_tokens(request: &Request, context_tokens: usize, pages: usize) -> Result<usize, EngineError> {
    let prompt = request.prompt.len();
    if request.max_new_tokens == usize::MAX {
        let room = context_tokens.min(pages * PAGE_TOKENS).saturating_sub(prompt);
        if room > 0 {
            return Ok(room);
        }
    }
    let max_new_tokens = if request.max_new_tokens == usize::MAX { 1 } else { request.max_new_tokens };
    let tokens = prompt.saturating_add(max_new_tokens);
    if tokens > context_tokens {
        return Err(EngineError::ContextLength { prompt, max_new_tokens, limit: context_tokens });
    }
    let needed = tokens.div_ceil(PAGE_TOKENS);
    if needed > pages {
        return Err(EngineError::NoPages { needed, total: pages });
    }
    Ok(max_new_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{FinishReason, Finished, SamplingParams, StopCriteria, Timing, TokenEvent};
    use crate::runner::EventSender;

    fn stream() -> (EventSender, EventStream) {
        let (sender, events, shared) = event_channel(4);
        let inbox = Arc::new(Inbox::new(Waiting::default(), Waiting::default()));
        (sender, EventStream { events, shared, inbox, ended: false })
    }

    fn token() -> Event {
        Event::Token(TokenEvent { token: 1, text: "x".into(), logprob: None })
    }

    fn finished() -> Event {
        Event::Finished(Finished {
            reason: FinishReason::Stop,
            text: String::new(),
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: 1,
            end_logprob: None,
            stop_string: None,
            timing: Timing::default(),
        })
    }

    #[test]
    fn a_stream_whose_engine_died_ends_with_a_failure() {
        let (sender, mut stream) = stream();
        sender.send(token());
        drop(sender);
        assert!(matches!(stream.next_blocking(), Some(Event::Token(_))));
        assert!(matches!(stream.next_blocking(), Some(Event::Failed(_))));
        assert!(stream.next_blocking().is_none());
    }

    #[test]
    fn the_last_event_comes_through_a_full_stream() {
        let (sender, mut stream) = stream();
        while sender.has_room() {
            sender.send(token());
        }
        sender.send(token());
        sender.end(finished());
        let events: Vec<Event> = std::iter::from_fn(|| stream.next_blocking()).collect();
        assert!(matches!(events.last(), Some(Event::Finished(_))));
        assert_eq!(events.len(), 5);
    }

    #[test]
    fn a_reader_wakes_an_engine_that_found_no_room_once() {
        let (sender, mut stream) = stream();
        let shared = Arc::clone(&stream.shared);
        sender.send(token());
        assert!(sender.has_room() && !shared.take_starved());
        (0..3).for_each(|_| sender.send(token()));
        assert!(!sender.has_room());
        assert!(shared.take_starved());
        assert!(!shared.take_starved());
        assert!(!sender.has_room());
        (0..2).for_each(|_| drop(stream.next_blocking()));
        assert!(sender.has_room());
        assert!(!sender.is_closed());
        drop(stream);
        assert!(sender.is_closed());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let fit = |prompt: usize, max_new_tokens: usize| {
            let request = Request {
                model: String::new(),
                prompt: vec![1; prompt],
                max_new_tokens,
                sampling: SamplingParams::default(),
                stop: StopCriteria::default(),
                logprobs: None,
                caller: crate::Caller::default(),
                cache: crate::CacheHint::default(),
                prompt_logprobs: None,
            };
            // A context of 1,000 tokens over a cache of 20 pages, which hold 640.
            new_tokens(&request, 1000, 20).map_err(|error| match error {
                EngineError::ContextLength { max_new_tokens, .. } => ("context", max_new_tokens),
                EngineError::NoPages { needed, .. } => ("pages", needed),
                other => panic!("{other}"),
            })
        };
        let rows = [
            (10, 10, Ok(10)),
            (600, 40, Ok(40)),
            (600, 41, Err(("pages", 21))),
            (600, 401, Err(("context", 401))),
            (600, usize::MAX - 1, Err(("context", usize::MAX - 1))),
            (600, usize::MAX, Ok(40)),
            (640, usize::MAX, Err(("pages", 21))),
            (999, usize::MAX, Err(("pages", 32))),
            (1000, usize::MAX, Err(("context", 1))),
            (1000, 0, Err(("pages", 32))),
            (640, 0, Ok(0)),
        ];
        for (prompt, max_new_tokens, expected) in rows {
            assert_eq!(fit(prompt, max_new_tokens), expected, "{prompt} + {max_new_tokens}");
        }
    }
}
