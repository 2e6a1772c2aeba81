//! One model's guesses, step by step: which rows of a step count, and what to guess for the next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Counters;
use super::active::ActiveRequest;
use super::draft::{DraftModel, Draftable};
use crate::scheduler::{Actions, Guesses, Output, OutputKind, SchedulerEvent, SequenceId};
use crate::speculation::{Planner, Speculation, Wish};

pub(super) struct Guessing {
    planner: Planner,
    /// The sequence whose token was chosen last, and the token.
    last: Option<(SequenceId, u32)>,
    /// Tokens chosen in this step, and how many of them were guessed.
    tokens: usize,
    right: usize,
    /// Those of them that the draft model had guessed.
    drafts_right: usize,
    /// Sequences that may have guesses in the next step.
    askers: Vec<SequenceId>,
    wishes: Vec<Wish>,
    /// Those of them that the draft model would guess for.
    drafting: Vec<Draftable>,
    draft: Option<DraftModel>,
    /// Time it took to make the guesses of the present step.
    making: Duration,
}

impl Guessing {
    pub fn new(speculation: Speculation, draft: Option<DraftModel>) -> Guessing {
        Guessing {
            planner: Planner::new(speculation),
            last: None,
            tokens: 0,
            right: 0,
            drafts_right: 0,
            askers: Vec::new(),
            wishes: Vec::new(),
            drafting: Vec::new(),
            draft,
            making: Duration::ZERO,
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
        (self.last, self.tokens, self.right, self.drafts_right) = (None, 0, 0, 0);
        self.askers.clear();
        for output in outputs.iter().filter(|output| is_guess(output)) {
            let is_drafted = requests.get(&output.id).is_some_and(ActiveRequest::is_drafted);
            counters.guessed_tokens += 1;
            counters.drafted_guesses += u64::from(is_drafted);
        }
    }

    /// Whether a row's logits are to be used: those after a wrong guess are not.
    pub fn is_wanted(&mut self, Output { id, kind }: Output, request: &ActiveRequest) -> bool {
        let OutputKind::AfterGuess { guess } = kind else { return true };
        let wanted = self.last == Some((id, guess));
        self.last = self.last.filter(|_| wanted);
        self.right += usize::from(wanted);
        self.drafts_right += usize::from(wanted && request.is_drafted());
        wanted
    }

    /// A sequence goes on with this token.
    pub fn chosen(&mut self, id: SequenceId, token: u32) {
        self.tokens += 1;
        if self.askers.last() != Some(&id) {
            self.askers.push(id);
        }
        self.last = Some((id, token));
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
        counters.accepted_guesses += self.right as u64;
        counters.accepted_drafts += self.drafts_right as u64;
        let rows = actions.batch.tokens.len();
        // A step with prompt rows tells nothing about what a guess costs.
        if rows == actions.outputs.len() && self.tokens > 0 {
            self.planner.ran(rows, took, self.tokens, self.right, self.making);
        }
        self.making = Duration::ZERO;
        if let Some(draft) = &mut self.draft {
            draft.follow(actions, requests);
        }
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

    /// Collects a wish of each asker, and whom the draft model would guess for: whoever its own text
    /// tells less.
    fn wish(&mut self, actions: &Actions, requests: &mut BTreeMap<SequenceId, ActiveRequest>) {
        self.drafting.clear();
        self.wishes.clear();
        for (asker, id) in self.askers.iter().enumerate() {
            let Some(request) = requests.get_mut(id) else {
                self.wishes.push(Wish::default());
                continue;
            };
            let mut wish = request.wish();
            if let Some(draft) = &self.draft {
                let (chance, useful) = (request.draft_chance(), request.useful_guesses());
                let place = actions.sequences.iter().position(|other| other == id);
                let draftable = place.and_then(|place| DraftModel::draftable(actions, place, asker, request));
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
        let Some(draft) = &mut self.draft else { return };
        self.drafting.iter_mut().for_each(|sequence| sequence.granted = self.wishes[sequence.asker].granted);
        self.drafting.retain(|sequence| sequence.granted > 0);
        if !self.drafting.is_empty() {
            self.making = draft.guess(&self.drafting, &actions.batch, requests);
        }
    }
}

fn is_guess(output: &Output) -> bool {
    matches!(output.kind, OutputKind::AfterGuess { .. })
}
