//! The configuration: every key, its meaning and its default. The comments on the fields below are what
//! `janus config --print-default` prints.
//!
//! Values come from, each over the one before: the defaults here, a TOML file, environment variables
//! `JANUS_SECTION_KEY`, and overrides from the command line. Unknown keys are refused.

mod address;
mod check;
mod client;
mod engine;
mod layers;
mod prefix;
mod print;
mod public;
mod secret;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use address::listen_address;
pub use client::{Band, Client};
pub use engine::{Engine, KvFormat, Speculation};
pub use layers::Sources;
pub use prefix::Prefix;
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
}
