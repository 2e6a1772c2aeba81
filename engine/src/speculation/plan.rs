//! Which guesses of a step are worth their rows.

use std::time::Duration;

use super::Speculation;
use super::cost::{Ledger, StepCost, StepLine};

/// One sequence's guesses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// Guesses there are.
    pub guesses: usize,
    /// Chance of each, if those before it are right.
    pub chance: f64,
    /// Seconds it takes to make each one.
    pub making: f64,
    /// Guesses to be computed: the answer.
    pub granted: usize,
}

/// Decides for one model.
#[derive(Debug)]
pub(crate) struct Planner {
    speculation: Speculation,
    cost: StepCost,
    ledger: Ledger,
}

impl Planner {
    pub fn new(speculation: Speculation) -> Planner {
        Planner { speculation, cost: StepCost::default(), ledger: Ledger::default() }
    }

    pub fn is_off(&self) -> bool {
        self.speculation == Speculation::Off
    }

    /// A step of so many rows, all of them for next tokens, yielded `tokens`, `right` of them guessed;
    /// making the guesses took `making` before it.
    pub fn ran(&mut self, rows: usize, took: Duration, tokens: usize, right: usize, making: Duration) {
        self.cost.observe(rows, took);
        if let Some(line) = self.cost.line() {
            let wrong = rows.saturating_sub(tokens);
            self.ledger.record(took + making, line, tokens, right, wrong, making);
        }
    }

    /// Grants guesses to the sequences of the next step, the likeliest first, as long as they make its
    /// tokens cheaper.
    pub fn plan(&self, wishes: &mut [Wish]) {
        match self.speculation {
            Speculation::Off => {}
            Speculation::Always => wishes.iter_mut().for_each(|wish| wish.granted = wish.guesses),
            Speculation::Adaptive if self.ledger.allows() => {
                if let Some(line) = self.cost.line() {
                    grant(line, wishes);
                }
            }
            Speculation::Adaptive => {}
        }
    }
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

    #[test]
    fn modes() {
        let plan = |speculation, ran: bool| {
            let mut planner = Planner::new(speculation);
            if ran {
                (0..10).for_each(|_| planner.ran(1, Duration::from_millis(10), 1, 0, Duration::ZERO));
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
        // A liar of a lookup: sure of itself, always wrong.
        let mut planner = Planner::new(Speculation::Adaptive);
        let (mut total, mut plain) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..2000 {
            let mut wishes = [Wish { guesses: 8, chance: 0.9, ..Wish::default() }];
            planner.plan(&mut wishes);
            let rows = 1 + wishes[0].granted;
            let took = Duration::from_micros(9_000 + 1_000 * rows as u64);
            planner.ran(rows, took, 1, 0, Duration::ZERO);
            total += took;
            plain += Duration::from_micros(10_000);
        }
        let cost = total.as_secs_f64() / plain.as_secs_f64() - 1.0;
        assert!(cost < 0.05, "{cost}");
    }
}
