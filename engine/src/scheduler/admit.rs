//! Who gets a place and pages, and who gives them up.

use std::cmp::Reverse;
use std::time::Duration;

use kernels::PAGE_TOKENS;

use super::fairness::Contenders;
use super::sequence::{Sequence, SequenceId, Weakness};
use super::{Actions, Scheduler, SchedulerLimits};

/// One place and one page in so many are kept for principals that have less than that running.
const KEPT_FRACTION: usize = 8;

/// One page, and one place, in so many is left to those who overtake a sequence that claims more, for so
/// long. After that it gets all it claims.
const OVERTAKING_FRACTION: usize = 8;
const OVERTAKING_TIME: Duration = Duration::from_secs(300);

/// What a sequence that is overdue has a right to: it is tried first, and those who overtake it may hold
/// what it leaves over. So it finds room once those who ran before have ended, and others go on meanwhile.
#[derive(Clone, Copy)]
struct Claim {
    id: SequenceId,
    /// Those who overtake it may be so many, or hold so many pages together.
    others_max: usize,
    other_pages_max: usize,
}

impl Scheduler {
    /// Puts a waiting sequence in line, unless its client does not read.
    pub(super) fn wait(&mut self, id: SequenceId) {
        match self.waiting.get(&id) {
            Some(sequence) if sequence.is_paused() => {}
            Some(sequence) if sequence.admitted => self.fairness.wait_to_resume(sequence.account, id),
            Some(sequence) => self.fairness.wait(sequence.account, id),
            None => {}
        }
    }

    /// Admits the sequence whose turn it is, or makes room for it. Returns whether it did either.
    pub(super) fn admit_next(&mut self, now: Duration, actions: &mut Actions) -> bool {
        let Contenders { candidates, overdue } = self.fairness.contenders(now);
        let Some(&first) = candidates.first() else { return false };
        let claim = overdue.map(|overdue| self.claim_of(first, overdue));
        if claim.is_none() && self.admit_early(first, actions) {
            return true;
        }
        for (place, id) in candidates.into_iter().enumerate() {
            if self.has_room_for(id, claim) {
                self.admit(id, claim, actions);
                return true;
            }
            // Only the first in line may displace others: those that overtake it would displace it next.
            let band = (place == 0).then(|| self.waiting[&id].caller.band);
            if let Some(victim) = self.weakest(|sequence| sequence.makes_room_for(band)) {
                let sequence = self.running.get_mut(&victim).expect("just found there");
                sequence.gave_way |= !sequence.is_paused();
                self.preempt(victim, actions);
                return true;
            }
        }
        false
    }

    fn admit(&mut self, id: SequenceId, claim: Option<Claim>, actions: &mut Actions) {
        let now = self.now;
        let mut sequence = self.waiting.remove(&id).expect("only waiting sequences are admitted");
        sequence.overtook = claim.map(|claim| claim.id).filter(|first| *first != id);
        // Who has claimed its room so long is not sent away again.
        sequence.gave_way |= claim.is_some_and(|claim| claim.id == id);
        if sequence.admitted {
            self.fairness.resume(sequence.account, id, now);
        } else {
            self.fairness.admit(sequence.account, id, sequence.prompt_unreached(), now);
        }
        self.start(id, sequence, actions);
    }

    fn start(&mut self, id: SequenceId, mut sequence: Sequence, actions: &mut Actions) {
        if !std::mem::replace(&mut sequence.admitted, true) {
            actions.admitted.push(id);
        }
        self.running.insert(id, sequence);
        self.reuse(id, actions);
    }

    /// Admits the sequence of which most is cached before the one in turn, if fairness allows it and there
    /// is room. Returns whether it did.
    fn admit_early(&mut self, first: SequenceId, actions: &mut Actions) -> bool {
        if !self.limits.share_prefixes || self.running.len() >= self.limits.running_sequences_max {
            return false;
        }
        let band = self.waiting[&first].caller.band;
        let cached_of_first = self.tokens_cached(first);
        let early = self.fairness.early(band, self.fresh_tokens(first, cached_of_first));
        let mut best = None;
        for (place, (id, tokens_max)) in early.into_iter().enumerate().filter(|(_, (id, _))| *id != first) {
            let cached = self.tokens_cached(id);
            let fresh = self.fresh_tokens(id, cached);
            if cached > cached_of_first && fresh.max(PAGE_TOKENS) <= tokens_max {
                best = best.max(Some((cached, Reverse(place), id, fresh)));
            }
        }
        let Some((_, _, id, fresh)) = best.filter(|(_, _, id, _)| self.has_room_for(*id, None)) else {
            return false;
        };
        let sequence = self.waiting.remove(&id).expect("only waiting sequences are admitted");
        self.fairness.admit_early(sequence.account, id, sequence.prompt_unreached(), fresh);
        self.start(id, sequence, actions);
        true
    }

    /// Prompt tokens a waiting sequence would compute of which so many are cached.
    fn fresh_tokens(&self, id: SequenceId, cached: usize) -> usize {
        self.waiting[&id].prompt_unreached().saturating_sub(cached)
    }

    /// Whether there is a place, and pages for all known tokens of a waiting sequence beside what running
    /// prompts still need and one page of growth for each.
    fn has_room_for(&mut self, id: SequenceId, claim: Option<Claim>) -> bool {
        let is_first = claim.is_some_and(|claim| claim.id == id);
        if claim.is_some_and(|claim| !is_first && !self.may_overtake(id, claim)) {
            return false;
        }
        let (places_kept, pages_kept) = match is_first {
            true => (0, 0),
            false => self.kept_for_newcomers(&self.waiting[&id]),
        };
        if self.running.len() + places_kept >= self.limits.running_sequences_max {
            return false;
        }
        let promised: usize = self.running.values().map(|s| s.pages_lacking(s.tokens.len())).sum();
        let sequence = &self.waiting[&id];
        let needed = sequence.pages_lacking(sequence.tokens.len()) - self.pages_shared_with_running(id);
        needed + promised + self.running.len() + pages_kept <= self.pool.free()
    }

    /// The claim of a waiting sequence that should have been admitted so long ago.
    fn claim_of(&self, id: SequenceId, overdue: Duration) -> Claim {
        let SchedulerLimits { pages, running_sequences_max, .. } = self.limits;
        let left = pages.saturating_sub(self.waiting[&id].pages_wanted());
        if overdue >= OVERTAKING_TIME {
            return Claim { id, others_max: 0, other_pages_max: left };
        }
        Claim {
            id,
            others_max: running_sequences_max.div_ceil(OVERTAKING_FRACTION),
            other_pages_max: left.max(pages / OVERTAKING_FRACTION),
        }
    }

    /// Whether a waiting sequence may be admitted before the one that has this claim.
    fn may_overtake(&self, id: SequenceId, claim: Claim) -> bool {
        let others = || self.running.values().filter(|sequence| sequence.overtook == Some(claim.id));
        let pages = others().chain([&self.waiting[&id]]).map(Sequence::pages_wanted).sum::<usize>();
        pages <= claim.other_pages_max || others().count() < claim.others_max
    }

    /// Places and pages that `sequence` must leave free, so that who has less running than is kept finds room
    /// however long others' answers are.
    fn kept_for_newcomers(&self, sequence: &Sequence) -> (usize, usize) {
        let kept = self.limits.running_sequences_max / KEPT_FRACTION;
        if self.fairness.is_alone(self.now)
            || sequence.admitted
            || self.fairness.running(sequence.account) < kept.max(1)
        {
            return (0, 0);
        }
        (kept, self.limits.pages / KEPT_FRACTION)
    }

    /// Of those that may be chosen, the one that gives way first.
    pub(super) fn weakest(&self, may_be_chosen: impl Fn(&Sequence) -> bool) -> Option<SequenceId> {
        let chosen = self.running.iter().filter(|(_, sequence)| may_be_chosen(sequence));
        let by_weakness = |(&id, sequence): (&SequenceId, &Sequence)| -> (Weakness, SequenceId) {
            (sequence.weakness(id), id)
        };
        chosen.map(by_weakness).max().map(|(_, id)| id)
    }

    /// Takes a running sequence's pages; it waits, under its rank, to be computed again.
    pub(super) fn preempt(&mut self, id: SequenceId, actions: &mut Actions) {
        let mut sequence = self.running.remove(&id).expect("only running sequences are preempted");
        self.pool.release(&mut sequence.pages);
        self.fairness.yield_place(sequence.account);
        sequence.forget();
        self.waiting.insert(id, sequence);
        self.wait(id);
        actions.preempted.push(id);
    }
}
