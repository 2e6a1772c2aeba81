//! One step's rows: decodes first, then chunks of prompts; pages for them; the batch.

use std::collections::HashSet;
use std::time::Duration;

use kernels::{PAGE_TOKENS, PagedRows};

use super::fairness::PromptClaim;
use super::prefix::Candidate;
use super::sequence::{Sequence, SequenceId};
use super::{Actions, Output, OutputKind, Scheduler};
use crate::batch::PageTables;
use crate::pages::ChainHash;

/// How often a step's tokens are shared out again, fewer of them, because they would take too long. Who gets
/// less may leave more to another whose tokens are slower.
const SHARING_ROUNDS: usize = 2;

/// Fewest prompt tokens of a step, however much is before them.
const CHUNK_MIN: usize = 8;

/// Rows granted to a sequence in this step, and guesses that follow them.
#[derive(Debug)]
pub(super) struct Grant {
    id: SequenceId,
    rows: usize,
    guesses: usize,
}

impl Scheduler {
    /// Fills `actions.batch` with the next step.
    pub(super) fn plan(&mut self, actions: &mut Actions) {
        self.reuse_for_running(actions);
        let mut grants = std::mem::take(&mut self.grants);
        self.grant_decodes(&mut grants, actions);
        self.grant_prefills(&mut grants, actions);
        // Whoever was preempted for a stronger sequence after it got its grant has lost it.
        grants.retain(|grant| self.running.contains_key(&grant.id));
        for Grant { id, rows, guesses } in grants.drain(..) {
            let sequence = self.running.get_mut(&id).expect("just retained");
            let unreached = sequence.prompt_unreached();
            push_rows(id, sequence, rows, &mut self.tables, actions);
            self.fairness.charge_prompt(sequence.account, unreached - sequence.prompt_unreached());
            if sequence.remaining() == 0 {
                self.fairness.charge_output(sequence.account);
            }
            push_guesses(sequence, guesses, actions);
        }
        self.grants = grants;
    }

    /// One row for each stream that has a token to go on from, and guesses in places left over.
    fn grant_decodes(&mut self, grants: &mut Vec<Grant>, actions: &mut Actions) {
        let mut ids = std::mem::take(&mut self.decoding);
        ids.extend(self.runnable(|sequence| sequence.remaining() == 1));
        // Prompts beside the streams keep their part of the step.
        let kept = ids.len() + self.limits.mixed_prefill_tokens_max;
        let mut places = self.limits.step_tokens_max.saturating_sub(kept);
        for id in ids.drain(..) {
            if self.reserve(id, 1, actions) == 1 {
                let guesses = self.running[&id].guesses_that_fit().min(places);
                places -= guesses;
                grants.push(Grant { id, rows: 1, guesses });
            }
        }
        self.decoding = ids;
    }

    /// Chunks of the prompts being prefilled, out of what the decodes leave of the budget.
    fn grant_prefills(&mut self, grants: &mut Vec<Grant>, actions: &mut Actions) {
        let decodes = grants.iter().map(|grant| grant.rows + grant.guesses).sum();
        let (mut budget, time_max) = self.prefill_budget(decodes);
        let order = self.prefill_order();
        let candidates = self.candidates(order);
        let (leaders, followers, rows) = self.share_out_led(&candidates, &mut budget, time_max);
        // Names of the pages that are being computed in this step.
        let mut begun = HashSet::new();
        for (leader, rows) in leaders.iter().zip(rows) {
            self.grant(leader, rows, &mut begun, grants, actions);
        }
        for follower in &followers {
            let is_led = follower.follows.is_some_and(|hash| begun.contains(&hash));
            // Whom it would follow may have been preempted for it, or it for another.
            if let Some(sequence) = self.running.get(&follower.id).filter(|_| !is_led) {
                let rows = sequence.remaining().min(budget);
                budget -= self.grant(follower, rows, &mut begun, grants, actions);
            }
        }
    }

    /// Shares out among those who follow nobody, and those who would follow one that gets nothing. Returns
    /// both kinds, and how many rows each of the first gets.
    fn share_out_led(
        &mut self,
        candidates: &[Candidate],
        budget: &mut usize,
        time_max: Duration,
    ) -> (Vec<Candidate>, Vec<Candidate>, Vec<usize>) {
        let whole = *budget;
        let follows_nobody = |candidate: &&Candidate| candidate.follows.is_none();
        let (leaders, followers): (Vec<Candidate>, Vec<Candidate>) =
            candidates.iter().partition(follows_nobody);
        let rows = self.share_out_within(&leaders, budget, time_max);
        if followers.is_empty() {
            return (leaders, followers, rows);
        }
        let at_work = leaders.iter().zip(&rows).filter(|(_, rows)| **rows > 0);
        let mut begun: HashSet<ChainHash> = at_work.filter_map(|(leader, _)| leader.begins).collect();
        let leads = |candidate: &&Candidate| candidate.follows.is_none_or(|hash| begun.insert(hash));
        let (leading, led): (Vec<Candidate>, Vec<Candidate>) = candidates.iter().partition(leads);
        if leading.len() == leaders.len() {
            return (leaders, followers, rows);
        }
        *budget = whole;
        let rows = self.share_out_within(&leading, budget, time_max);
        (leading, led, rows)
    }

    /// The same as [`Scheduler::share_out`], of fewer tokens where those before them make them slow.
    fn share_out_within(
        &mut self,
        candidates: &[Candidate],
        budget: &mut usize,
        time_max: Duration,
    ) -> Vec<usize> {
        let whole = *budget;
        let mut rows = self.share_out(candidates, budget);
        for _ in 0..SHARING_ROUNDS {
            let (tokens, pairs) = self.rows_and_pairs(candidates, &rows);
            let part = time_max.as_secs_f64() / self.pace.seconds_after(tokens, pairs).max(1e-9);
            *budget = ((tokens as f64 * part) as usize).max(CHUNK_MIN).min(whole);
            if part >= 1.0 || *budget >= tokens {
                *budget = whole - tokens;
                break;
            }
            rows = self.share_out(candidates, budget);
        }
        rows
    }

    /// Rows of a step, and tokens before them, summed over them.
    fn rows_and_pairs(&self, candidates: &[Candidate], rows: &[usize]) -> (usize, usize) {
        let pairs = candidates.iter().zip(rows).map(|(candidate, &rows)| {
            let past = self.running[&candidate.id].computed;
            rows * past + rows * rows / 2
        });
        (rows.iter().sum(), pairs.sum())
    }

    /// How many rows each of these prompts gets. Those of an account stand together.
    fn share_out(&mut self, candidates: &[Candidate], budget: &mut usize) -> Vec<usize> {
        let by_account: Vec<&[Candidate]> = candidates.chunk_by(|a, b| a.account == b.account).collect();
        let claims: Vec<PromptClaim> = by_account.iter().map(|prompts| claim(prompts)).collect();
        let shares = self.fairness.share(&claims, *budget);
        let mut scored_left = self.limits.scored_rows_max;
        let mut rows = Vec::with_capacity(candidates.len());
        for (prompts, share) in by_account.into_iter().zip(shares) {
            self.divide(prompts, share, &mut scored_left, &mut rows);
        }
        *budget -= rows.iter().sum::<usize>();
        rows
    }

    /// Divides one account's tokens among its prompts, and appends what each gets to `rows`.
    fn divide(
        &self,
        prompts: &[Candidate],
        mut share: usize,
        scored_left: &mut usize,
        rows: &mut Vec<usize>,
    ) {
        let chunk_max = (share / 2).max(PAGE_TOKENS);
        let first = rows.len();
        rows.resize(first + prompts.len(), 0);
        // Everyone gets a chunk before anyone gets what is left over.
        for pass_max in [chunk_max, usize::MAX] {
            for (prompt, rows) in prompts.iter().zip(&mut rows[first..]) {
                let sequence = &self.running[&prompt.id];
                let more = (prompt.rows_max - *rows).min(pass_max).min(share);
                let more = limit_scored_rows(sequence, *rows, more, scored_left);
                *rows += more;
                share -= more;
            }
        }
    }

    /// Grants as many of `rows` rows as there are pages for, and returns how many.
    fn grant(
        &mut self,
        candidate: &Candidate,
        rows: usize,
        begun: &mut HashSet<ChainHash>,
        grants: &mut Vec<Grant>,
        actions: &mut Actions,
    ) -> usize {
        let rows = self.reserve(candidate.id, rows, actions);
        if rows > 0 {
            begun.extend(candidate.begins);
            grants.push(Grant { id: candidate.id, rows, guesses: 0 });
        }
        rows
    }

    /// Prompt tokens for a step with so many decodes, and what they may take.
    fn prefill_budget(&self, decodes: usize) -> (usize, Duration) {
        let limits = &self.limits;
        let tokens_max = match decodes {
            0 => limits.step_tokens_max,
            _ => limits.mixed_prefill_tokens_max.min(limits.step_tokens_max - decodes),
        };
        // Who arrives in the middle of a step waits for its end: somebody else may.
        let in_company = decodes > 0 || !self.fairness.is_alone(self.now);
        let time_max = if in_company { limits.mixed_prefill_time_max } else { limits.prefill_time_max };
        (self.pace.tokens_within(time_max, tokens_max), time_max)
    }

    /// Accounts by what was computed for them, so that who goes first computes what several begin with.
    /// Of an account the oldest first, whose share is certain; then those that got least so far.
    fn prefill_order(&self) -> Vec<SequenceId> {
        let mut order: Vec<SequenceId> = self.runnable(|sequence| sequence.remaining() > 1).collect();
        let account = |id: &SequenceId| self.running[id].account;
        order.sort_by_key(|id| (self.fairness.turn(account(id)), account(id)));
        for prompts in order.chunk_by_mut(|a, b| account(a) == account(b)) {
            prompts[1..].sort_by_key(|id| self.running[id].computed);
        }
        order
    }

    fn runnable(&self, wanted: impl Fn(&Sequence) -> bool) -> impl Iterator<Item = SequenceId> {
        let chosen =
            move |(_, sequence): &(&SequenceId, &Sequence)| sequence.is_runnable() && wanted(sequence);
        self.running.iter().filter(chosen).map(|(&id, _)| id)
    }

    /// Gets pages for the next `rows` tokens of a sequence, at the cost of weaker ones if it must.
    /// Returns how many of those rows have pages: 0 when it has to wait for stronger ones.
    fn reserve(&mut self, id: SequenceId, rows: usize, actions: &mut Actions) -> usize {
        let Some(sequence) = self.running.get(&id) else { return 0 };
        let target = sequence.computed + rows;
        let mut lacking = sequence.pages_lacking(target);
        while lacking > 0 {
            match self.pool.allocate(&mut actions.zero) {
                Some(page) => {
                    self.running.get_mut(&id).expect("it runs").pages.push(page);
                    lacking -= 1;
                }
                None => match self.weakest(|_| true) {
                    Some(victim) if victim != id => self.preempt(victim, actions),
                    _ => break,
                },
            }
        }
        let sequence = &self.running[&id];
        rows.min(sequence.pages.len() * PAGE_TOKENS - sequence.computed)
    }
}

/// What one account's prompts could use.
fn claim(prompts: &[Candidate]) -> PromptClaim {
    let tokens = prompts.iter().map(|prompt| prompt.rows_max).sum();
    PromptClaim { account: prompts[0].account, tokens }
}

/// Cuts `rows`, which follow `before` rows granted already, so that this step's rows of
/// whole-vocabulary logits stay within `scored_left`.
fn limit_scored_rows(sequence: &Sequence, before: usize, rows: usize, scored_left: &mut usize) -> usize {
    let scored_before = sequence.scored(before).len();
    let scored = sequence.scored(before + rows);
    let end = scored.end.min(scored.start + scored_before + *scored_left);
    *scored_left -= end - scored.start - scored_before;
    if end < scored.end { end - sequence.computed - before } else { rows }
}

/// Appends guesses to the rows of the sequence the batch ends with. They count as computed once they
/// turn out right.
fn push_guesses(sequence: &mut Sequence, count: usize, actions: &mut Actions) {
    let Actions { batch, sequences, outputs, .. } = actions;
    let (Some(rows), Some(&id)) = (batch.sequences.last_mut(), sequences.last()) else { return };
    for &guess in sequence.take_guesses(count).iter() {
        let row = batch.tokens.len() as u32;
        batch.tokens.push(guess);
        batch.positions.push((rows.past + rows.rows) as u32);
        rows.rows += 1;
        batch.logit_rows.push(row);
        outputs.push(Output { id, kind: OutputKind::AfterGuess { guess } });
    }
}

/// Appends `rows` rows of a sequence to the batch and counts them as computed.
fn push_rows(
    id: SequenceId,
    sequence: &mut Sequence,
    rows: usize,
    tables: &mut PageTables,
    actions: &mut Actions,
) {
    let Actions { batch, sequences, outputs, .. } = actions;
    let first_row = batch.tokens.len();
    let past = sequence.computed;
    let end = past + rows;
    batch.tokens.extend_from_slice(&sequence.tokens[past..end]);
    batch.positions.extend((past..end).map(|position| position as u32));
    sequences.push(id);
    batch.sequences.push(PagedRows { first_row, rows, past, pages: tables.copy(&sequence.pages) });

    let scored = sequence.scored(rows);
    if let Some(from) = &mut sequence.score_from {
        *from = scored.end;
    }
    for position in scored {
        batch.logit_rows.push((first_row + position - past) as u32);
        outputs.push(Output { id, kind: OutputKind::Prompt { position } });
    }
    if end == sequence.tokens.len() {
        batch.logit_rows.push((first_row + rows - 1) as u32);
        outputs.push(Output { id, kind: OutputKind::Next });
    }
    sequence.computed = end;
    sequence.prompt_reached = sequence.prompt_reached.max(end.min(sequence.prompt_tokens));
}
