//! Section `engine`: sizes, and what the engine makes of them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Threads that compute. 0: one a physical core, within the quota of the control group.
    pub threads: usize,
    /// Requests that may wait for a place, besides those running; more are answered 429, unless their client
    /// has less than an equal part of them waiting.
    pub waiting_requests_max: usize,
    /// Prompt tokens that may wait, summed over those requests.
    pub waiting_tokens_max: usize,
    /// Sequences that generate together.
    pub running_sequences_max: usize,
    /// Tokens in one step: all that generate, and pieces of new prompts.
    pub step_tokens_max: usize,
    /// Prompt tokens in a step that also generates: bounds the wait for a running stream's next token.
    pub mixed_prefill_tokens_max: usize,
    /// Time of embeddings for the time of chats beside them, in percent: how much longer the wait for a
    /// running stream's next token gets. Without chats embeddings get all.
    pub embed_share_percent: usize,
    /// Tokens of inputs that may wait to be embedded.
    pub embed_waiting_tokens_max: usize,
    /// Memory for weights and context of all models together, in MiB. 0: three quarters of what is
    /// available at the start, in this machine or container.
    pub memory_mib: usize,
    /// New requests are refused while less memory than this is left in this machine or container, whoever took
    /// it, in MiB; running ones go on. Below twice as much, cached prefixes are given up. 0: never.
    pub memory_floor_mib: usize,
    /// Memory for the context of running requests, for each chat model, in MiB, at most.
    pub kv_mib: usize,
    /// How much of the memory that weights leave goes to context, in percent; the rest is for models
    /// loaded later.
    pub kv_share_percent: usize,
    /// Tokens buffered for a client that reads slowly; then its sequence pauses.
    pub stream_backlog: usize,
    /// A sequence that its client paused for this long is cancelled.
    pub stalled_client_ms: u64,
    /// `adaptive`: likely next tokens are computed ahead where that saves time; `off`: never; `always`: as
    /// many as there are, whatever that costs, to see how often they come true. Answers are the same.
    pub speculation: Speculation,
    /// How keys and values are kept: `int16`, or `int8`, which takes half the memory and costs a little
    /// accuracy.
    pub kv_format: KvFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KvFormat {
    #[default]
    Int16,
    Int8,
}

impl KvFormat {
    pub fn kernels(self) -> kernels::KvFormat {
        match self {
            KvFormat::Int16 => kernels::KvFormat::Int16,
            KvFormat::Int8 => kernels::KvFormat::Int8,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speculation {
    #[default]
    Adaptive,
    Off,
    Always,
}

impl Default for Engine {
    fn default() -> Self {
        let options = engine::EngineOptions::default();
        Engine {
            threads: 0,
            waiting_requests_max: options.waiting_requests_max,
            waiting_tokens_max: options.waiting_tokens_max,
            running_sequences_max: options.running_sequences_max,
            step_tokens_max: options.step_tokens_max,
            mixed_prefill_tokens_max: options.mixed_prefill_tokens_max,
            embed_share_percent: options.embed_share_percent,
            embed_waiting_tokens_max: options.embed_waiting_tokens_max,
            memory_mib: 0,
            memory_floor_mib: options.watch.floor_bytes >> 20,
            kv_mib: options.kv_bytes_max >> 20,
            kv_share_percent: options.kv_share_percent,
            stream_backlog: options.stream_backlog,
            stalled_client_ms: options.stalled_client_max.as_millis() as u64,
            speculation: Speculation::default(),
            kv_format: KvFormat::default(),
        }
    }
}

impl Engine {
    /// The budget of all models, measured now where the setting leaves it to the machine.
    fn memory_bytes_max(&self) -> usize {
        match self.memory_mib {
            0 => engine::memory::available().map_or(usize::MAX, |available| available / 4 * 3),
            mib => mib.saturating_mul(1 << 20),
        }
    }

    /// The engine's own form of this section.
    pub fn options(&self) -> engine::EngineOptions {
        engine::EngineOptions {
            waiting_requests_max: self.waiting_requests_max,
            waiting_tokens_max: self.waiting_tokens_max,
            running_sequences_max: self.running_sequences_max,
            step_tokens_max: self.step_tokens_max,
            mixed_prefill_tokens_max: self.mixed_prefill_tokens_max,
            embed_share_percent: self.embed_share_percent,
            embed_waiting_tokens_max: self.embed_waiting_tokens_max,
            memory_bytes_max: self.memory_bytes_max(),
            watch: engine::WatchOptions {
                floor_bytes: self.memory_floor_mib.saturating_mul(1 << 20),
                ..engine::WatchOptions::default()
            },
            kv_bytes_max: self.kv_mib.saturating_mul(1 << 20),
            kv_share_percent: self.kv_share_percent,
            stream_backlog: self.stream_backlog,
            stalled_client_max: Duration::from_millis(self.stalled_client_ms),
            speculation: match self.speculation {
                Speculation::Adaptive => engine::Speculation::Adaptive,
                Speculation::Off => engine::Speculation::Off,
                Speculation::Always => engine::Speculation::Always,
            },
            ..engine::EngineOptions::default()
        }
    }
}
