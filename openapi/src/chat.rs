//! `POST /v1/chat/completions`: request, reply, and the chunks of a stream.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::input::{Content, Stop};
use crate::logprobs::ChatLogprobs;
use crate::object::{ChatChunkObject, ChatCompletionObject};
use crate::usage::Usage;
use crate::{Ignored, Outline};

/// Parameters in four groups: OpenAI's, extensions under vLLM's names, those that are accepted without
/// effect, and those that are known and refused when they would change the meaning of the request.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    pub model: String,
    #[schemars(length(min = 1))]
    pub messages: Vec<Message>,
    /// Tokens to generate at most; the older name of `max_completion_tokens`.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// Tokens to generate at most. Without it, what is left of the model's context.
    #[schemars(range(min = 1))]
    pub max_completion_tokens: Option<u32>,
    /// 0 always takes the most likely token.
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f32>,
    /// Chooses among the most likely tokens that together have this probability.
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f32>,
    /// Choices to generate.
    #[schemars(range(min = 1, max = 128))]
    pub n: Option<u32>,
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
    pub logprobs: Option<bool>,
    #[schemars(range(min = 0, max = 20))]
    pub top_logprobs: Option<u32>,

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
    /// `false` leaves out the template's opening of the assistant's turn.
    pub add_generation_prompt: Option<bool>,
    /// More variables for the model's chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,

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
    pub safety_identifier: Option<Ignored>,
    pub parallel_tool_calls: Option<Ignored>,
    pub priority: Option<Ignored>,
    pub request_id: Option<Ignored>,
    pub spaces_between_special_tokens: Option<Ignored>,

    #[schemars(skip)]
    pub tools: Option<Outline>,
    #[schemars(skip)]
    pub tool_choice: Option<Outline>,
    #[schemars(skip)]
    pub functions: Option<Outline>,
    #[schemars(skip)]
    pub function_call: Option<Outline>,
    #[schemars(skip)]
    pub response_format: Option<Outline>,
    #[schemars(skip)]
    pub audio: Option<Outline>,
    #[schemars(skip)]
    pub modalities: Option<Outline>,
    #[schemars(skip)]
    pub prediction: Option<Outline>,
    #[schemars(skip)]
    pub web_search_options: Option<Outline>,
    #[schemars(skip)]
    pub reasoning_effort: Option<Outline>,
    #[schemars(skip)]
    pub verbosity: Option<Outline>,
    #[schemars(skip)]
    pub best_of: Option<Outline>,
    #[schemars(skip)]
    pub echo: Option<Outline>,
    #[schemars(skip)]
    pub continue_final_message: Option<Outline>,
    #[schemars(skip)]
    pub chat_template: Option<Outline>,
    #[schemars(skip)]
    pub prompt_logprobs: Option<Outline>,
    #[schemars(skip)]
    pub truncate_prompt_tokens: Option<Outline>,
    #[schemars(skip)]
    pub structured_outputs: Option<Outline>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CacheRetention {
    /// As long as there is room, and never on disk.
    #[serde(rename = "in_memory", alias = "in-memory")]
    InMemory,
    /// For a day after its last use, in preference to others, within the tenant's share of the cache.
    #[serde(rename = "24h")]
    Day,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// End the stream with a chunk that holds the token counts.
    pub include_usage: Option<bool>,
    pub include_obfuscation: Option<Ignored>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: Role,
    pub content: Option<Content>,
    pub name: Option<String>,
    /// Of an assistant's earlier turn.
    pub tool_calls: Option<Vec<Value>>,
    /// Of a tool's answer.
    pub tool_call_id: Option<String>,

    pub refusal: Option<Ignored>,
    pub annotations: Option<Ignored>,
    pub audio: Option<Ignored>,
    pub function_call: Option<Ignored>,
    /// Of an assistant's earlier turn; templates that know it decide what becomes of it.
    pub reasoning_content: Option<String>,
    pub reasoning: Option<Ignored>,
    /// OpenAI's clients add it to what their `parse` and `stream` return, and send it back.
    pub parsed: Option<Ignored>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    /// The same as `system`.
    Developer,
    #[default]
    User,
    Assistant,
    Tool,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChatCompletion {
    pub id: String,
    pub object: ChatCompletionObject,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
    pub service_tier: Option<String>,
    pub system_fingerprint: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChatChoice {
    pub index: u32,
    pub message: AssistantMessage,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: FinishReason,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AssistantMessage {
    pub role: AssistantRole,
    pub content: Option<String>,
    pub refusal: Option<String>,
    #[serde(default)]
    pub annotations: Vec<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssistantRole {
    #[default]
    Assistant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text or token came.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
}

/// One event of a stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChatChunk<'a> {
    pub id: Cow<'a, str>,
    pub object: ChatChunkObject,
    /// Seconds since 1970, the same in all chunks.
    pub created: u64,
    pub model: Cow<'a, str>,
    pub system_fingerprint: Option<Cow<'a, str>>,
    /// Empty in the chunk that holds the token counts.
    pub choices: Vec<ChatChunkChoice>,
    /// Absent unless `include_usage`; then null in all chunks but the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Usage>")]
    pub usage: Option<Option<Usage>>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChatChunkChoice {
    pub index: u32,
    pub delta: Delta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<FinishReason>,
}

/// What a chunk adds to the message.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Delta {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<AssistantRole>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}
