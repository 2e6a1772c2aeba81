//! What a step of single tokens costs by its rows, learnt from those that ran.

use std::time::Duration;

/// Weight of all earlier steps against the newest.
const MEMORY: f64 = 0.98;

/// A row's share of a step of one row, before steps of different sizes were seen.
const ROW_SHARE: f64 = 0.3;

/// Share of the time spent on decoding that guesses may waste, less than promised to users: the
/// bookkeeping costs too.
const WASTE_MAX: f64 = 0.03;

/// Seconds of a step: `fixed + row · rows`, by least squares over recent steps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepCost {
    steps: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepLine {
    pub fixed: f64,
    pub row: f64,
}

impl StepCost {
    pub fn observe(&mut self, rows: usize, took: Duration) {
        let (rows, seconds) = (rows as f64, took.as_secs_f64());
        let add = |sum: &mut f64, value: f64| *sum = *sum * MEMORY + value;
        add(&mut self.steps, 1.0);
        add(&mut self.rows, rows);
        add(&mut self.seconds, seconds);
        add(&mut self.rows_rows, rows * rows);
        add(&mut self.rows_seconds, rows * seconds);
    }

    /// `None` before the first step.
    pub fn line(&self) -> Option<StepLine> {
        if self.steps == 0.0 {
            return None;
        }
        let (rows, seconds) = (self.rows / self.steps, self.seconds / self.steps);
        let variance = self.rows_rows / self.steps - rows * rows;
        let covariance = self.rows_seconds / self.steps - rows * seconds;
        let assumed = ROW_SHARE * seconds / (1.0 - ROW_SHARE + ROW_SHARE * rows);
        // A prior of steps that differ by a row: what little variety there is counts for little.
        let row = (covariance + 0.1 * assumed) / (variance + 0.1);
        // A row costs something, and not more than its share of the whole.
        let row = row.clamp(0.02 * seconds / rows.max(1.0), seconds / rows.max(1.0));
        Some(StepLine { fixed: (seconds - row * rows).max(0.0), row })
    }
}

/// Time wasted on guesses that were wrong, against time spent and saved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    spent: f64,
    wasted: f64,
    saved: f64,
}

impl Ledger {
    /// A step took so long, making its `right` and `wrong` guesses included.
    pub fn record(
        &mut self,
        took: Duration,
        line: StepLine,
        tokens: usize,
        right: usize,
        wrong: usize,
        making: Duration,
    ) {
        for sum in [&mut self.spent, &mut self.wasted, &mut self.saved] {
            *sum *= MEMORY;
        }
        self.spent += took.as_secs_f64();
        // A right guess saves its part of a later step and costs its row.
        let yielded = tokens.saturating_sub(right).max(1) as f64;
        let plain = line.fixed + line.row * yielded;
        self.saved += right as f64 * (plain / yielded - line.row).max(0.0);
        self.wasted += wrong as f64 * line.row + making.as_secs_f64();
    }

    /// Whether more may be wasted.
    pub fn allows(&self) -> bool {
        self.wasted <= WASTE_MAX * self.spent + 0.9 * self.saved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: f64) -> Duration {
        Duration::from_secs_f64(millis / 1e3)
    }

    #[test]
    fn learns_the_line_steps_lie_on() {
        let mut cost = StepCost::default();
        assert_eq!(cost.line(), None);
        for i in 0..400 {
            let rows = 1 + i % 9;
            cost.observe(rows, millis(4.0 + 0.5 * rows as f64));
        }
        let line = cost.line().unwrap();
        assert!((line.fixed - 4e-3).abs() < 1e-4 && (line.row - 5e-4).abs() < 2e-5, "{line:?}");
    }

    #[test]
    fn assumes_a_share_where_all_steps_are_alike() {
        let mut cost = StepCost::default();
        (0..50).for_each(|_| cost.observe(1, millis(10.0)));
        let line = cost.line().unwrap();
        assert!((line.row - 3e-3).abs() < 1e-6 && (line.fixed - 7e-3).abs() < 1e-6, "{line:?}");
    }

    #[test]
    fn waste_is_bounded_by_what_was_spent_and_saved() {
        let line = StepLine { fixed: 8e-3, row: 1e-3 };
        let mut ledger = Ledger::default();
        assert!(ledger.allows());
        ledger.record(millis(12.0), line, 1, 0, 3, Duration::ZERO);
        assert!(!ledger.allows(), "a quarter of the step was wasted");
        (0..20).for_each(|_| ledger.record(millis(9.0), line, 1, 0, 0, Duration::ZERO));
        assert!(ledger.allows(), "it is little by now");
        ledger.record(millis(12.0), line, 3, 2, 1, Duration::ZERO);
        assert!(ledger.allows(), "it saved more than it wasted");
    }
}
