//! One running generation: its sampler, its text, its stream, and when it ends.

use std::time::Instant;

use kernels::Softmax;

use super::stream::EventSender;
use super::text::{OutputText, TextPiece};
use crate::inbox::LinePlace;
use crate::request::{Event, FinishReason, Finished, StopCriteria, Timing, TokenEvent, TokenLogprob};
use crate::sampler::{Sampler, SamplerScratch, token_logprob};
use crate::scheduler::ROOM_TOKENS;
use crate::speculation::{GUESSES_MAX, Guesser, Wish};
use crate::tokenizer::Tokenizer;
use crate::{Band, Request};

pub(super) struct ActiveRequest {
    band: Band,
    stream: EventSender,
    sampler: Sampler,
    text: OutputText,
    stop: StopCriteria,
    /// Tokens that end it.
    end_tokens: Vec<u32>,
    max_new_tokens: usize,
    logprobs: Option<usize>,
    /// Present until the prompt is scored, when that is asked for.
    prompt_scores: Option<PromptScores>,
    prompt_tokens: usize,
    /// Prompt tokens that were found in the cache.
    reused_tokens: usize,
    generated: usize,
    paused: bool,
    arrived: Instant,
    /// Until it is admitted.
    place: Option<LinePlace>,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    /// `None` when nothing is guessed.
    guesser: Option<Guesser>,
}

/// Log-probabilities of a prompt's tokens, as far as they are known.
struct PromptScores {
    prompt: Vec<u32>,
    top: usize,
    scores: Vec<Option<TokenLogprob>>,
}

/// What a row of logits led to.
pub(super) enum NextRow {
    Continue(u32),
    Finish(End),
}

/// Why and how a generation ends.
pub(super) struct End {
    reason: FinishReason,
    stop_string: Option<String>,
    /// Of the chosen token, where it is not sent.
    logprob: Option<f32>,
    /// Whether a token was chosen in the step that ends it.
    pub chose_token: bool,
}

impl End {
    /// Not by the model's doing.
    pub fn early(reason: FinishReason) -> End {
        End { reason, stop_string: None, logprob: None, chose_token: false }
    }

    fn by_token(reason: FinishReason, stop_string: Option<String>) -> End {
        End { reason, stop_string, logprob: None, chose_token: true }
    }
}

impl ActiveRequest {
    pub fn new(
        request: Request,
        prompt: &[u32],
        eos_tokens: &[u32],
        stream: EventSender,
        place: LinePlace,
        arrived: Instant,
        mut guesser: Option<Guesser>,
    ) -> ActiveRequest {
        let Request { caller, max_new_tokens, sampling, stop, logprobs, prompt_logprobs, .. } = request;
        let mut end_tokens = stop.token_ids.clone();
        if !stop.ignore_eos {
            end_tokens.extend_from_slice(eos_tokens);
        }
        let room = max_new_tokens.min(ROOM_TOKENS);
        let mut sampler = Sampler::new(sampling, prompt, end_tokens.clone(), stop.min_tokens);
        sampler.reserve(room);
        if let Some(guesser) = &mut guesser {
            guesser.reserve(room);
            guesser.index();
        }
        let scores = |top| PromptScores { prompt: prompt.to_vec(), top, scores: vec![None] };
        ActiveRequest {
            band: caller.band,
            stream,
            sampler,
            text: OutputText::new(&stop),
            stop,
            end_tokens,
            max_new_tokens,
            logprobs,
            prompt_scores: prompt_logprobs.map(scores),
            prompt_tokens: prompt.len(),
            reused_tokens: 0,
            generated: 0,
            paused: false,
            arrived,
            place: Some(place),
            admitted: None,
            first_token: None,
            guesser,
        }
    }

    /// Makes room for what choosing its tokens takes.
    pub fn reserve(&self, scratch: &mut SamplerScratch) {
        scratch.reserve(&self.sampler);
    }

    pub fn scores_prompt(&self) -> bool {
        self.prompt_scores.is_some()
    }

    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub fn band(&self) -> Band {
        self.band
    }

    pub fn admit(&mut self, now: Instant) {
        self.place = None;
        self.admitted = Some(now);
    }

    /// So many more prompt tokens were found in the cache. Returns whether they are the first.
    pub fn reuse(&mut self, tokens: usize) -> bool {
        self.reused_tokens += tokens;
        self.reused_tokens == tokens
    }

    /// Whether nobody reads it any more.
    pub fn is_abandoned(&self) -> bool {
        self.stream.is_closed()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Looks whether the client keeps up. Returns whether that changed.
    pub fn update_paused(&mut self) -> bool {
        let paused = !self.stream.has_room();
        std::mem::replace(&mut self.paused, paused) != paused
    }

    /// Takes the logits of the prompt row at `position`, which predict the prompt's next token.
    pub fn score(&mut self, position: usize, logits: &[f32], tokenizer: &Tokenizer, softmax: Softmax) {
        let Some(PromptScores { prompt, top, scores }) = &mut self.prompt_scores else { return };
        let token = prompt[position + 1];
        scores.push(Some(token_logprob(softmax, logits, token, *top, |id| tokenizer.token_bytes(id))));
    }

    /// Takes the logits of the last row: chooses a token, sends it, and says how it goes on.
    pub fn next(
        &mut self,
        logits: &mut [f32],
        scratch: &mut SamplerScratch,
        tokenizer: &Tokenizer,
    ) -> NextRow {
        if let Some(scored) = self.prompt_scores.take() {
            self.stream.send(Event::PromptLogprobs(scored.scores));
        }
        if self.max_new_tokens == 0 {
            return NextRow::Finish(End::early(FinishReason::Length));
        }
        let token = self.sampler.choose(logits, scratch);
        self.generated += 1;
        self.first_token.get_or_insert_with(Instant::now);
        let is_end = self.end_tokens.contains(&token);
        if is_end && !self.stop.include_stop_text {
            let logprob =
                self.logprobs.map(|_| token_logprob(scratch.softmax(), logits, token, 0, |_| &[]).logprob);
            return NextRow::Finish(End { logprob, ..End::by_token(FinishReason::Stop, None) });
        }
        let may_stop = self.generated >= self.stop.min_tokens;
        let TextPiece { text, matched } = self.text.push(tokenizer, token, may_stop);
        let bytes_of = |id| tokenizer.token_bytes(id);
        let logprob = self.logprobs.map(|top| token_logprob(scratch.softmax(), logits, token, top, bytes_of));
        self.stream.send(Event::Token(TokenEvent { token, text, logprob }));
        if let Some(guesser) = &mut self.guesser {
            guesser.push(token);
        }
        self.after_token(token, is_end, matched)
    }

    /// Guesses that are of use. The last token is not worth one: it is chosen from the row before.
    pub fn useful_guesses(&self) -> usize {
        self.max_new_tokens.saturating_sub(self.generated + 1).min(self.stream.spare_room()).min(GUESSES_MAX)
    }

    /// Most tokens still to come.
    pub fn tokens_left(&self) -> usize {
        self.max_new_tokens.saturating_sub(self.generated)
    }

    /// Guesses the text has for the tokens after the last one.
    pub fn wish(&mut self) -> Wish {
        let useful = self.useful_guesses();
        self.guesser.as_mut().map_or_else(Wish::default, |guesser| guesser.wish(useful))
    }

    /// The chance of a draft model's guess.
    pub fn draft_chance(&self) -> f64 {
        self.guesser.as_ref().map_or(0.0, Guesser::draft_chance)
    }

    /// Takes a draft model's logits for the token `ahead` of the next one.
    pub fn draft(&mut self, logits: &mut [f32], ahead: usize, scratch: &mut SamplerScratch) {
        let guess = self.sampler.peek(logits, ahead, scratch);
        if let Some(guesser) = &mut self.guesser {
            guesser.push_draft(guess);
        }
    }

    /// Whether its present guesses are a draft model's.
    pub fn is_drafted(&self) -> bool {
        self.guesser.as_ref().is_some_and(Guesser::is_drafted)
    }

    /// Prompt and generated tokens, where guesses are made.
    pub fn tokens(&self) -> Option<&[u32]> {
        self.guesser.as_ref().map(Guesser::tokens)
    }

    /// The first `count` of what [`ActiveRequest::wish`] counted.
    pub fn guesses(&self, count: usize) -> &[u32] {
        self.guesser.as_ref().map_or(&[], |guesser| guesser.guesses(count))
    }

    fn after_token(&self, token: u32, is_end: bool, matched: Option<usize>) -> NextRow {
        if let Some(index) = matched {
            let stop_string = self.text.stop_string(index).to_owned();
            NextRow::Finish(End::by_token(FinishReason::Stop, Some(stop_string)))
        } else if is_end {
            NextRow::Finish(End::by_token(FinishReason::Stop, None))
        } else if self.generated >= self.max_new_tokens {
            NextRow::Finish(End::by_token(FinishReason::Length, None))
        } else {
            NextRow::Continue(token)
        }
    }

    /// Sends the last event.
    pub fn finish(mut self, end: End, now: Instant) {
        // After a stop string, what is held back lies behind the match.
        let text = if end.stop_string.is_some() { String::new() } else { self.text.flush() };
        let finished = Finished {
            reason: end.reason,
            text,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.reused_tokens,
            completion_tokens: self.generated,
            end_logprob: end.logprob,
            stop_string: end.stop_string,
            timing: self.timing(now),
        };
        self.stream.end(Event::Finished(finished));
    }

    pub fn fail(self, reason: String) {
        self.stream.end(Event::Failed(reason));
    }

    /// A phase that was not reached took no time; the one it ended in lasted until `now`.
    fn timing(&self, now: Instant) -> Timing {
        let admitted = self.admitted.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        Timing {
            queue: admitted.saturating_duration_since(self.arrived),
            prefill: first_token.saturating_duration_since(admitted),
            decode: now.saturating_duration_since(first_token),
        }
    }
}
