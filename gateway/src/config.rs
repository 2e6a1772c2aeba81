//! The configuration: every key, its meaning and its default. The comments on the fields below are what
//! `janus config --print-default` prints.
//!
//! Values come from, each over the one before: the defaults here, a TOML file, environment variables
//! `JANUS_SECTION_KEY`, and overrides from the command line. Unknown keys are refused.

mod address;
mod client;
mod layers;
mod print;
mod public;
mod secret;

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use address::is_host_name;
pub use address::listen_address;
pub use client::{Band, Client};
pub use layers::Sources;
pub use print::print_default;
pub use public::Public;
pub use secret::{Secret, check_private};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: {reason}")]
    Syntax { origin: String, reason: String },
    #[error("{origin}: there is no {what} `{key}`{hint}")]
    Unknown { origin: String, what: &'static str, key: String, hint: String },
    #[error("{origin}: `{key}` must be {expected}")]
    WrongType { origin: String, key: String, expected: &'static str },
    #[error("`{key}` {reason}")]
    Invalid { key: &'static str, reason: String },
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Sockets, deadlines and sizes.
    pub server: Server,
    /// Who may use the server. Without keys it listens on loopback addresses only.
    pub auth: Auth,
    /// What is served.
    pub models: Models,
    /// The inference engine's sizes.
    pub engine: Engine,
    /// What is kept of prompts for those that begin with the same tokens. Nothing is shared between
    /// callers with different keys, except prefixes named public.
    pub prefix: Prefix,
    /// What one request may ask for.
    pub limits: Limits,
    /// Logs go to the standard error stream. They never hold prompts, outputs or keys.
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port. Port 0 lets the system choose one.
    pub listen: String,
    /// Without API keys: names, besides `localhost` and loopback addresses, that requests may have in
    /// their `Host` header. Others are answered 403, which keeps web pages from reaching the server by a
    /// name of their own that resolves to this machine.
    pub allowed_hosts: Vec<String>,
    /// Connections open at a time; more wait in the system's queue.
    pub connections_max: usize,
    /// Requests in work at a time, streams included; more are answered 503 at once, unless their client has
    /// less than an equal part of them in work.
    pub requests_in_flight_max: usize,
    /// From the start of a connection, or of a request on it, to the end of the request's headers.
    pub header_deadline_ms: u64,
    /// From the end of the headers to the end of the body.
    pub body_deadline_ms: u64,
    /// A connection without a request is closed after this.
    pub idle_deadline_ms: u64,
    /// A client that takes none of its response for this long is disconnected.
    pub write_deadline_ms: u64,
    /// A whole request, streaming included.
    pub request_deadline_ms: u64,
    /// On shutdown: how long running requests may go on.
    pub drain_deadline_ms: u64,
    /// Size of a request's body.
    pub body_bytes_max: usize,
    /// Size of a request's headers.
    pub header_bytes_max: usize,
    /// Requests in work at a time on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// A stream without output for this long sends a comment, so that nobody between gives up on it.
    pub keep_alive_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Keys clients send as `Authorization: Bearer KEY`. Better kept in a file or in the environment
    /// (JANUS_AUTH_API_KEYS, separated by commas).
    pub api_keys: Vec<Secret>,
    /// A file with one key a line; empty lines and lines from `#` on are skipped. One of this user's own must be
    /// closed to others (`chmod 600`). Empty: no file.
    pub api_keys_file: String,
    /// Clients by name, each a section `[[auth.clients]]` with `name`, `keys` (a list) or `keys_file`, and
    /// optionally `tenant` (clients of one share cached prompts; default: the name), `weight` (share of the
    /// service, 1 to 1000) and `band` (`system`, `interactive`, `batch` or `best-effort`: how urgent; a
    /// request can lower it by the header `x-janus-band`). Each key of the lists above is a client of
    /// its own, of weight 1, interactive.
    pub clients: Vec<Client>,
    /// Keys that may also load and unload models (`/admin/models`). Without any, only a server without
    /// API keys lets that be done, by everybody who reaches it.
    pub admin_keys: Vec<Secret>,
    /// A file with such keys, in the form of `api_keys_file`. Empty: no file.
    pub admin_keys_file: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Models {
    /// What to load: names from the catalogue (`janus models`), GGUF files or model folders, each
    /// optionally as `NAME=PATH` to choose the name requests use.
    pub serve: Vec<String>,
    /// Small models that guess the next tokens of large ones, which answer the same but sooner: SERVED=MODEL,
    /// the name requests use and what to load, as in `chat=smollm2-135m-instruct`. Both need the same
    /// vocabulary.
    pub drafts: Vec<String>,
    /// Where pulled models are kept. Empty: `$JANUS_HOME/models`, else `$XDG_DATA_HOME/janus/models`, else
    /// `~/.local/share/janus/models`.
    pub folder: String,
    /// Caps the context of every model, in tokens. 0: what each model was made for.
    pub context_tokens_max: usize,
    /// Check the SHA-256 of the catalogue's models each time they are loaded, beside the loading itself.
    pub verify: bool,
    /// Keep the weights of large models on disk as they are computed with, so that the next start finds
    /// them instead of packing them again.
    pub packed: bool,
    /// Where. Only this user may write there: what is found is checked for damage, not for malice. Empty:
    /// `$JANUS_HOME/packed`, else `$XDG_CACHE_HOME/janus/packed`, else `~/.cache/janus/packed`.
    pub packed_folder: String,
    /// What the folder may hold, in MiB; the least recently used go first.
    pub packed_mib: usize,
    /// The models of `serve` stay loaded. Otherwise those that are idle may be unloaded when memory is
    /// needed for others, unused for longest first.
    pub keep: bool,
    /// Load a model of `serve`, or an installed one of the catalogue, when a request names it.
    pub on_demand: bool,
    /// A request waits so long for its model to be loaded.
    pub on_demand_wait_ms: u64,
}

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
    /// `adaptive`: likely next tokens are computed ahead where that saves time; `off`: never. Answers are
    /// the same.
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prefix {
    /// Keep them at all.
    pub enabled: bool,
    /// A folder where they outlive the process. Empty: none. One process at a time can use it.
    pub store_dir: String,
    /// What the folder may hold, in MiB; the least recently used go first.
    pub store_mib: usize,
    /// A file, closed to others, with a key of 32 bytes, or 64 hexadecimal digits, to encrypt what is stored and make its names
    /// with. Empty: it is stored in the clear, readable for whoever can read the folder, and named by a secret
    /// in the folder.
    pub store_key_file: String,
    /// Prefixes that callers share, each a section `[[prefix.public]]` with one of `system` or `system_file`
    /// (a chat's system message) and `text` or `text_file` (what prompts of completions begin with), and
    /// optionally `tenants` (a list: those of `auth.clients` that share it; default: everybody) and `model`
    /// (default: all). Whether another has used one can then be told from how quickly a prompt begins.
    pub public: Vec<Public>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Choices of one request: its prompts times `n`.
    pub choices_max: usize,
    /// Stop strings.
    pub stop_strings_max: usize,
    /// Bytes of one stop string.
    pub stop_string_bytes_max: usize,
    /// Stop token ids.
    pub stop_tokens_max: usize,
    /// Entries of `logit_bias`.
    pub logit_bias_max: usize,
    /// Likely alternatives reported for each token.
    pub logprobs_max: usize,
    /// Memory for log-probabilities of all requests, in MiB: those of prompts, and of answers that are not
    /// streamed.
    pub logprobs_mib: usize,
    /// Messages of one chat.
    pub messages_max: usize,
    /// Inputs of one embeddings request.
    pub embedding_inputs_max: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    pub format: LogFormat,
    /// What to log, in the syntax of tracing's EnvFilter, as in `info,gateway=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Auto,
    Text,
    Json,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: "127.0.0.1:8080".into(),
            allowed_hosts: Vec::new(),
            connections_max: 1024,
            requests_in_flight_max: 512,
            header_deadline_ms: 10_000,
            body_deadline_ms: 30_000,
            idle_deadline_ms: 75_000,
            write_deadline_ms: 60_000,
            request_deadline_ms: 600_000,
            drain_deadline_ms: 30_000,
            body_bytes_max: 8 << 20,
            header_bytes_max: 32 << 10,
            h2_streams_max: 128,
            keep_alive_ms: 15_000,
        }
    }
}

impl Default for Models {
    fn default() -> Self {
        Models {
            drafts: Vec::new(),
            serve: Vec::new(),
            folder: String::new(),
            context_tokens_max: 0,
            verify: true,
            packed: true,
            packed_folder: String::new(),
            packed_mib: 16384,
            keep: true,
            on_demand: false,
            on_demand_wait_ms: 60_000,
        }
    }
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

impl Default for Prefix {
    fn default() -> Self {
        Prefix {
            enabled: true,
            store_dir: String::new(),
            store_mib: 4096,
            store_key_file: String::new(),
            public: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            choices_max: 128,
            stop_strings_max: 16,
            stop_string_bytes_max: 1024,
            stop_tokens_max: 128,
            logit_bias_max: 1024,
            logprobs_max: 20,
            logprobs_mib: 256,
            messages_max: 4096,
            embedding_inputs_max: 2048,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Auto, filter: "info".into() }
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
            },
            ..engine::EngineOptions::default()
        }
    }
}

impl Prefix {
    /// The engine's own form of this section; opens the folder.
    ///
    /// # Errors
    /// When a file cannot be read or the folder cannot be used, naming it.
    pub fn options(&self) -> anyhow::Result<engine::PrefixOptions> {
        let public = self.public.iter().map(Public::prefix).collect::<anyhow::Result<_>>()?;
        let mut options = engine::PrefixOptions { enabled: self.enabled, store: None, public };
        if self.enabled && !self.store_dir.is_empty() {
            let key = match self.store_key_file.as_str() {
                "" => None,
                path => {
                    check_private(path.as_ref(), "prefix.store_key_file")?;
                    Some(engine::StoreKey::read(path.as_ref())?)
                }
            };
            let bytes_max = (self.store_mib as u64).saturating_mul(1 << 20);
            let folder = PathBuf::from(&self.store_dir);
            options.store = Some(engine::PageStore::open(engine::StoreOptions { folder, bytes_max, key })?);
        }
        Ok(options)
    }
}

impl Config {
    /// Puts the sources over the defaults and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`], naming the source and the key, with the nearest known one for an unknown key.
    pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigError> {
        let config = layers::merge(sources)?;
        config.check()?;
        Ok(config)
    }

    /// Checks values that types cannot. Whether the address may be listened on is checked by
    /// [`listen_address`], once the keys are read.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, value, least) in self.lower_bounds() {
            if value < least {
                return Err(ConfigError::Invalid { key, reason: format!("must be at least {least}") });
            }
        }
        if let Some(host) = self.server.allowed_hosts.iter().find(|host| !is_host_name(host)) {
            return Err(ConfigError::Invalid {
                key: "server.allowed_hosts",
                reason: format!("holds `{host}`: write host names only, without scheme or port"),
            });
        }
        if self.engine.kv_share_percent > 100 {
            return Err(ConfigError::Invalid {
                key: "engine.kv_share_percent",
                reason: "can be 100 at most".into(),
            });
        }
        Client::check_all(&self.auth.clients)?;
        self.prefix.public.iter().try_for_each(|public| public.check(&self.auth))?;
        if self.limits.logprobs_max > 20 {
            return Err(ConfigError::Invalid {
                key: "limits.logprobs_max",
                reason: "can be 20 at most".into(),
            });
        }
        Ok(())
    }

    /// Key, value, and the least it can be.
    fn lower_bounds(&self) -> Vec<(&'static str, u64, u64)> {
        let (server, engine, limits) = (&self.server, &self.engine, &self.limits);
        vec![
            ("server.connections_max", server.connections_max as u64, 1),
            ("server.requests_in_flight_max", server.requests_in_flight_max as u64, 1),
            ("server.header_deadline_ms", server.header_deadline_ms, 1),
            ("server.body_deadline_ms", server.body_deadline_ms, 1),
            ("server.idle_deadline_ms", server.idle_deadline_ms, 1),
            ("server.write_deadline_ms", server.write_deadline_ms, 1),
            ("server.request_deadline_ms", server.request_deadline_ms, 1),
            ("server.body_bytes_max", server.body_bytes_max as u64, 1),
            // The smallest buffer hyper allows.
            ("server.header_bytes_max", server.header_bytes_max as u64, 8192),
            ("server.h2_streams_max", server.h2_streams_max.into(), 1),
            ("server.keep_alive_ms", server.keep_alive_ms, 1),
            ("engine.waiting_requests_max", engine.waiting_requests_max as u64, 1),
            ("engine.waiting_tokens_max", engine.waiting_tokens_max as u64, 1),
            ("engine.running_sequences_max", engine.running_sequences_max as u64, 1),
            ("engine.step_tokens_max", engine.step_tokens_max as u64, 1),
            ("engine.mixed_prefill_tokens_max", engine.mixed_prefill_tokens_max as u64, 1),
            ("engine.embed_share_percent", engine.embed_share_percent as u64, 1),
            ("engine.embed_waiting_tokens_max", engine.embed_waiting_tokens_max as u64, 1),
            ("engine.kv_mib", engine.kv_mib as u64, 1),
            ("engine.stream_backlog", engine.stream_backlog as u64, 1),
            ("engine.stalled_client_ms", engine.stalled_client_ms, 1),
            ("models.on_demand_wait_ms", self.models.on_demand_wait_ms, 1),
            ("models.packed_mib", self.models.packed_mib as u64, 1),
            ("prefix.store_mib", self.prefix.store_mib as u64, 1),
            ("limits.choices_max", limits.choices_max as u64, 1),
            ("limits.logprobs_mib", limits.logprobs_mib as u64, 1),
            ("limits.messages_max", limits.messages_max as u64, 1),
            ("limits.embedding_inputs_max", limits.embedding_inputs_max as u64, 1),
        ]
    }
}
