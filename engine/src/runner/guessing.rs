//! One model's guesses, step by step: which rows of a step count, and what to guess for the next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Counters;
use super::active::ActiveRequest;
use crate::scheduler::{Actions, Output, OutputKind, SchedulerEvent, SequenceId};
use crate::speculation::{Planner, Speculation, Wish};

pub(super) struct Guessing {
    planner: Planner,
    /// The sequence whose token was chosen last, and the token.
    last: Option<(SequenceId, u32)>,
    /// Tokens chosen in this step, and how many of them were guessed.
    tokens: usize,
    right: usize,
    /// Sequences that may have guesses in the next step.
    askers: Vec<SequenceId>,
    wishes: Vec<Wish>,
}

impl Guessing {
    pub fn new(speculation: Speculation) -> Guessing {
        Guessing {
            planner: Planner::new(speculation),
            last: None,
            tokens: 0,
            right: 0,
            askers: Vec::new(),
            wishes: Vec::new(),
        }
    }

    pub fn is_off(&self) -> bool {
        self.planner.is_off()
    }

    pub fn begin_step(&mut self) {
        (self.last, self.tokens, self.right) = (None, 0, 0);
        self.askers.clear();
    }

    /// Whether a row's logits are to be used: those after a wrong guess are not.
    pub fn is_wanted(&mut self, Output { id, kind }: Output) -> bool {
        let OutputKind::AfterGuess { guess } = kind else { return true };
        let wanted = self.last == Some((id, guess));
        self.last = self.last.filter(|_| wanted);
        self.right += usize::from(wanted);
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
        counters.guessed_tokens += actions.outputs.iter().filter(|output| is_guess(output)).count() as u64;
        counters.accepted_guesses += self.right as u64;
        let rows = actions.batch.tokens.len();
        // A step with prompt rows tells nothing about what a guess costs.
        if rows == actions.outputs.len() && self.tokens > 0 {
            self.planner.ran(rows, took, self.tokens, self.right);
        }
        self.wishes.clear();
        self.wishes.extend(self.askers.iter().map(|id| match requests.get_mut(id) {
            Some(request) => request.wish(),
            None => Wish::default(),
        }));
        self.planner.plan(&mut self.wishes);
        for (&id, wish) in self.askers.iter().zip(&self.wishes) {
            if let Some(request) = requests.get(&id).filter(|_| wish.granted > 0) {
                events.push(SchedulerEvent::Guessed { id, tokens: request.guesses(wish.granted).to_vec() });
            }
        }
    }
}

fn is_guess(output: &Output) -> bool {
    matches!(output.kind, OutputKind::AfterGuess { .. })
}
