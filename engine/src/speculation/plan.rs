//! Which guesses of a step are worth their rows.

use std::time::Duration;

use super::Speculation;
use super::cost::{Ledger, MEMORY, StepCost, StepLine};

/// Shares of the time of all steps that guesses may waste, together less than promised to users: the
/// bookkeeping costs too.
const SHARE_ALONE: f64 = 0.03;
const SHARE_BESIDE_DRAFT: f64 = 0.015;
const SHARE_OF_DRAFT: f64 = 0.025;

/// A draft model's ledger looks back on more steps: before it can be tried, it has to read a prompt.
const DRAFT_MEMORY: f64 = 0.9975;

/// One sequence's guesses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Guesses there are.
    pub guesses: usize,
    /// Chance of each, if those before it are right.
    pub chance: f64,
    /// Seconds it takes to make each one.
    pub making: f64,
    /// Whether a draft model has to make them.
    pub is_draft: bool,
    /// Guesses to be computed: the answer.
    pub granted: usize,
}

/// How guesses of one kind turned out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub computed: usize,
    pub right: usize,
}

/// A step that ran.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RanStep {
    pub rows: usize,
    pub took: Duration,
    /// Whether all rows were for next tokens: others tell nothing about what a guess costs.
    pub is_decode: bool,
    /// Tokens it yielded.
    pub tokens: usize,
    pub text: Outcome,
    pub draft: Outcome,
}

/// Decides for one model.
#[derive(Debug)]
pub(crate) struct Planner {
    speculation: Speculation,
    cost: StepCost,
    text: Ledger,
    draft: Ledger,
}

impl Planner {
    pub fn new(speculation: Speculation, has_draft: bool) -> Planner {
        let text = Ledger::new(if has_draft { SHARE_BESIDE_DRAFT } else { SHARE_ALONE }, MEMORY);
        let draft = Ledger::new(SHARE_OF_DRAFT, DRAFT_MEMORY);
        Planner { speculation, cost: StepCost::default(), text, draft }
    }

    pub fn is_off(&self) -> bool {
        self.speculation == Speculation::Off
    }

    pub fn ran(&mut self, step: &RanStep) {
        if step.is_decode {
            self.cost.observe(step.rows, step.took);
        }
        let line = self.cost.line().unwrap_or(StepLine { fixed: 0.0, row: 0.0 });
        let right = step.text.right + step.draft.right;
        // A right guess saves its part of a later step and costs its row.
        let yielded = step.tokens.saturating_sub(right).max(1) as f64;
        let saves = (line.fixed / yielded).max(0.0);
        for (ledger, outcome) in [(&mut self.text, step.text), (&mut self.draft, step.draft)] {
            ledger.record(step.took, outcome.right as f64 * saves);
            ledger.waste(outcome.computed.saturating_sub(outcome.right) as f64 * line.row);
        }
    }

    /// The draft model worked for so long.
    pub fn drafted(&mut self, took: Duration) {
        self.draft.waste(took.as_secs_f64());
    }

    /// Seconds the draft model may take now: none, when what it took was in vain.
    pub fn draft_credit(&self) -> Option<f64> {
        match self.speculation {
            Speculation::Off => None,
            Speculation::Always => Some(f64::INFINITY),
            Speculation::Adaptive => self.draft.allows().then(|| self.draft.credit()),
        }
    }

    /// Seconds that guesses as wished for save with each token, in steps of so many sequences.
    pub fn worth(&self, wish: &Wish, sequences: usize) -> f64 {
        match (self.speculation, self.cost.line()) {
            (Speculation::Always, _) => f64::INFINITY,
            (Speculation::Adaptive, Some(line)) => worth(line, wish, sequences.max(1) as f64),
            _ => 0.0,
        }
    }

    /// Grants guesses to the sequences of the next step, the likeliest first, as long as they make its
    /// tokens cheaper.
    pub fn plan(&self, wishes: &mut [Wish]) {
        match self.speculation {
            Speculation::Off => {}
            Speculation::Always => wishes.iter_mut().for_each(|wish| wish.granted = wish.guesses),
            Speculation::Adaptive => {
                let (text, draft) = (self.text.allows(), self.draft.allows());
                let refused = |wish: &&mut Wish| if wish.is_draft { !draft } else { !text };
                wishes.iter_mut().filter(refused).for_each(|wish| wish.guesses = 0);
                if let Some(line) = self.cost.line() {
                    grant(line, wishes);
                }
            }
        }
    }
}

/// See [`Planner::worth`]: each guess as long as it pays, as in [`grant`].
fn worth(line: StepLine, wish: &Wish, sequences: f64) -> f64 {
    let token = line.fixed / sequences + line.row;
    let (mut saved, mut tokens) = (0.0, 1.0);
    for place in 1..=wish.guesses {
        let chance = wish.chance.powi(place as i32);
        let gain = chance * token - line.row - wish.making;
        if gain <= 0.0 {
            break;
        }
        saved += gain;
        tokens += chance;
    }
    saved / tokens
}

fn grant(line: StepLine, wishes: &mut [Wish]) {
    let mut tokens = wishes.len() as f64;
    let mut seconds = line.fixed + line.row * tokens;
    loop {
        let next = |wish: &Wish| match wish.granted < wish.guesses {
            true => wish.chance.powi(wish.granted as i32 + 1),
            false => 0.0,
        };
        let best = wishes.iter_mut().max_by(|a, b| next(a).total_cmp(&next(b)));
        let Some(best) = best else { return };
        let (chance, cost) = (next(best), line.row + best.making);
        // More tokens for the time: `(tokens + chance) / (seconds + cost) > tokens / seconds`.
        if chance * seconds <= tokens * cost {
            return;
        }
        best.granted += 1;
        seconds += cost;
        tokens += chance;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(fixed: f64, row: f64, chances: &[f64]) -> Vec<usize> {
        let mut wishes: Vec<Wish> =
            chances.iter().map(|&chance| Wish { guesses: 8, chance, ..Wish::default() }).collect();
        grant(StepLine { fixed, row }, &mut wishes);
        wishes.iter().map(|wish| wish.granted).collect()
    }

    #[test]
    fn grants_what_makes_tokens_cheaper() {
        // Rows that cost nothing are always worth it, rows that cost all there is never.
        assert_eq!(granted(10.0, 0.0, &[0.1]), [8]);
        assert_eq!(granted(0.0, 1.0, &[0.9]), [0]);
        // A tenth of the step: chances above a tenth pay, and so do their first powers.
        assert_eq!(granted(9.0, 1.0, &[0.09]), [0]);
        assert_eq!(granted(9.0, 1.0, &[0.5]), [2]);
        assert_eq!(granted(9.0, 1.0, &[0.95]), [8]);
        // The likelier sequence first; the other does not pay any more once that one has its rows.
        assert_eq!(granted(9.0, 1.0, &[0.95, 0.2]), [8, 0]);
        assert_eq!(granted(9.0, 1.0, &[]), [0; 0]);
    }

    /// A step of as many rows as there are wishes and grants, at 9 ms and 1 ms a row, all guesses of it wrong.
    fn wrong_step(wishes: &[Wish]) -> RanStep {
        let count = |is_draft: bool| {
            let granted = wishes.iter().filter(|wish| wish.is_draft == is_draft).map(|wish| wish.granted);
            Outcome { computed: granted.sum(), right: 0 }
        };
        let (text, draft) = (count(false), count(true));
        let rows = wishes.len() + text.computed + draft.computed;
        let took = Duration::from_micros(9_000 + 1_000 * rows as u64);
        RanStep { rows, took, is_decode: true, tokens: wishes.len(), text, draft }
    }

    #[test]
    fn modes() {
        let plan = |speculation, ran: bool| {
            let mut planner = Planner::new(speculation, false);
            if ran {
                (0..10).for_each(|_| planner.ran(&wrong_step(&[Wish::default()])));
            }
            let mut wishes = [Wish { guesses: 4, chance: 0.9, ..Wish::default() }];
            planner.plan(&mut wishes);
            wishes[0].granted
        };
        assert_eq!(plan(Speculation::Off, true), 0);
        assert_eq!(plan(Speculation::Always, false), 4);
        assert_eq!(plan(Speculation::Adaptive, false), 0, "nothing is known of the costs");
        assert!(plan(Speculation::Adaptive, true) > 0);
    }

    #[test]
    fn wrong_guesses_cost_less_than_a_twentieth() {
        // Liars sure of themselves and always wrong: the text alone, and beside it a draft model that takes
        // 2 ms for a guess and is asked first by half of the sequences.
        for (has_draft, sequences) in [(false, 1), (true, 1), (true, 2), (true, 16)] {
            let mut planner = Planner::new(Speculation::Adaptive, has_draft);
            let (mut total, mut plain) = (Duration::ZERO, Duration::ZERO);
            let mut drafted = 0;
            for _ in 0..2000 {
                let text = Wish { guesses: 8, chance: 0.9, ..Wish::default() };
                let draft = Wish { making: 2e-3, is_draft: true, ..text };
                let mut wishes = vec![text; sequences];
                if has_draft && planner.draft_credit().is_some() {
                    wishes[..sequences.div_ceil(2)].fill(draft);
                }
                planner.plan(&mut wishes);
                let step = wrong_step(&wishes);
                let making = Duration::from_millis(2) * step.draft.computed as u32;
                planner.drafted(making);
                planner.ran(&step);
                drafted += step.draft.computed;
                total += step.took + making;
                plain += Duration::from_micros(9_000 + 1_000 * sequences as u64);
            }
            let cost = total.as_secs_f64() / plain.as_secs_f64() - 1.0;
            assert!(cost < 0.05, "{has_draft}, {sequences}: {cost}");
            assert_eq!(drafted > 0, has_draft && sequences < 16, "at 16 rows another one does not pay");
        }
    }

    #[test]
    fn what_a_draft_is_worth() {
        let line = StepLine { fixed: 9.0, row: 1.0 };
        let wish = |chance, making| Wish { guesses: 1, chance, making, is_draft: true, granted: 0 };
        assert_eq!(worth(line, &wish(0.5, 1.0), 1.0), (0.5 * 10.0 - 2.0) / 1.5);
        assert_eq!(worth(line, &wish(0.5, 4.0), 1.0), 0.0, "it takes as long as it saves");
        assert_eq!(worth(line, &wish(0.5, 0.5), 9.0), 0.0, "a row is half of what a token costs");
    }
}
