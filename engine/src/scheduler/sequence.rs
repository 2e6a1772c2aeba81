//! One generation as the scheduler sees it: tokens, how many of them are computed, and pages.

use std::ops::Range;
use std::time::Duration;

use kernels::PAGE_TOKENS;

use super::fairness::AccountId;
use crate::pages::Chain;
use crate::speculation::Guesses;
use crate::{Band, Caller};

/// Tokens there is room for from the start besides the prompt: for so long a sequence's steps allocate
/// nothing. Longer ones make room by doubling.
pub const ROOM_TOKENS: usize = 1024;

/// Pages that a prompt of so many tokens takes with that room.
pub fn pages_with_room(prompt_tokens: usize) -> usize {
    (prompt_tokens + ROOM_TOKENS).div_ceil(PAGE_TOKENS)
}

/// Names a sequence within one scheduler. Ids ascend with arrival, so an id is also its rank: the
/// smaller, the earlier served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

#[derive(Debug)]
pub(super) struct Sequence {
    /// On whose behalf it runs.
    pub caller: Caller,
    /// Where its service is counted.
    pub account: AccountId,
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    /// Tokens whose keys and values are in the cache, those of the step being run included.
    pub computed: usize,
    pub pages: Vec<u32>,
    /// What may come after the last token.
    pub guesses: Guesses,
    /// Guesses computed in the step whose tokens are being chosen, as far as none was wrong.
    guessed: Guesses,
    /// How many of `pages`, from the first on, are sealed: full, and never written again.
    pub sealed: usize,
    /// Names of its full pages.
    pub chain: Chain,
    /// Prompt tokens that were ever computed or found: those after a preemption count once.
    pub prompt_reached: usize,
    /// First prompt position whose logits are still wanted; `None` when only the last one's are.
    pub score_from: Option<usize>,
    /// Since when its client has not read.
    pub paused_since: Option<Duration>,
    /// Whether it was ever admitted.
    pub admitted: bool,
    /// Who should have been admitted before it and found no room.
    pub overtook: Option<SequenceId>,
    /// Whether it gave up its pages for a more urgent band, or waited too long: once is enough.
    pub gave_way: bool,
}

/// Who gives way to whom when pages run out; the greatest gives way first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Weakness {
    paused: bool,
    /// Its client has not seen a token: recomputing it delays nobody's stream.
    unstarted: bool,
    /// The more urgent gives way last.
    band: Band,
    rank: SequenceId,
}

impl Sequence {
    pub fn new(
        caller: Caller,
        account: AccountId,
        mut prompt: Vec<u32>,
        score_prompt: bool,
        chain: Chain,
    ) -> Sequence {
        // Nothing to do for who has made room before.
        prompt.reserve(ROOM_TOKENS);
        let prompt_tokens = prompt.len();
        Sequence {
            caller,
            account,
            prompt_tokens,
            tokens: prompt,
            computed: 0,
            pages: Vec::with_capacity(pages_with_room(prompt_tokens)),
            guesses: Guesses::default(),
            guessed: Guesses::default(),
            sealed: 0,
            chain,
            prompt_reached: 0,
            score_from: score_prompt.then_some(0),
            paused_since: None,
            admitted: false,
            overtook: None,
            gave_way: false,
        }
    }

    /// Goes on with a token. One that was guessed right is computed already; behind a wrong one, what the
    /// cache holds is overwritten as the sequence goes on. Returns whether it was guessed right.
    pub fn push(&mut self, token: u32) -> bool {
        let right = self.guessed.pop_first() == Some(token);
        match right {
            true => self.computed += 1,
            false => self.guessed.clear(),
        }
        self.guesses.clear();
        self.tokens.push(token);
        right
    }

    /// Takes the first `count` guesses into the step being planned.
    pub fn take_guesses(&mut self, count: usize) -> Guesses {
        self.guessed = std::mem::take(&mut self.guesses);
        self.guessed.truncate(count);
        self.guessed
    }

    /// Its pages are gone: all is to be computed again.
    pub fn forget(&mut self) {
        self.computed = 0;
        self.sealed = 0;
        self.guesses.clear();
        self.guessed.clear();
    }

    /// Guesses that fit into the page of the row before them, so that a guess never needs a page.
    pub fn guesses_that_fit(&self) -> usize {
        self.guesses.len().min(PAGE_TOKENS - 1 - self.computed % PAGE_TOKENS)
    }

    /// Tokens not yet computed: 1 for a decode, 0 while its last row's token is being chosen.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Pages it lacks to hold `tokens` tokens.
    pub fn pages_lacking(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS).saturating_sub(self.pages.len())
    }

    /// Pages it has and lacks to hold its tokens, and one to go on with.
    pub fn pages_wanted(&self) -> usize {
        self.pages.len() + self.pages_lacking(self.tokens.len()) + 1
    }

    /// Whether its client has seen a token.
    pub fn is_started(&self) -> bool {
        self.tokens.len() > self.prompt_tokens
    }

    /// Prompt tokens that were never computed nor found: those its account does not owe yet.
    pub fn prompt_unreached(&self) -> usize {
        self.prompt_tokens - self.prompt_reached
    }

    /// Whether it gives up its pages to let another be admitted: its client does not read, or has seen
    /// nothing yet while one of the more urgent `band` waits.
    pub fn makes_room_for(&self, band: Option<Band>) -> bool {
        let less_urgent = band.is_some_and(|band| self.caller.band > band);
        self.is_paused() || (less_urgent && !self.is_started() && !self.gave_way)
    }

    pub fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    pub fn is_runnable(&self) -> bool {
        !self.is_paused() && self.remaining() > 0
    }

    /// Positions among the next `rows` rows whose logits are wanted for the prompt's sake. The prompt's
    /// last row is not one of them: it chooses the next token.
    pub fn scored(&self, rows: usize) -> Range<usize> {
        let Some(from) = self.score_from else { return 0..0 };
        let start = self.computed.max(from);
        start..(self.computed + rows).min(self.prompt_tokens - 1).max(start)
    }

    pub fn weakness(&self, rank: SequenceId) -> Weakness {
        Weakness { paused: self.is_paused(), unstarted: !self.is_started(), band: self.caller.band, rank }
    }
}
