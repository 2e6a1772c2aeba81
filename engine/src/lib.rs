//! Janus' inference engine: model files, tokens, prompts, scheduler, pages, models, sampling.
//!
//! Synchronous: it owns its OS threads, spawns no async task, and knows no HTTP. A caller opens models
//! ([`model::load`]), starts an [`Engine`], turns text into token ids with the model's
//! [`Tokenizer`](tokenizer::Tokenizer) and [`ChatTemplate`](prompt::ChatTemplate), submits a
//! [`Request`] and reads [`Event`]s.

pub mod batch;
pub mod bench;
mod clock;
pub mod error;
pub mod files;
pub mod handle;
mod inbox;
pub mod inspect;
pub mod loading;
pub mod memory;
pub mod model;
pub mod models;
pub mod packed;
pub mod pages;
pub mod prefix;
mod private_file;
pub mod prompt;
pub mod request;
pub mod residents;
pub mod runner;
pub mod sampler;
pub mod scheduler;
pub mod speculation;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokenizer;
mod watch;

pub use batch::Batch;
pub use clock::StepClock;
pub use error::EngineError;
pub use handle::{BandStats, EmbedReply, EmbedRequest, Engine, EngineOptions, EngineStats, EventStream};
pub use loading::{LoadPlan, Unloading};
pub use packed::{PackedCache, PackedOptions};
pub use pages::store::{PageStore, StoreKey, StoreOptions, StoreStats};
pub use prefix::{PrefixOptions, PublicContent, PublicPrefix};
pub use request::{
    Band, CacheHint, Caller, Event, FinishReason, Finished, Request, Retention, SamplingParams, StopCriteria,
    Timing, TokenEvent, TokenLogprob, TopLogprob,
};
pub use residents::{ModelLease, ModelState, ModelStatus, UnloadMode};
pub use speculation::Speculation;
pub use watch::WatchOptions;
