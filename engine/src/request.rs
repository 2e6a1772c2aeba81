//! What a caller asks of the engine and what it gets back. Valid by construction: the gateway parses
//! wire requests into these, [`Request::validate`] checks ranges once.
//!
//! Who asks stands in `caller.rs`, what is to be kept in `cache.rs`, what is checked in `validate.rs`.

mod cache;
mod caller;
mod validate;

use std::time::Duration;

use compact_str::CompactString;

pub use self::cache::{CacheHint, Retention};
pub use self::caller::{Band, Caller};

/// One generation.
#[derive(Clone, Debug)]
pub struct Request {
    /// Served name of the model.
    pub model: String,
    /// On whose behalf.
    pub caller: Caller,
    pub cache: CacheHint,
    /// Prompt as token ids; not empty.
    pub prompt: Vec<u32>,
    /// At least 1, or 0 together with `prompt_logprobs` (score only). `usize::MAX` is as many as the
    /// context has room for.
    pub max_new_tokens: usize,
    pub sampling: SamplingParams,
    pub stop: StopCriteria,
    /// Report each generated token's log-probability and those of this many most likely tokens (0-20).
    pub logprobs: Option<usize>,
    /// Report the same for the prompt's tokens (completions with `echo`).
    pub prompt_logprobs: Option<usize>,
}

/// How the next token is chosen. Defaults are OpenAI's; extensions have vLLM's names and meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy. 0-2.
    pub temperature: f32,
    /// Nucleus: smallest set of most likely tokens with at least this mass. (0, 1].
    pub top_p: f32,
    /// Only the k most likely; 0 is all.
    pub top_k: usize,
    /// Only tokens at least this fraction as likely as the most likely one. 0-1.
    pub min_p: f32,
    /// Same seed, same prompt: same tokens, whatever else is in the batch. `None` draws one.
    pub seed: Option<u64>,
    /// > 1 discourages tokens seen in prompt or output (CTRL, Keskar et al. 2019). (0, 2].
    pub repetition_penalty: f32,
    /// Subtracted once from tokens already generated. -2..=2.
    pub presence_penalty: f32,
    /// Subtracted as often as the token was generated. -2..=2.
    pub frequency_penalty: f32,
    /// Added to logits, -100..=100, by token id.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
        }
    }
}

/// When to stop before `max_new_tokens`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StopCriteria {
    /// Text that ends the generation; not part of the output unless `include_stop_text`.
    pub strings: Vec<String>,
    /// Tokens that end it, besides the model's own end-of-sequence tokens.
    pub token_ids: Vec<u32>,
    /// Go on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    pub include_stop_text: bool,
    /// No end of sequence or stop token before this many tokens.
    pub min_tokens: usize,
    /// Render special tokens in the output text (vLLM's `skip_special_tokens: false`).
    pub keep_special_tokens: bool,
}

/// What a running request reports, in order: prompt log-probabilities if asked for, tokens, one end.
#[derive(Clone, Debug)]
pub enum Event {
    /// One entry a prompt token; the first token has none.
    PromptLogprobs(Vec<Option<TokenLogprob>>),
    Token(TokenEvent),
    Finished(Finished),
    /// The engine gave up on this request; nothing follows.
    Failed(String),
}

/// One generated token. `text` may be empty while a character is incomplete or a stop string may be
/// beginning; all texts of a request concatenated are its output.
#[derive(Clone, Debug)]
pub struct TokenEvent {
    pub token: u32,
    /// In place where it has at most 24 bytes.
    pub text: CompactString,
    pub logprob: Option<TokenLogprob>,
}

/// A token's natural-log probability under the model (before temperature and truncation, as vLLM and
/// OpenAI report it), with the most likely alternatives.
#[derive(Clone, Debug)]
pub struct TokenLogprob {
    pub token: u32,
    /// The token's own bytes, which need not be valid UTF-8 alone.
    pub bytes: Vec<u8>,
    pub logprob: f32,
    pub top: Vec<TopLogprob>,
}

#[derive(Clone, Debug)]
pub struct TopLogprob {
    pub token: u32,
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    pub reason: FinishReason,
    /// Text held back for a stop string that did not come; belongs after the last token's.
    pub text: String,
    pub prompt_tokens: usize,
    /// Prompt tokens whose keys and values were found in the cache.
    pub cached_tokens: usize,
    /// Generated tokens, the stopping one included.
    pub completion_tokens: usize,
    /// Log-probability of the token that ended it, where that is no part of the output and log-probabilities
    /// were asked for.
    pub end_logprob: Option<f32>,
    /// The stop string that matched, if one did.
    pub stop_string: Option<String>,
    pub timing: Timing,
}

/// Where a request's time went, for metrics and logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission to the first step that held one of its tokens.
    pub queue: Duration,
    /// From there to its first token.
    pub prefill: Duration,
    /// From its first token to its end.
    pub decode: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End of sequence, a stop token or a stop string.
    Stop,
    /// `max_new_tokens` or the context's end.
    Length,
    /// The caller dropped its stream, or the engine is draining.
    Cancelled,
    /// Its model was unloaded without waiting for it.
    Unloaded,
}
