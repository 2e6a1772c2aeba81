//! `POST /v1/chat/completions`: messages to a prompt, sequences to a reply or a stream of chunks.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::Request;
use axum::response::Response;
use engine::model::ModelInfo;
use engine::prompt::{ChatMessage, RenderOptions};
use engine::{Caller, Event, TokenEvent};
use openapi::chat::{
    AssistantMessage, AssistantRole, ChatChoice, ChatChunkChoice, Delta, FinishReason, Message, Role,
};
use openapi::input::{Content, ContentPart};
use openapi::logprobs::ChatLogprobs;
use openapi::object::{ChatChunkObject, ChatCompletionObject};
use openapi::{ChatChunk, ChatCompletion, ChatRequest, Usage};
use serde_json::{Map, Value};

use super::body::{check_size, json_reply, read_json, run_sized};
use super::cache::CacheFields;
use super::generation::{Choices, Outcome, ReplyHead, UsageSum, collect, generating_model};
use super::sampling::{Fields, at_most, choices, streaming};
use super::{logprobs, unsupported};
use crate::caller;
use crate::error::{ApiError, ApiResult};
use crate::sse::{Events, Format, Stream};
use crate::stack::Timing;
use crate::wiring::{App, Loaded};

const PROMPT_PARAM: &str = "messages";

pub async fn create(
    Loaded(app): Loaded,
    Extension(timing): Extension<Timing>,
    request: Request,
) -> ApiResult<Response> {
    let caller = caller::of(&request);
    let (mut request, bytes) = read_json::<ChatRequest>(&app, request).await?;
    unsupported::check_chat(&request)?;
    let model = generating_model(&app, &request.model).await?;
    let (stream, include_usage) = streaming(request.stream, request.stream_options)?;
    let n = choices(request.n, 1, &app.limits)?;
    let top_logprobs = top_logprobs(&app, &request)?;
    let sequence = sequence(&app, &model, caller, &mut request, bytes, top_logprobs).await?;
    let sequences = (0..n).map(|index| seeded(&sequence, index)).collect();
    let mut choices = Choices::submit(&app, &model, sequences, timing, PROMPT_PARAM, stream).await?;
    let head = ReplyHead::new("chatcmpl-", &model);
    if stream {
        let format = ChatFormat { head, include_usage, opened: vec![false; n] };
        let keep_alive = Duration::from_millis(app.server.keep_alive_ms);
        return Ok(
            Stream { choices, choices_per_prompt: n, format, include_usage, keep_alive }.into_response()
        );
    }
    let outcomes = collect(&mut choices).await?;
    Ok(json_reply(&reply(head, outcomes, top_logprobs.is_some())))
}

/// Choice `index` of a request: its seed is the request's plus `index`.
pub fn seeded(request: &engine::Request, index: usize) -> engine::Request {
    let mut request = request.clone();
    request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(index as u64));
    request
}

fn top_logprobs(app: &App, request: &ChatRequest) -> ApiResult<Option<usize>> {
    let wanted = request.logprobs.unwrap_or(false);
    match request.top_logprobs {
        Some(count) if !wanted && count > 0 => {
            Err(ApiError::invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true"))
        }
        Some(count) => {
            at_most("top_logprobs", count as usize, app.limits.logprobs_max, "alternatives")?;
            Ok(wanted.then_some(count as usize))
        }
        None => Ok(wanted.then_some(0)),
    }
}

async fn sequence(
    app: &App,
    model: &ModelInfo,
    caller: Caller,
    request: &mut ChatRequest,
    bytes: usize,
    logprobs: Option<usize>,
) -> ApiResult<engine::Request> {
    let max_new_tokens = max_new_tokens(request)?;
    let cache = CacheFields::of_chat(request).parse()?;
    let (sampling, stop) = Fields::of_chat(request).parse(&app.limits)?;
    let prompt = prompt(app, model, request, bytes).await?;
    let model = model.name.clone();
    Ok(engine::Request {
        model,
        caller,
        prompt,
        max_new_tokens,
        sampling,
        stop,
        logprobs,
        cache,
        prompt_logprobs: None,
    })
}

/// Without a limit, as many as the context has room for.
fn max_new_tokens(request: &ChatRequest) -> ApiResult<usize> {
    let (name, limit) = match (request.max_completion_tokens, request.max_tokens) {
        (Some(limit), _) => ("max_completion_tokens", limit),
        (None, Some(limit)) => ("max_tokens", limit),
        (None, None) => return Ok(usize::MAX),
    };
    if limit == 0 {
        return Err(ApiError::invalid(name, format!("'{name}' must be at least 1")));
    }
    Ok(limit as usize)
}

/// Token ids of the conversation.
async fn prompt(
    app: &App,
    model: &ModelInfo,
    request: &mut ChatRequest,
    bytes: usize,
) -> ApiResult<Vec<u32>> {
    let Some(template) = &model.chat_template else {
        let message = format!("The model `{}` has no chat template; use /v1/completions", model.name);
        return Err(ApiError::invalid("model", message));
    };
    let messages = messages(app, std::mem::take(&mut request.messages))?;
    let options = RenderOptions {
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        variables: request.chat_template_kwargs.take().unwrap_or_default(),
        ..RenderOptions::default()
    };
    let (template, tokenizer) = (Arc::clone(template), Arc::clone(&model.tokenizer));
    let context_tokens = model.context_tokens;
    let work = move || {
        let refused = |error| ApiError::from_engine(error, PROMPT_PARAM);
        let prompt = template.render(&messages, &options).map_err(refused)?;
        check_size(&tokenizer, prompt.bytes(), context_tokens, PROMPT_PARAM)?;
        tokenizer.encode_prompt(&prompt).map_err(refused)
    };
    run_sized(&app.workers, bytes, work).await?
}

fn messages(app: &App, messages: Vec<Message>) -> ApiResult<Vec<ChatMessage>> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "'messages' must hold at least one message"));
    }
    at_most("messages", messages.len(), app.limits.messages_max, "messages")?;
    messages.into_iter().enumerate().map(|(index, message)| chat_message(index, message)).collect()
}

/// A message as chat templates know it.
fn chat_message(index: usize, message: Message) -> ApiResult<ChatMessage> {
    let tool_calls = message.tool_calls.filter(|calls| !calls.is_empty());
    let content = match message.content {
        Some(content) => Value::String(text(index, content)?),
        None if message.role == Role::Assistant && tool_calls.is_some() => Value::Null,
        None => {
            let param = format!("messages[{index}].content");
            return Err(ApiError::invalid(param, "a message must have content"));
        }
    };
    // Templates know no developer: it is the newer name of the system role.
    let role = if message.role == Role::Developer { Role::System } else { message.role };
    let mut fields = Map::new();
    fields.insert("role".into(), role.as_str().into());
    fields.insert("content".into(), content);
    let optional = [
        ("name", message.name.map(Value::String)),
        ("tool_calls", tool_calls.map(Value::Array)),
        ("tool_call_id", message.tool_call_id.map(Value::String)),
        ("reasoning_content", message.reasoning_content.map(Value::String)),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(Value::Object(fields))
}

/// Text parts, one a line.
fn text(message: usize, content: Content) -> ApiResult<String> {
    match content {
        Content::Text(text) => Ok(text),
        Content::Parts(parts) => {
            let texts =
                parts.into_iter().enumerate().map(|(part, content)| part_text(message, part, content));
            Ok(texts.collect::<ApiResult<Vec<String>>>()?.join("\n"))
        }
    }
}

fn part_text(message: usize, part: usize, content: ContentPart) -> ApiResult<String> {
    let place = format!("messages[{message}].content[{part}]");
    match (content.kind.as_str(), content.text) {
        ("text", Some(text)) => Ok(text),
        ("text", None) => Err(ApiError::invalid(format!("{place}.text"), "a text part must have a text")),
        (kind, _) => {
            let kind: String = kind.chars().take(64).collect();
            let message =
                format!("Content parts of type '{kind}' are not supported; this server takes 'text'");
            Err(ApiError::unsupported(format!("{place}.type"), message))
        }
    }
}

fn reply(head: ReplyHead, outcomes: Vec<Outcome>, with_logprobs: bool) -> ChatCompletion {
    let usage = UsageSum::of(&outcomes, outcomes.len());
    let choices = (0..).zip(outcomes).map(|(index, outcome)| ChatChoice {
        index,
        message: AssistantMessage {
            role: AssistantRole::Assistant,
            content: Some(outcome.text),
            refusal: None,
            annotations: Vec::new(),
        },
        logprobs: with_logprobs.then(|| logprobs::chat(outcome.logprobs)),
        finish_reason: outcome.finish_reason,
    });
    ChatCompletion {
        choices: choices.collect(),
        id: head.id,
        object: ChatCompletionObject::Value,
        created: head.created,
        model: head.model,
        usage,
        service_tier: None,
        system_fingerprint: Some(head.fingerprint),
    }
}

/// Words the chunks of a stream.
struct ChatFormat {
    head: ReplyHead,
    include_usage: bool,
    /// By choice: whether the chunk with the role is out.
    opened: Vec<bool>,
}

impl ChatFormat {
    fn push(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>, events: &mut Events) {
        events.push(&ChatChunk {
            id: Cow::Borrowed(&self.head.id),
            object: ChatChunkObject::Value,
            created: self.head.created,
            model: Cow::Borrowed(&self.head.model),
            system_fingerprint: Some(Cow::Borrowed(&self.head.fingerprint)),
            choices,
            usage: self.include_usage.then_some(usage),
        });
    }

    fn push_delta(
        &self,
        choice: usize,
        delta: Delta,
        logprobs: Option<ChatLogprobs>,
        finish_reason: Option<FinishReason>,
        events: &mut Events,
    ) {
        let choice = ChatChunkChoice { index: choice as u32, delta, logprobs, finish_reason };
        self.push(vec![choice], None, events);
    }

    fn open(&mut self, choice: usize, events: &mut Events) {
        if !std::mem::replace(&mut self.opened[choice], true) {
            let delta = Delta { role: Some(AssistantRole::Assistant), content: Some(String::new()) };
            self.push_delta(choice, delta, None, None, events);
        }
    }

    fn push_token(&self, choice: usize, token: TokenEvent, events: &mut Events) {
        if token.text.is_empty() && token.logprob.is_none() {
            return;
        }
        let logprobs = token.logprob.map(|logprob| logprobs::chat([logprob]));
        self.push_delta(choice, content(token.text.into_string()), logprobs, None, events);
    }
}

fn content(text: String) -> Delta {
    Delta { role: None, content: Some(text) }
}

impl Format for ChatFormat {
    fn write(&mut self, choice: usize, event: Event, events: &mut Events) {
        self.open(choice, events);
        match event {
            Event::Token(token) => self.push_token(choice, token, events),
            Event::Finished(finished) => {
                if !finished.text.is_empty() {
                    self.push_delta(choice, content(finished.text), None, None, events);
                }
                let reason = super::generation::finish_reason(finished.reason).ok();
                self.push_delta(choice, Delta::default(), None, reason, events);
            }
            Event::PromptLogprobs(_) | Event::Failed(_) => {}
        }
    }

    fn write_usage(&mut self, usage: Usage, events: &mut Events) {
        self.push(Vec::new(), Some(usage), events);
    }
}
