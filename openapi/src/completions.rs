//! `POST /v1/completions`: request and reply; a stream's chunks have the reply's shape.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chat::{CacheRetention, FinishReason, StreamOptions};
use crate::input::{Stop, TextsOrTokens};
use crate::logprobs::CompletionLogprobs;
use crate::object::CompletionObject;
use crate::usage::Usage;
use crate::{Ignored, Outline};

/// Parameters in the four groups of [`ChatRequest`](crate::chat::ChatRequest).
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    pub model: String,
    pub prompt: TextsOrTokens,
    /// Tokens to generate at most; 16 by default. 0 only together with `echo`.
    pub max_tokens: Option<u32>,
    /// 0 always takes the most likely token.
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f32>,
    /// Chooses among the most likely tokens that together have this probability.
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f32>,
    /// Choices to generate for each prompt.
    #[schemars(range(min = 1, max = 128))]
    pub n: Option<u32>,
    /// Generates so many and answers the `n` with the highest mean log-probability; not while streaming.
    #[schemars(range(min = 1, max = 128))]
    pub best_of: Option<u32>,
    /// Same seed and same request, same output. Choice number i uses `seed + i`.
    pub seed: Option<i64>,
    /// Answer in server-sent events.
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub stop: Option<Stop>,
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: Option<f32>,
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: Option<f32>,
    /// Token ids and what to add to their logits, from -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Report the log-probability of each token and of this many most likely ones.
    #[schemars(range(min = 0, max = 20))]
    pub logprobs: Option<u32>,
    /// Begin the output with the prompt.
    pub echo: Option<bool>,

    /// Chooses among this many most likely tokens; 0 or -1 among all.
    #[schemars(range(min = -1))]
    pub top_k: Option<i64>,
    /// Drops tokens less likely than this fraction of the most likely one.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f32>,
    /// Above 1 discourages tokens seen before, below 1 encourages them.
    #[schemars(range(min = 0, max = 2))]
    pub repetition_penalty: Option<f32>,
    /// Go on past the model's end of sequence.
    pub ignore_eos: Option<bool>,
    pub stop_token_ids: Option<Vec<u32>>,
    /// No end of sequence before this many tokens.
    pub min_tokens: Option<u32>,
    /// Keep the stop text that matched in the output.
    pub include_stop_str_in_output: Option<bool>,
    /// `false` shows the model's special tokens in the output.
    pub skip_special_tokens: Option<bool>,
    /// `false` leaves out the tokens the model's tokenizer puts around a text.
    pub add_special_tokens: Option<bool>,

    /// Names requests that begin alike, within the caller's tenant: what `24h` retains is divided among keys.
    pub prompt_cache_key: Option<String>,
    /// How long the prompt's pages are kept; by default as long as there is room.
    pub prompt_cache_retention: Option<CacheRetention>,
    /// Only requests with the same one share the prompt's pages, within the caller's tenant.
    pub cache_salt: Option<String>,
    /// `false` neither looks for the prompt's pages nor leaves any.
    pub cache_prompt: Option<bool>,

    pub user: Option<Ignored>,
    pub metadata: Option<Ignored>,
    pub store: Option<Ignored>,
    pub service_tier: Option<Ignored>,
    pub priority: Option<Ignored>,
    pub request_id: Option<Ignored>,
    pub spaces_between_special_tokens: Option<Ignored>,

    #[schemars(skip)]
    pub suffix: Option<Outline>,
    #[schemars(skip)]
    pub response_format: Option<Outline>,
    #[schemars(skip)]
    pub prompt_logprobs: Option<Outline>,
    #[schemars(skip)]
    pub prompt_embeds: Option<Outline>,
    #[schemars(skip)]
    pub truncate_prompt_tokens: Option<Outline>,
    #[schemars(skip)]
    pub structured_outputs: Option<Outline>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Completion<'a> {
    pub id: Cow<'a, str>,
    pub object: CompletionObject,
    /// Seconds since 1970.
    pub created: u64,
    pub model: Cow<'a, str>,
    pub system_fingerprint: Option<Cow<'a, str>>,
    pub choices: Vec<CompletionChoice>,
    /// In a stream: absent unless `include_usage`; then null in all chunks but the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Usage>")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CompletionChoice {
    pub index: u32,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    /// Null in a stream until the choice's last chunk.
    pub finish_reason: Option<FinishReason>,
}
