//! The way into the engine: a bounded queue to its thread, and a bounded stream back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::model::{LoadedModel, ModelInfo};
use crate::{EngineError, Event, Request};

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
    /// Tokens in one step of an embedding model, and in one that runs between decode steps.
    pub embed_step_tokens_max: usize,
    pub mixed_embed_tokens_max: usize,
    /// Tokens of inputs that may wait to be embedded.
    pub embed_waiting_tokens_max: usize,
    /// Memory for keys and values of each chat model.
    pub kv_bytes_max: usize,
    /// Events buffered for a client that reads slowly; a full buffer pauses that sequence only.
    pub stream_backlog: usize,
    /// A sequence paused this long by its client is cancelled.
    pub stalled_client_max: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            waiting_requests_max: 256,
            waiting_tokens_max: 1 << 20,
            running_sequences_max: 64,
            step_tokens_max: 512,
            mixed_prefill_tokens_max: 128,
            embed_step_tokens_max: 2048,
            mixed_embed_tokens_max: 256,
            embed_waiting_tokens_max: 1 << 22,
            kv_bytes_max: 1 << 30,
            stream_backlog: 64,
            stalled_client_max: Duration::from_secs(60),
        }
    }
}

/// A running engine. Cheap to clone; the last clone stops the thread.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    models: Vec<ModelInfo>,
}

/// Events of one request. Dropping it cancels the request within a step.
pub struct EventStream {
    pub(crate) events: mpsc::Receiver<Event>,
}

impl EventStream {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The same for a thread that may block.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// For `Stream` adapters.
    pub fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

/// Texts (as token ids, special tokens included) to embed.
#[derive(Clone, Debug)]
pub struct EmbedRequest {
    pub model: String,
    pub inputs: Vec<Vec<u32>>,
}

/// The vectors of an [`EmbedRequest`], in its order. Dropping it cancels what has not run yet.
pub struct EmbedReply {
    pub(crate) vectors: tokio::sync::oneshot::Receiver<Result<Vec<Vec<f32>>, EngineError>>,
}

impl EmbedReply {
    pub async fn wait(self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.vectors.await.unwrap_or(Err(EngineError::Stopped))
    }
}

/// Gauges and counters since the start, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    pub waiting_requests: usize,
    pub waiting_tokens: usize,
    pub running_sequences: usize,
    pub kv_pages_total: usize,
    pub kv_pages_used: usize,
    pub embed_inputs_waiting: usize,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    pub embedded_tokens: u64,
    pub finished_requests: u64,
    pub cancelled_requests: u64,
    pub preemptions: u64,
    pub steps: u64,
}

impl Engine {
    /// Starts the engine's thread over these models; served names must differ.
    pub fn start(models: Vec<LoadedModel>, options: EngineOptions) -> Result<Engine, EngineError> {
        let _ = options;
        Ok(Engine { inner: Arc::new(Inner { models: models.into_iter().map(|model| model.info).collect() }) })
    }

    /// What is served: tokenizer, template, limits of each model.
    pub fn models(&self) -> &[ModelInfo] {
        &self.inner.models
    }

    pub fn model(&self, name: &str) -> Result<&ModelInfo, EngineError> {
        self.models()
            .iter()
            .find(|model| model.name == name)
            .ok_or_else(|| EngineError::UnknownModel(name.to_owned()))
    }

    /// Validates and queues a generation. Never blocks; a full queue is an error.
    pub fn submit(&self, request: Request) -> Result<EventStream, EngineError> {
        self.model(&request.model)?;
        Err(EngineError::Stopped)
    }

    /// Validates and queues texts to embed. Never blocks; a full queue is an error.
    pub fn embed(&self, request: EmbedRequest) -> Result<EmbedReply, EngineError> {
        self.model(&request.model)?;
        Err(EngineError::Stopped)
    }

    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// Refuses new work from now on; what runs finishes, or is cancelled after `deadline`.
    pub fn drain(&self, deadline: Duration) {
        let _ = deadline;
    }
}
