//! `POST /v1/completions`: prompts to sequences, sequences to a reply or a stream of its parts.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::Request;
use axum::response::Response;
use engine::model::ModelInfo;
use engine::tokenizer::Tokenizer;
use engine::{Caller, Event, TokenEvent, TokenLogprob};
use openapi::chat::FinishReason;
use openapi::completions::CompletionChoice;
use openapi::input::TextsOrTokens;
use openapi::logprobs::CompletionLogprobs;
use openapi::object::CompletionObject;
use openapi::{Completion, CompletionRequest, Usage};

use super::body::{check_size, json_reply, read_json, run_sized};
use super::cache::CacheFields;
use super::chat::seeded;
use super::generation::{Choices, Outcome, ReplyHead, UsageSum, collect, generating_model};
use super::logprobs::{CompletionBuilder, join};
use super::sampling::{Fields, at_most, choices, streaming};
use super::unsupported;
use crate::caller;
use crate::error::{ApiError, ApiResult};
use crate::sse::{Events, Format, Stream};
use crate::stack::Timing;
use crate::wiring::{App, Loaded};

const PROMPT_PARAM: &str = "prompt";
/// OpenAI's default, which tools rely on.
const MAX_TOKENS_DEFAULT: usize = 16;

pub async fn create(
    Loaded(app): Loaded,
    Extension(timing): Extension<Timing>,
    request: Request,
) -> ApiResult<Response> {
    let caller = caller::of(&request);
    let (mut request, bytes) = read_json::<CompletionRequest>(&app, request).await?;
    unsupported::check_completion(&request)?;
    let model = generating_model(&app, &request.model).await?;
    let (stream, include_usage) = streaming(request.stream, request.stream_options)?;
    let wanted = Wanted::of(&app, &request)?;
    let prompts = prompts(&app, &model, &mut request, bytes, wanted.echo).await?;
    let n = choices(request.n, prompts.len(), &app.limits)?;
    let best_of = best_of(&app, &request, n, prompts.len())?;
    let (mut sequences, echoes) = sequences(&app, &model, &caller, &mut request, prompts, wanted, best_of)?;
    if best_of > n {
        // They are compared by it.
        sequences.iter_mut().for_each(|sequence| _ = sequence.logprobs.get_or_insert(0));
    }
    let mut choices = Choices::submit(&app, &model, sequences, timing, PROMPT_PARAM, stream).await?;
    let head = ReplyHead::new("cmpl-", &model);
    let parts = echoes.into_iter().map(|echo| Parts::new(wanted, echo)).collect();
    if stream {
        let format = CompletionFormat { head, include_usage, parts };
        let keep_alive = Duration::from_millis(app.server.keep_alive_ms);
        return Ok(
            Stream { choices, choices_per_prompt: n, format, include_usage, keep_alive }.into_response()
        );
    }
    let outcomes = collect(&mut choices).await?;
    let usage = UsageSum::of(&outcomes, best_of);
    let chosen = best(outcomes.into_iter().zip(parts).collect(), best_of, n);
    Ok(json_reply(&reply(&head, chosen, usage)))
}

/// How many sequences of each prompt to generate, of which `n` are answered.
fn best_of(app: &App, request: &CompletionRequest, n: usize, prompts: usize) -> ApiResult<usize> {
    let Some(best_of) = request.best_of.map(|count| count as usize).filter(|&count| count != n) else {
        return Ok(n);
    };
    if best_of < n {
        return Err(ApiError::invalid("best_of", format!("'best_of' must be at least 'n' ({n})")));
    }
    if request.stream.unwrap_or(false) {
        let message = "'best_of' above 'n' cannot be streamed: which are best is known at the end";
        return Err(ApiError::invalid("best_of", message));
    }
    at_most("best_of", best_of.saturating_mul(prompts), app.limits.choices_max, "sequences")?;
    Ok(best_of)
}

/// The `n` likeliest of each prompt's `best_of` outcomes, by the mean log-probability of their tokens, the one
/// that ended it included.
fn best(outcomes: Vec<(Outcome, Parts)>, best_of: usize, n: usize) -> Vec<(Outcome, Parts)> {
    if best_of == n {
        return outcomes;
    }
    let mut outcomes = outcomes.into_iter();
    let mut chosen = Vec::new();
    while outcomes.len() > 0 {
        let mut group: Vec<(Outcome, Parts)> = outcomes.by_ref().take(best_of).collect();
        group.sort_by(|(a, _), (b, _)| mean_logprob(b).total_cmp(&mean_logprob(a)));
        group.truncate(n);
        chosen.append(&mut group);
    }
    chosen
}

fn mean_logprob(outcome: &Outcome) -> f64 {
    let tokens = outcome.logprobs.iter().map(|token| token.logprob).chain(outcome.finished.end_logprob);
    let (count, sum) = tokens.fold((0, 0.0), |(count, sum), logprob| (count + 1, sum + f64::from(logprob)));
    // What has no token is no answer at all.
    if count == 0 { f64::NEG_INFINITY } else { sum / f64::from(count) }
}

/// What the output holds besides generated text.
#[derive(Clone, Copy)]
struct Wanted {
    echo: bool,
    logprobs: Option<usize>,
}

impl Wanted {
    fn of(app: &App, request: &CompletionRequest) -> ApiResult<Wanted> {
        let logprobs = request.logprobs.map(|count| count as usize);
        at_most("logprobs", logprobs.unwrap_or(0), app.limits.logprobs_max, "alternatives")?;
        Ok(Wanted { echo: request.echo.unwrap_or(false), logprobs })
    }
}

/// A prompt in both forms; the text only where it is echoed.
struct Prompt {
    tokens: Vec<u32>,
    text: String,
}

async fn prompts(
    app: &App,
    model: &ModelInfo,
    request: &mut CompletionRequest,
    bytes: usize,
    echo: bool,
) -> ApiResult<Vec<Prompt>> {
    let input = std::mem::take(&mut request.prompt);
    let count = match &input {
        TextsOrTokens::Text(_) | TextsOrTokens::Tokens(_) => 1,
        TextsOrTokens::Texts(texts) => texts.len(),
        TextsOrTokens::TokenLists(lists) => lists.len(),
    };
    at_most(PROMPT_PARAM, count, app.limits.choices_max, "prompts")?;
    let (tokenizer, context_tokens) = (Arc::clone(&model.tokenizer), model.context_tokens);
    let add_special = request.add_special_tokens.unwrap_or(true);
    let work = move || tokenize(&tokenizer, context_tokens, input, add_special, echo);
    let prompts = run_sized(&app.workers, bytes, work).await??;
    if prompts.is_empty() || prompts.iter().any(|prompt| prompt.tokens.is_empty()) {
        return Err(ApiError::invalid(PROMPT_PARAM, "'prompt' must not be empty"));
    }
    Ok(prompts)
}

fn tokenize(
    tokenizer: &Tokenizer,
    context_tokens: usize,
    input: TextsOrTokens,
    add_special: bool,
    echo: bool,
) -> ApiResult<Vec<Prompt>> {
    let of_text = |text: String| {
        check_size(tokenizer, text.len(), context_tokens, PROMPT_PARAM)?;
        let tokens = tokenizer.encode(&text, add_special);
        Ok(Prompt { tokens: tokens.map_err(|error| ApiError::from_engine(error, PROMPT_PARAM))?, text })
    };
    let of_tokens = |tokens: Vec<u32>| {
        check_vocabulary(tokenizer, &tokens, PROMPT_PARAM)?;
        let text = if echo { tokenizer.decode(&tokens, true) } else { String::new() };
        Ok(Prompt { tokens, text })
    };
    match input {
        TextsOrTokens::Text(text) => Ok(vec![of_text(text)?]),
        TextsOrTokens::Texts(texts) => texts.into_iter().map(of_text).collect(),
        TextsOrTokens::Tokens(tokens) => Ok(vec![of_tokens(tokens)?]),
        TextsOrTokens::TokenLists(lists) => lists.into_iter().map(of_tokens).collect(),
    }
}

/// # Errors
/// 400 for an id that is no token of the model: it came from another model's tokenizer.
pub fn check_vocabulary(tokenizer: &Tokenizer, tokens: &[u32], param: &'static str) -> ApiResult<()> {
    let size = tokenizer.vocabulary_size();
    match tokens.iter().find(|token| **token as usize >= size) {
        None => Ok(()),
        Some(token) => {
            let message =
                format!("'{param}' has token id {token}, but this model's vocabulary has {size} tokens");
            Err(ApiError::invalid(param, message))
        }
    }
}

/// What a choice repeats of its prompt.
struct Echo {
    text: String,
    first_token: String,
}

fn sequences(
    app: &App,
    model: &ModelInfo,
    caller: &Caller,
    request: &mut CompletionRequest,
    prompts: Vec<Prompt>,
    wanted: Wanted,
    n: usize,
) -> ApiResult<(Vec<engine::Request>, Vec<Option<Echo>>)> {
    let max_new_tokens = request.max_tokens.map_or(MAX_TOKENS_DEFAULT, |limit| limit as usize);
    if max_new_tokens == 0 && !wanted.echo {
        return Err(ApiError::invalid("max_tokens", "'max_tokens' can be 0 only together with 'echo'"));
    }
    let cache = CacheFields::of_completion(request).parse()?;
    let (sampling, stop) = Fields::of_completion(request).parse(&app.limits)?;
    // The engine runs a prompt without generating only to score it.
    let score = wanted.echo && (wanted.logprobs.is_some() || max_new_tokens == 0);
    let (mut sequences, mut echoes) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let first_token = prompt.tokens.first().map_or(&[][..], |token| model.tokenizer.token_bytes(*token));
        let first_token = String::from_utf8_lossy(first_token).into_owned();
        let sequence = engine::Request {
            model: model.name.clone(),
            prompt: prompt.tokens,
            max_new_tokens,
            sampling: sampling.clone(),
            stop: stop.clone(),
            logprobs: wanted.logprobs,
            caller: caller.clone(),
            cache: cache.clone(),
            prompt_logprobs: score.then_some(wanted.logprobs.unwrap_or(0)),
        };
        for index in 0..n {
            sequences.push(seeded(&sequence, index));
            let echo = || Echo { text: prompt.text.clone(), first_token: first_token.clone() };
            echoes.push(wanted.echo.then(echo));
        }
    }
    Ok((sequences, echoes))
}

/// Makes one choice's text and lists, in one go or piece by piece.
struct Parts {
    wanted: Wanted,
    lists: CompletionBuilder,
    /// What is still to be echoed.
    echo: Option<Echo>,
}

type Part = (String, Option<CompletionLogprobs>);

impl Parts {
    fn new(wanted: Wanted, echo: Option<Echo>) -> Parts {
        Parts { wanted, lists: CompletionBuilder::new(wanted.logprobs.unwrap_or(0)), echo }
    }

    /// The prompt, the first time.
    fn echo(&mut self, logprobs: Vec<Option<TokenLogprob>>) -> Option<Part> {
        let echo = self.echo.take()?;
        let lists = self.wanted.logprobs.map(|_| self.lists.prompt(&echo.first_token, logprobs));
        Some((echo.text, lists))
    }

    fn output(&mut self, text: String, logprobs: impl IntoIterator<Item = TokenLogprob>) -> Part {
        let lists = self.wanted.logprobs.map(|_| self.lists.tokens(logprobs));
        (text, lists)
    }
}

fn reply(head: &ReplyHead, outcomes: Vec<(Outcome, Parts)>, usage: Usage) -> Completion<'_> {
    let choices = (0..).zip(outcomes).map(|(index, (outcome, mut parts))| {
        let echo = parts.echo(outcome.prompt_logprobs);
        let output = parts.output(outcome.text, outcome.logprobs);
        let (text, logprobs) = match echo {
            None => output,
            Some((text, lists)) => {
                (text + &output.0, lists.zip(output.1).map(|(prompt, output)| join(prompt, output)))
            }
        };
        CompletionChoice { index, text, logprobs, finish_reason: Some(outcome.finish_reason) }
    });
    completion(head, choices.collect(), Some(Some(usage)))
}

fn completion(
    head: &ReplyHead,
    choices: Vec<CompletionChoice>,
    usage: Option<Option<Usage>>,
) -> Completion<'_> {
    Completion {
        id: Cow::Borrowed(&head.id),
        object: CompletionObject::Value,
        created: head.created,
        model: Cow::Borrowed(&head.model),
        system_fingerprint: Some(Cow::Borrowed(&head.fingerprint)),
        choices,
        usage,
    }
}

/// Words the chunks of a stream.
struct CompletionFormat {
    head: ReplyHead,
    include_usage: bool,
    /// By choice.
    parts: Vec<Parts>,
}

impl CompletionFormat {
    fn push(&self, choice: usize, part: Part, finish_reason: Option<FinishReason>, events: &mut Events) {
        let (text, logprobs) = part;
        let choice = CompletionChoice { index: choice as u32, text, logprobs, finish_reason };
        events.push(&completion(&self.head, vec![choice], self.include_usage.then_some(None)));
    }

    fn echo(&mut self, choice: usize, logprobs: Vec<Option<TokenLogprob>>, events: &mut Events) {
        if let Some(part) = self.parts[choice].echo(logprobs) {
            self.push(choice, part, None, events);
        }
    }

    fn push_token(&mut self, choice: usize, token: TokenEvent, events: &mut Events) {
        if token.text.is_empty() && token.logprob.is_none() {
            return;
        }
        let part = self.parts[choice].output(token.text.into_string(), token.logprob);
        self.push(choice, part, None, events);
    }
}

impl Format for CompletionFormat {
    fn write(&mut self, choice: usize, event: Event, events: &mut Events) {
        match event {
            Event::PromptLogprobs(logprobs) => self.echo(choice, logprobs, events),
            Event::Token(token) => {
                self.echo(choice, Vec::new(), events);
                self.push_token(choice, token, events);
            }
            Event::Finished(finished) => {
                self.echo(choice, Vec::new(), events);
                let reason = super::generation::finish_reason(finished.reason).ok();
                self.push(choice, (finished.text, None), reason, events);
            }
            Event::Failed(_) => {}
        }
    }

    fn write_usage(&mut self, usage: Usage, events: &mut Events) {
        events.push(&completion(&self.head, Vec::new(), Some(Some(usage))));
    }
}

#[cfg(test)]
mod tests {
    use engine::{FinishReason as Reason, Finished};

    use super::*;

    fn outcome(text: &str, logprobs: &[f32], end_logprob: Option<f32>) -> (Outcome, Parts) {
        let token = |&logprob| TokenLogprob { token: 0, bytes: Vec::new(), logprob, top: Vec::new() };
        let finished = Finished {
            reason: Reason::Stop,
            text: String::new(),
            prompt_tokens: 1,
            cached_tokens: 0,
            completion_tokens: logprobs.len(),
            end_logprob,
            stop_string: None,
            timing: engine::Timing::default(),
        };
        let outcome = Outcome {
            text: text.into(),
            logprobs: logprobs.iter().map(token).collect(),
            prompt_logprobs: Vec::new(),
            finish_reason: FinishReason::Stop,
            finished,
        };
        (outcome, Parts::new(Wanted { echo: false, logprobs: None }, None))
    }

    #[test]
    fn the_best_is_the_likeliest_with_its_end() {
        let likely = || outcome("likely", &[-0.5, -0.5], Some(-0.5));
        let rows = [
            (vec![outcome("other", &[-0.6, -0.5], Some(-0.5)), likely()], "likely"),
            (vec![outcome("empty by an unlikely end", &[], Some(-9.0)), likely()], "likely"),
            (vec![likely(), outcome("empty by a likely end", &[], Some(-0.1))], "empty by a likely end"),
            (vec![outcome("no token at all", &[], None), likely()], "likely"),
            (vec![outcome("unlikely end", &[-0.1], Some(-9.0)), likely()], "likely"),
            (vec![likely(), outcome("stopped by its length", &[-0.4, -0.4], None)], "stopped by its length"),
        ];
        for (outcomes, expected) in rows {
            let chosen = best(outcomes, 2, 1);
            assert_eq!(
                chosen.iter().map(|(outcome, _)| outcome.text.as_str()).collect::<Vec<_>>(),
                [expected]
            );
        }
    }
}
