//! Prefixes in common are computed once.
//!
//! A page that a step has filled is sealed under its name. A sequence about to begin a page first looks
//! whether one of that name is there, when it is admitted and before every step: so it also gets those
//! that another sequence computes meanwhile. While another is computing the very page it would begin
//! with, it *follows*: it takes no rows in that step as long as the other one does. Nobody waits for
//! something that does not happen in the same step, so nothing can wait forever, whoever is cancelled,
//! preempted or starved.
//!
//! Who is followed by one whose turn comes earlier has that turn: whatever their bands, nobody waits longer
//! than computing the page itself would take.
//!
//! At least one token of a sequence is always computed: its logits choose the next.

use std::collections::HashMap;

use kernels::PAGE_TOKENS;

use super::fairness::AccountId;
use super::sequence::{Sequence, SequenceId};
use super::{Actions, Scheduler};
use crate::pages::{ChainHash, Keep, NamedPage};

/// Prompt tokens of a sequence whose keys and values were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused {
    pub id: SequenceId,
    pub tokens: usize,
}

/// A sequence that could get rows for its prompt, and whom it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub id: SequenceId,
    /// Whose turn it has: its own account's, or that of one who follows it; and how many rows that one wants.
    pub account: AccountId,
    pub rows_max: usize,
    /// It waits if rows are granted for this page.
    pub follows: Option<ChainHash>,
    /// The page it goes on with, if that will be full with its prompt and may be shared.
    pub begins: Option<ChainHash>,
}

impl Scheduler {
    /// Seals what the last step has filled.
    pub(super) fn seal_filled_pages(&mut self) {
        if !self.limits.share_prefixes {
            return;
        }
        for sequence in self.running.values_mut().filter(|sequence| sequence.chain.shares()) {
            while sequence.sealed < sequence.computed / PAGE_TOKENS {
                let index = sequence.sealed;
                let hash = sequence.page_name(index).expect("computed tokens are known");
                let root = sequence.chain.root(index);
                let keep = match sequence.chain.keep() {
                    Keep::InMemory => Keep::InMemory,
                    // Once it has ended.
                    Keep::Usual | Keep::Retained(_) => Keep::Usual,
                };
                let page = NamedPage { page: sequence.pages[index], hash, root };
                sequence.pages[index] = self.pool.seal(page, keep);
                sequence.sealed += 1;
            }
        }
    }

    /// Gives every prompt in work the pages it would compute next that are there already.
    pub(super) fn reuse_for_running(&mut self, actions: &mut Actions) {
        if !self.limits.share_prefixes {
            return;
        }
        let ids: Vec<SequenceId> =
            self.running.iter().filter(|(_, sequence)| sequence.remaining() > 1).map(|(&id, _)| id).collect();
        ids.into_iter().for_each(|id| self.reuse(id, actions));
    }

    /// Gives a running sequence the pages it would compute next that are there already.
    pub(super) fn reuse(&mut self, id: SequenceId, actions: &mut Actions) {
        if !self.limits.share_prefixes {
            return;
        }
        let sequence = self.running.get_mut(&id).expect("the caller found it there");
        let mut tokens = 0;
        while let Some(page) = sequence.shared_in_work().and_then(|hash| self.pool.find(&hash)) {
            self.pool.share(page);
            self.pool.release(&mut sequence.give_up_page_in_work());
            tokens += sequence.take_over(page);
        }
        if tokens > 0 {
            self.fairness.refund(sequence.account, tokens);
            actions.reused.push(Reused { id, tokens });
        }
        self.plan_restores(id, actions);
    }

    /// Tokens of a waiting sequence that are cached, from its first on.
    pub(super) fn tokens_cached(&mut self, id: SequenceId) -> usize {
        let sequence = self.waiting.get_mut(&id).expect("the caller found it there");
        let cached =
            |index: &usize| sequence.shared_page(*index).is_some_and(|hash| self.pool.find(&hash).is_some());
        (0..).take_while(cached).count() * PAGE_TOKENS
    }

    /// Pages a waiting sequence would share with running ones if it was admitted now: those it needs no
    /// free page for.
    pub(super) fn pages_shared_with_running(&mut self, id: SequenceId) -> usize {
        if !self.limits.share_prefixes {
            return 0;
        }
        let sequence = self.waiting.get_mut(&id).expect("the caller found it there");
        let pages = (0..).map_while(|index| sequence.shared_page(index)).map(|hash| self.pool.find(&hash));
        pages.map_while(|page| page).filter(|&page| self.pool.is_owned(page)).count()
    }

    /// Finds out who follows whom among prompts in this order, and in which order they go then.
    pub(super) fn candidates(&mut self, order: Vec<SequenceId>) -> Vec<Candidate> {
        let share = self.limits.share_prefixes;
        let mut candidates: Vec<Candidate> = Vec::with_capacity(order.len());
        for id in order {
            let sequence = self.running.get_mut(&id).expect("the order is of running sequences");
            if sequence.next_shared_page().is_some_and(|hash| self.disk.is_awaited(&hash, self.now)) {
                continue;
            }
            let begins = if share { sequence.page_in_work() } else { None };
            let (account, rows_max) = (sequence.account, sequence.remaining());
            candidates.push(Candidate { id, account, rows_max, follows: None, begins });
        }
        if share {
            self.follow(&mut candidates);
        }
        candidates
    }

    fn follow(&mut self, candidates: &mut [Candidate]) {
        // Those in the middle of a page lead.
        let mut leading: Vec<usize> = (0..candidates.len()).collect();
        leading.sort_by_key(|&place| self.running[&candidates[place].id].next_page().is_some());
        let mut leaders: HashMap<ChainHash, usize> = HashMap::new();
        // Where each goes: a leader before the first that follows it.
        let mut turns: Vec<(usize, bool)> = (0..candidates.len()).map(|place| (place, true)).collect();
        for place in leading {
            let Some(hash) = candidates[place].begins else { continue };
            let leader = *leaders.entry(hash).or_insert(place);
            if leader == place {
                continue;
            }
            let sequence = self.running.get_mut(&candidates[place].id).expect("just found there");
            candidates[place].follows = sequence.shared_in_work();
            if candidates[place].follows.is_some() && place < turns[leader].0 {
                turns[leader] = (place, false);
                let end = sequence.tokens.len();
                let led = &self.running[&candidates[leader].id];
                candidates[leader].account = candidates[place].account;
                candidates[leader].rows_max = led.remaining().min(end - led.computed);
            }
        }
        let turn_of: HashMap<SequenceId, (usize, bool)> =
            candidates.iter().map(|candidate| candidate.id).zip(turns).collect();
        candidates.sort_by_key(|candidate| turn_of[&candidate.id]);
    }
}

impl Sequence {
    /// The name of page `index`, once its tokens are known.
    pub fn page_name(&mut self, index: usize) -> Option<ChainHash> {
        if !self.chain.shares() {
            return None;
        }
        self.chain.get(index, &self.tokens)
    }

    /// The name of page `index` if the sequence may take it from another: it has something left to
    /// compute after it, and nobody wants its logits.
    pub fn shared_page(&mut self, index: usize) -> Option<ChainHash> {
        let end = (index + 1) * PAGE_TOKENS;
        let scored = self.score_from.is_some_and(|from| from < end);
        if scored || end >= self.tokens.len() { None } else { self.page_name(index) }
    }

    /// The page it would begin next, unless it is inside one.
    pub fn next_page(&self) -> Option<usize> {
        self.computed.is_multiple_of(PAGE_TOKENS).then_some(self.computed / PAGE_TOKENS)
    }

    /// The name of the page it goes on with, if it may take it from another.
    fn shared_in_work(&mut self) -> Option<ChainHash> {
        self.shared_page(self.computed / PAGE_TOKENS)
    }

    /// Takes out the page it is in the middle of, if it is.
    fn give_up_page_in_work(&mut self) -> Vec<u32> {
        let full = self.computed / PAGE_TOKENS;
        self.computed = full * PAGE_TOKENS;
        self.pages.split_off(full)
    }

    /// The name of the page it would begin next, if it may take it from another.
    fn next_shared_page(&mut self) -> Option<ChainHash> {
        self.next_page().and_then(|index| self.shared_page(index))
    }

    /// The name of the page it goes on with, if others may wait for it.
    fn page_in_work(&mut self) -> Option<ChainHash> {
        // Prompts that are scored are slower than others.
        if self.score_from.is_some() { None } else { self.page_name(self.computed / PAGE_TOKENS) }
    }

    /// Goes on after a page that was computed by another. Returns how many prompt tokens it saved that
    /// were not computed or saved before.
    fn take_over(&mut self, page: u32) -> usize {
        debug_assert_eq!(self.pages.len() * PAGE_TOKENS, self.computed);
        self.pages.push(page);
        self.sealed += 1;
        self.computed += PAGE_TOKENS;
        let reached = self.computed.min(self.prompt_tokens);
        let saved = reached.saturating_sub(self.prompt_reached);
        self.prompt_reached = self.prompt_reached.max(reached);
        saved
    }
}
