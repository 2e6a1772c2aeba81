//! One model's guesses, step by step: which rows of a step count, and what to guess for the next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Counters;
use super::active::ActiveRequest;
use super::choosing::Part;
use super::draft::{Behind, DraftModel, Draftable};
use crate::scheduler::{Actions, Guesses, Output, OutputKind, SchedulerEvent, SequenceId};
use crate::speculation::{Outcome, Planner, RanStep, Speculation, Wish};

/// Answers are believed to go on for no longer than this, when it is asked what a draft is worth.
const TOKENS_TO_COME_MAX: usize = 256;

pub(super) struct Guessing {
    planner: Planner,
    /// Tokens chosen in this step, and how guesses of the text turned out.
    tokens: usize,
    text: Outcome,
    /// Those that the draft model had guessed.
    drafted: Outcome,
    /// Sequences that may have guesses in the next step.
    askers: Vec<SequenceId>,
    wishes: Vec<Wish>,
    /// Those of them that the draft model would guess for.
    drafting: Vec<Draftable>,
    /// Sequences to catch up with: how much they lack, and their place in the step.
    behind: Vec<(usize, usize)>,
    draft: Option<DraftModel>,
}

impl Guessing {
    pub fn new(speculation: Speculation, draft: Option<DraftModel>) -> Guessing {
        Guessing {
            planner: Planner::new(speculation, draft.is_some()),
            tokens: 0,
            text: Outcome::default(),
            drafted: Outcome::default(),
            askers: Vec::new(),
            wishes: Vec::new(),
            drafting: Vec::new(),
            behind: Vec::new(),
            draft,
        }
    }

    /// Pages of the cache are zeroed: so are the draft's.
    pub fn zero(&mut self, pages: &[u32]) {
        if let Some(draft) = &mut self.draft {
            draft.zero(pages);
        }
    }

    pub fn wipe(&mut self) {
        if let Some(draft) = &mut self.draft {
            draft.wipe();
        }
    }

    pub fn is_off(&self) -> bool {
        self.planner.is_off()
    }

    /// Before the tokens of a step are chosen: counts its guesses.
    pub fn begin_step(
        &mut self,
        outputs: &[Output],
        requests: &BTreeMap<SequenceId, ActiveRequest>,
        counters: &mut Counters,
    ) {
        self.tokens = 0;
        (self.text, self.drafted) = (Outcome::default(), Outcome::default());
        self.askers.clear();
        for output in outputs.iter().filter(|output| is_guess(output)) {
            let is_drafted = requests.get(&output.id).is_some_and(ActiveRequest::is_drafted);
            counters.guessed_tokens += 1;
            counters.drafted_guesses += u64::from(is_drafted);
            let outcome = if is_drafted { &mut self.drafted } else { &mut self.text };
            outcome.computed += 1;
        }
    }

    /// What came of a sequence's rows.
    pub fn chosen(&mut self, part: &Part<'_>) {
        self.tokens += part.tokens().len();
        if !part.tokens().is_empty() {
            self.askers.push(part.id);
        }
        let outcome = if part.is_drafted { &mut self.drafted } else { &mut self.text };
        outcome.right += part.right;
    }

    /// Learns from the step that ran, and guesses for the next one.
    pub fn end_step(
        &mut self,
        actions: &Actions,
        took: Duration,
        requests: &mut BTreeMap<SequenceId, ActiveRequest>,
        events: &mut Vec<SchedulerEvent>,
        counters: &mut Counters,
    ) {
        if self.is_off() {
            return;
        }
        counters.accepted_guesses += (self.text.right + self.drafted.right) as u64;
        counters.accepted_drafts += self.drafted.right as u64;
        let rows = actions.batch.tokens.len();
        self.planner.ran(&RanStep {
            rows,
            took,
            is_decode: rows == actions.outputs.len() && self.tokens > 0,
            tokens: self.tokens,
            text: self.text,
            draft: self.drafted,
        });
        self.catch_up(actions, took, requests);
        self.wish(actions, requests);
        self.planner.plan(&mut self.wishes);
        self.draft(actions, requests);
        for (&id, wish) in self.askers.iter().zip(&self.wishes) {
            if let Some(request) = requests.get(&id).filter(|_| wish.granted > 0) {
                events.push(SchedulerEvent::Guessed {
                    id,
                    tokens: Guesses::new(request.guesses(wish.granted)),
                });
            }
        }
    }

    /// Has the draft model compute what it has not seen of sequences of this step that it may save more time
    /// for than that takes: those first that lack the least. Takes no longer than half of the step.
    fn catch_up(
        &mut self,
        actions: &Actions,
        took: Duration,
        requests: &BTreeMap<SequenceId, ActiveRequest>,
    ) {
        let (Some(draft), Some(credit)) = (&mut self.draft, self.planner.draft_credit()) else { return };
        draft.fade();
        self.behind.clear();
        for (place, (rows, id)) in actions.batch.sequences.iter().zip(&actions.sequences).enumerate() {
            let Some(request) = requests.get(id) else { continue };
            let wish = draft.wish(request.useful_guesses(), request.draft_chance());
            let left = request.tokens_left().min(TOKENS_TO_COME_MAX) as f64;
            let worth = self.planner.worth(&wish, self.askers.len()) * left;
            let tokens = request.tokens().filter(|_| worth > 0.0);
            let found = tokens.and_then(|tokens| draft.behind(rows, tokens));
            // Begun only when it can be ended.
            let pays = |found: &Behind<'_>| draft.seconds_behind(found.lacking) < worth.min(credit);
            self.behind.extend(found.filter(pays).map(|found| (found.lacking, place)));
        }
        self.behind.sort_unstable();
        let seconds_max = if credit.is_finite() { took.as_secs_f64() / 2.0 } else { credit };
        let mut spent = Duration::ZERO;
        for &(_, place) in &self.behind {
            let tokens = requests.get(&actions.sequences[place]).and_then(ActiveRequest::tokens);
            let Some(found) = tokens.and_then(|tokens| draft.behind(&actions.batch.sequences[place], tokens))
            else {
                continue;
            };
            let left = |most: f64| most - spent.as_secs_f64();
            spent += draft.catch_up(&found, left(seconds_max), left(credit));
        }
        if !spent.is_zero() {
            self.planner.drafted(spent);
        }
    }

    /// Collects a wish of each asker, and whom the draft model would guess for: whoever its own text
    /// tells less.
    fn wish(&mut self, actions: &Actions, requests: &mut BTreeMap<SequenceId, ActiveRequest>) {
        self.drafting.clear();
        let may_draft = self.planner.draft_credit().is_some();
        self.wishes.clear();
        for (asker, id) in self.askers.iter().enumerate() {
            let Some(request) = requests.get_mut(id) else {
                self.wishes.push(Wish::default());
                continue;
            };
            let mut wish = request.wish();
            if let Some(draft) = self.draft.as_ref().filter(|_| may_draft) {
                let (chance, useful) = (request.draft_chance(), request.useful_guesses());
                let place = actions.sequences.iter().position(|other| other == id);
                let draftable = place.and_then(|place| draft.draftable(actions, place, asker, request));
                let is_better = wish.guesses == 0 || wish.chance < chance;
                if let Some(draftable) = draftable.filter(|_| is_better) {
                    wish = draft.wish(useful.min(draftable.room), chance);
                    self.drafting.push(draftable);
                }
            }
            self.wishes.push(wish);
        }
    }

    /// Has the draft model make what it was granted.
    fn draft(&mut self, actions: &Actions, requests: &mut BTreeMap<SequenceId, ActiveRequest>) {
        let (Some(draft), Some(credit)) = (&mut self.draft, self.planner.draft_credit()) else { return };
        self.drafting.iter_mut().for_each(|sequence| sequence.granted = self.wishes[sequence.asker].granted);
        self.drafting.retain(|sequence| sequence.granted > 0);
        if !self.drafting.is_empty() {
            self.planner.drafted(draft.guess(&self.drafting, &actions.batch, requests, credit));
        }
    }
}

fn is_guess(output: &Output) -> bool {
    matches!(output.kind, OutputKind::AfterGuess { .. })
}
