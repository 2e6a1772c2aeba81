//! The sequences of one request: submitted together, read together, cancelled together by being
//! dropped.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use engine::model::{ModelInfo, Task};
use engine::{Event, EventStream, FinishReason, Finished, ModelLease, TokenLogprob};
use openapi::Usage;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use super::body::run_sized;
use super::logprob_room::entries;
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::stack::Timing;
use crate::wiring::{App, SharedApp};

/// What the head of a reply says, the same in all chunks of a stream.
#[derive(Clone, Debug)]
pub struct ReplyHead {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
}

impl ReplyHead {
    pub fn new(prefix: &str, model: &ModelInfo) -> ReplyHead {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        ReplyHead {
            id: ids::unique(prefix),
            created,
            model: model.name.clone(),
            fingerprint: fingerprint(model),
        }
    }
}

/// Changes with what may change the output for a seed: this program, and the model.
fn fingerprint(model: &ModelInfo) -> String {
    let identity = format!(
        "{} {} {} {} {}",
        env!("CARGO_PKG_VERSION"),
        model.name,
        model.architecture,
        model.parameters,
        model.created
    );
    let digest = Sha256::digest(identity.as_bytes());
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("fp_{hex}")
}

/// The model called `name`, if it generates text.
///
/// # Errors
/// Those of [`super::models::lease`], and 400 for an embedding model.
pub async fn generating_model(app: &App, name: &str) -> ApiResult<ModelLease> {
    let model = super::models::lease(app, name).await?;
    match model.task {
        Task::Generate => Ok(model),
        Task::Embed { .. } => {
            let message = format!("The model `{name}` makes embeddings; send it to /v1/embeddings");
            Err(ApiError::invalid("model", message))
        }
    }
}

/// Running sequences; the place in the list is the choice's index.
pub struct Choices {
    app: SharedApp,
    timing: Timing,
    running: Vec<Option<Running>>,
    /// Where the next look begins, so that none is always first.
    turn: usize,
    /// For log-probabilities, as long as any of them are here.
    _room: OwnedSemaphorePermit,
}

struct Running {
    events: EventStream,
    last_token: Option<Instant>,
}

impl Choices {
    /// Submits all of them, or none; long ones on a thread that may take its time, as the engine makes them
    /// ready there.
    ///
    /// # Errors
    /// The engine's refusal, or that of the room for log-probabilities; `prompt_param` is what the endpoint
    /// calls its input.
    pub async fn submit(
        app: &SharedApp,
        model: &ModelLease,
        requests: Vec<engine::Request>,
        timing: Timing,
        prompt_param: &'static str,
        streamed: bool,
    ) -> ApiResult<Choices> {
        let room = app.logprob_room.take(entries(&requests, model.context_tokens, streamed))?;
        let bytes = requests.iter().map(|request| size_of_val(request.prompt.as_slice())).sum();
        let (app, lease) = (Arc::clone(app), model.clone());
        let workers = Arc::clone(&app.workers);
        let submit_all = move || {
            let submit = |request| {
                let events = app.engine.submit_to(&lease, request);
                let events = events.map_err(|error| ApiError::from_engine(error, prompt_param))?;
                Ok(Some(Running { events, last_token: None }))
            };
            let running = requests.into_iter().map(submit).collect::<ApiResult<Vec<_>>>()?;
            Ok(Choices { app, timing, running, turn: 0, _room: room })
        };
        run_sized(&workers, bytes, submit_all).await?
    }

    pub fn timing(&self) -> Timing {
        self.timing
    }

    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// The next event of any choice, with the choice's index; `None` once all have ended.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        let count = self.running.len();
        let mut all_ended = true;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let Some(running) = &mut self.running[index] else { continue };
            all_ended = false;
            if let Poll::Ready(event) = running.events.poll_next(context) {
                self.turn = index + 1;
                let event = event.unwrap_or_else(|| Event::Failed("the engine stopped".into()));
                self.account(index, &event);
                return Poll::Ready(Some((index, event)));
            }
        }
        if all_ended { Poll::Ready(None) } else { Poll::Pending }
    }

    pub async fn next(&mut self) -> Option<(usize, Event)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Times tokens, and forgets a choice at its end.
    fn account(&mut self, index: usize, event: &Event) {
        match event {
            Event::Token(_) => {
                let Some(running) = &mut self.running[index] else { return };
                let now = Instant::now();
                match running.last_token.replace(now) {
                    None => self.app.metrics.time_to_first_token.record(now - self.timing.arrived),
                    Some(last) => self.app.metrics.time_per_output_token.record(now - last),
                }
            }
            Event::Finished(_) | Event::Failed(_) => self.running[index] = None,
            Event::PromptLogprobs(_) => {}
        }
    }
}

/// A choice that has ended, in full.
pub struct Outcome {
    pub text: String,
    pub logprobs: Vec<TokenLogprob>,
    pub prompt_logprobs: Vec<Option<TokenLogprob>>,
    pub finish_reason: openapi::chat::FinishReason,
    pub finished: Finished,
}

/// Reads all choices to their ends; they hold room for what they said until they are dropped.
///
/// # Errors
/// 500 or 503 as soon as one of them fails or is cancelled.
pub async fn collect(choices: &mut Choices) -> ApiResult<Vec<Outcome>> {
    let mut partial: Vec<Partial> = (0..choices.count()).map(|_| Partial::default()).collect();
    let mut outcomes: Vec<Option<Outcome>> = (0..choices.count()).map(|_| None).collect();
    while let Some((index, event)) = choices.next().await {
        match event {
            Event::PromptLogprobs(logprobs) => partial[index].prompt_logprobs = logprobs,
            Event::Token(token) => {
                partial[index].text.push_str(&token.text);
                partial[index].logprobs.extend(token.logprob);
            }
            Event::Finished(finished) => {
                outcomes[index] = Some(std::mem::take(&mut partial[index]).finish(finished)?);
            }
            Event::Failed(reason) => return Err(ApiError::failed(&reason)),
        }
    }
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(ApiError::internal)).collect()
}

#[derive(Default)]
struct Partial {
    text: String,
    logprobs: Vec<TokenLogprob>,
    prompt_logprobs: Vec<Option<TokenLogprob>>,
}

impl Partial {
    fn finish(mut self, finished: Finished) -> ApiResult<Outcome> {
        self.text.push_str(&finished.text);
        let finish_reason = finish_reason(finished.reason)?;
        let Partial { text, logprobs, prompt_logprobs } = self;
        Ok(Outcome { text, logprobs, prompt_logprobs, finish_reason, finished })
    }
}

/// # Errors
/// 503 for a sequence that was cancelled: its client is still here, so the server or the model is going.
pub fn finish_reason(reason: FinishReason) -> ApiResult<openapi::chat::FinishReason> {
    match reason {
        FinishReason::Stop => Ok(openapi::chat::FinishReason::Stop),
        FinishReason::Length => Ok(openapi::chat::FinishReason::Length),
        FinishReason::Cancelled => Err(ApiError::draining()),
        FinishReason::Unloaded => Err(ApiError::unloaded()),
    }
}

/// Token counts summed over choices; each prompt counts once, with its first choice.
#[derive(Clone, Copy, Debug)]
pub struct UsageSum {
    choices_per_prompt: usize,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
}

impl UsageSum {
    pub fn new(choices_per_prompt: usize) -> UsageSum {
        UsageSum { choices_per_prompt, prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0 }
    }

    pub fn add(&mut self, choice: usize, finished: &Finished) {
        self.completion_tokens += finished.completion_tokens as u64;
        if choice.is_multiple_of(self.choices_per_prompt) {
            self.prompt_tokens += finished.prompt_tokens as u64;
            self.cached_tokens += finished.cached_tokens as u64;
        }
    }

    pub fn of(outcomes: &[Outcome], choices_per_prompt: usize) -> Usage {
        let mut sum = UsageSum::new(choices_per_prompt);
        for (choice, outcome) in outcomes.iter().enumerate() {
            sum.add(choice, &outcome.finished);
        }
        sum.usage()
    }

    pub fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.completion_tokens, self.cached_tokens)
    }
}
