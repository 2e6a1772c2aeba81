//! Log-probabilities as chat replies and as completions report them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Of a chat choice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatLogprobs {
    pub content: Option<Vec<ChatTokenLogprob>>,
    pub refusal: Option<Vec<ChatTokenLogprob>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatTokenLogprob {
    /// The token's text, with replacement characters where it is not whole characters.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The token's own bytes.
    pub bytes: Option<Vec<u8>>,
    pub top_logprobs: Vec<ChatTopLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChatTopLogprob {
    pub token: String,
    pub logprob: f32,
    pub bytes: Option<Vec<u8>>,
}

/// Of a completions choice: four lists of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompletionLogprobs {
    /// Where each token starts in the choice's text, in characters.
    pub text_offset: Vec<u64>,
    /// `null` for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    pub tokens: Vec<String>,
    /// The most likely tokens at each place; `null` when none were asked for.
    pub top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
}
