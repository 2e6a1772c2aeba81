//! The one error type of this crate. Texts are written for the user of the API or the command line.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file is damaged, truncated or hostile.
    #[error("{path}: {reason}", path = path.display())]
    BadFile { path: PathBuf, reason: String },
    /// The file is sound but holds something this version cannot run.
    #[error("{path}: {reason}", path = path.display())]
    Unsupported { path: PathBuf, reason: String },
    #[error("cannot read {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Kernel(#[from] kernels::KernelError),
    /// Text could not be turned into tokens or back.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template refused these messages (its own `raise_exception` text) or is broken.
    #[error("chat template: {0}")]
    Template(String),
    #[error("model `{0}` does not exist")]
    UnknownModel(String),
    /// The model is there but of the other kind.
    #[error("model `{model}` {reason}")]
    WrongModel { model: String, reason: &'static str },
    #[error(
        "this model's context is {limit} tokens; {prompt} prompt tokens and {max_new_tokens} to be generated do not fit"
    )]
    ContextLength { prompt: usize, max_new_tokens: usize, limit: usize },
    /// A parameter is out of its range.
    #[error("{parameter} {reason}")]
    InvalidParameter { parameter: &'static str, reason: String },
    /// The waiting line is full; try again after about this long.
    #[error("the engine has {waiting} requests waiting; try again in {retry_after_ms} ms")]
    QueueFull { waiting: usize, retry_after_ms: u64 },
    /// The request can never fit into the page pool.
    #[error("the request needs {needed} pages of context memory, the engine has {total}")]
    NoPages { needed: usize, total: usize },
    /// The memory budget has no room for a model; running work is left alone.
    #[error(
        "{needed} MiB of memory are needed and {available} of the budget's {total} are free: {missing} MiB are \
         missing; unload a model, or raise engine.memory_mib",
        needed = mib(*needed), available = available >> 20, total = total >> 20,
        missing = mib(needed.saturating_sub(*available))
    )]
    NoMemory { needed: usize, available: usize, total: usize },
    /// The same for a new version of a model, beside the one that is served.
    #[error(
        "a new version of `{model}` needs {needed} MiB beside the one that is served, and {available} of the \
         budget's {total} are free: {missing} MiB are missing; raise engine.memory_mib, or unload `{model}` \
         first, which frees {served} MiB and refuses its requests until the new one is there",
        needed = mib(*needed), available = available >> 20, total = total >> 20,
        missing = mib(needed.saturating_sub(*available)), served = served >> 20
    )]
    NoMemoryToSwap { model: String, served: usize, needed: usize, available: usize, total: usize },
    /// Others have taken the machine's memory; what runs goes on.
    #[error(
        "{available} MiB of memory are left on this machine, too little for new work, which needs {floor}; try \
         again when other programs have given some back, or lower engine.memory_floor_mib",
        available = available >> 20, floor = mib(*floor)
    )]
    LowMemory { available: usize, floor: usize },
    /// The model finishes what it has and takes nothing new.
    #[error("model `{0}` is being unloaded")]
    ModelUnloading(String),
    #[error("the engine is shutting down")]
    Stopped,
    /// The model's own code failed on this work; the engine goes on.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// Rounded up: what is asked for is enough.
fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}
