//! A generation made ready on its caller's thread. What grows with a prompt is done here: its pages are named,
//! its runs of tokens indexed for guesses, and there is room for what will be generated. The engine's thread
//! takes it in between two forward passes and only moves it.

use std::time::Instant;

use super::active::ActiveRequest;
use super::stream::EventSender;
use crate::inbox::LinePlace;
use crate::pages::Chain;
use crate::prefix::Prefixes;
use crate::residents::ModelLease;
use crate::scheduler::{ROOM_TOKENS, SchedulerEvent, SequenceId, pages_with_room};
use crate::speculation::{Guesser, Speculation};
use crate::{Caller, Request};

/// The first token is chosen from the prompt's logits and the last from those before it: a shorter answer has
/// no token that is worth a guess.
const GUESSED_TOKENS_MIN: usize = 3;

/// What generations for one instance of a chat model are made ready with. Names of pages are those of this
/// instance: a lease on it takes them to the runner that owns its cache, whatever has its name by then.
pub(crate) struct Reception {
    prefixes: Prefixes,
    /// That end an answer.
    eos_tokens: Vec<u32>,
    speculation: Speculation,
}

/// A generation on its way to the thread.
pub(crate) struct Generation {
    /// Held until the runner has it.
    pub model: ModelLease,
    pub(super) active: ActiveRequest,
    caller: Caller,
    prompt: Vec<u32>,
    chain: Chain,
}

impl Reception {
    pub fn new(prefixes: Prefixes, eos_tokens: Vec<u32>, speculation: Speculation) -> Reception {
        Reception { prefixes, eos_tokens, speculation }
    }

    /// What the page store calls the model.
    pub fn folder(&self) -> [u8; 32] {
        self.prefixes.folder()
    }
}

impl Generation {
    /// Takes some 100 ns a token of the prompt. `place` was taken before, so that no more is made ready than
    /// may wait.
    pub fn new(model: ModelLease, mut request: Request, stream: EventSender, place: LinePlace) -> Generation {
        let arrived = Instant::now();
        let reception = model.served().reception.as_ref().expect("a chat model has one");
        let mut prompt = std::mem::take(&mut request.prompt);
        prompt.reserve(ROOM_TOKENS);
        let (caller, cache) = (request.caller.clone(), std::mem::take(&mut request.cache));
        let scope = reception.prefixes.scope(&caller, &cache, &prompt);
        let chain = Chain::of_prompt(scope, &prompt, pages_with_room(prompt.len()));
        let guesses =
            reception.speculation != Speculation::Off && request.max_new_tokens >= GUESSED_TOKENS_MIN;
        let guesser = guesses.then(|| Guesser::new(&prompt));
        let active =
            ActiveRequest::new(request, &prompt, &reception.eos_tokens, stream, place, arrived, guesser);
        Generation { model, active, caller, prompt, chain }
    }

    /// What the runner keeps, and what it tells the scheduler.
    pub(super) fn arrive(self, id: SequenceId) -> (ActiveRequest, SchedulerEvent) {
        let Generation { active, caller, prompt, chain, .. } = self;
        let score_prompt = active.scores_prompt();
        (active, SchedulerEvent::Arrived { id, caller, prompt, score_prompt, chain })
    }
}
