//! Who may be admitted before the one in turn because more of its prompt is cached: the pages are used while
//! they are there, and the machine has less to compute (compare deficit longest prefix match: Cao et al.,
//! "Locality-aware Fair Scheduling in LLM Serving", 2025).
//!
//! * Only within a band, and only who then stands no higher than the one in turn would after its own
//!   admission: how far two principals can drift apart is what it was.
//! * Those admitted early compute no more than [`EARLY_TOKENS_MAX`] prompt tokens together, each counted as
//!   a page at least, before somebody is admitted in turn: that is what anyone in turn waits longer.

use kernels::PAGE_TOKENS;

use super::{AccountId, Fairness, TOKEN};
use crate::Band;
use crate::scheduler::sequence::SequenceId;

/// Prompt tokens computed for those admitted before the one in turn.
const EARLY_TOKENS_MAX: usize = 512;

/// How many are looked at: accounts of a band, and sequences of each.
const ACCOUNTS_MAX: usize = 8;
const SEQUENCES_MAX: usize = 4;

impl Fairness {
    /// New sequences of a band that may be admitted early, in turn, the one whose turn it is among them. That
    /// one would compute `prompt_tokens` tokens of its prompt. With each, how many tokens it may compute.
    pub fn early(&mut self, band: Band, prompt_tokens: usize) -> Vec<(SequenceId, usize)> {
        let left = EARLY_TOKENS_MAX - self.lines[band as usize].early_tokens;
        if left < PAGE_TOKENS || !self.lines[band as usize].resuming.is_empty() {
            return Vec::new();
        }
        let Some(first) = self.least_served(band) else { return Vec::new() };
        let least = self.accounts[first.index()].admitted;
        let mut early = Vec::new();
        for &(_, id) in self.lines[band as usize].accounts.iter().take(ACCOUNTS_MAX) {
            let account = &self.accounts[id.index()];
            let deficit = least.saturating_add(account.price(prompt_tokens as u64));
            let tokens = deficit.saturating_sub(account.admitted).saturating_mul(account.weight) / TOKEN;
            let tokens = left.min(usize::try_from(tokens).unwrap_or(left));
            early.extend(account.waiting.iter().take(SEQUENCES_MAX).map(|&sequence| (sequence, tokens)));
        }
        early
    }

    /// Admits a new sequence before the one in turn; it will compute `fresh_tokens` of `prompt_tokens`. Its
    /// band counts as passed over all the same.
    pub fn admit_early(
        &mut self,
        id: AccountId,
        sequence: SequenceId,
        prompt_tokens: usize,
        fresh_tokens: usize,
    ) {
        self.book(id, sequence, prompt_tokens);
        let account = &mut self.accounts[id.index()];
        account.running += 1;
        let spent = &mut self.lines[account.band as usize].early_tokens;
        *spent = (*spent + fresh_tokens.max(PAGE_TOKENS)).min(EARLY_TOKENS_MAX);
    }
}
