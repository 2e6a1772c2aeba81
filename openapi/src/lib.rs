//! Wire types of the OpenAI API as Janus serves it. No behaviour lives here: what a parameter does,
//! and which ones are refused, is the gateway's business.
//!
//! - [`chat`], [`completions`], [`embeddings`], [`models`]: one file an endpoint, requests and replies;
//! - [`admin`]: loading and unloading of models, which is Janus' own;
//! - [`input`]: values that may be one thing or several (prompts, stop strings, message content);
//! - [`object`]: the `object` constants; [`usage`], [`logprobs`]: shared parts of replies;
//! - [`error`]: the error shape every failure has;
//! - [`parse`]: bytes to a request, with the line, column and parameter of what is wrong;
//! - [`document`]: the OpenAPI document, generated from all of these and committed as `openapi.json`.
//!
//! Requests refuse parameters they do not know. A parameter that is known and has no effect here is of
//! type [`Ignored`]; one that the gateway refuses is an [`Outline`], so that its content is never kept.

pub mod admin;
pub mod chat;
pub mod completions;
pub mod document;
pub mod embeddings;
pub mod error;
mod ignored;
pub mod input;
pub mod logprobs;
pub mod models;
pub mod object;
mod outline;
pub mod parse;
pub mod usage;

pub use chat::{ChatChunk, ChatCompletion, ChatRequest};
pub use completions::{Completion, CompletionRequest};
pub use embeddings::{EmbeddingList, EmbeddingRequest};
pub use error::{ErrorBody, ErrorReply};
pub use ignored::Ignored;
pub use models::{Model, ModelList};
pub use outline::{Listed, Outline};
pub use parse::{ParseError, parse};
pub use usage::Usage;
