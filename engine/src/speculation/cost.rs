//! What a step of single tokens costs by its rows, learnt from those that ran.

use std::time::Duration;

/// Weight of all earlier steps against the newest.
pub(super) const MEMORY: f64 = 0.98;

/// A row's share of a step of one row, before steps of different sizes were seen.
const ROW_SHARE: f64 = 0.3;

/// Part of what right guesses saved that may be wasted on others.
const SAVED_PART: f64 = 0.9;

/// Steps as long as recent ones: most of it that is kept.
const SAVED_STEPS_MAX: f64 = 15.0;

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

/// What one kind of guesses may waste: a share of the time of all steps, and most of what they saved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ledger {
    share: f64,
    /// Weight of all earlier steps against the newest.
    memory: f64,
    /// Time of recent steps: bounds what is kept for later.
    recent: f64,
    /// Seconds of the share that are left; less than none after a waste that was not foreseen.
    allowance: f64,
    saved: f64,
}

impl Ledger {
    pub fn new(share: f64, memory: f64) -> Ledger {
        Ledger { share, memory, recent: 0.0, allowance: 0.0, saved: 0.0 }
    }

    /// A step took so long, and right guesses `saved` seconds.
    pub fn record(&mut self, took: Duration, saved: f64) {
        let took = took.as_secs_f64();
        self.recent = self.recent * self.memory + took;
        self.allowance = (self.allowance + self.share * took).min(self.share * self.recent);
        let debt = self.allowance.min(0.0);
        let saved = SAVED_PART * saved;
        // What was saved pays debts first.
        self.allowance += saved.min(-debt);
        let saved_max = SAVED_STEPS_MAX * (1.0 - self.memory) * self.recent;
        self.saved = (self.saved + (saved + debt).max(0.0)).min(saved_max);
    }

    /// So many seconds went into guesses.
    pub fn waste(&mut self, seconds: f64) {
        let from_saved = seconds.min(self.saved);
        self.saved -= from_saved;
        self.allowance -= seconds - from_saved;
    }

    /// Seconds that may be wasted.
    pub fn credit(&self) -> f64 {
        self.allowance + self.saved
    }

    /// Whether more may be wasted.
    pub fn allows(&self) -> bool {
        self.credit() >= 0.0
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
        let mut ledger = Ledger::new(0.03, MEMORY);
        assert!(ledger.allows());
        ledger.record(millis(12.0), 0.0);
        ledger.waste(3e-3);
        assert!(!ledger.allows(), "a quarter of the step was wasted");
        (0..9).for_each(|_| ledger.record(millis(9.0), 0.0));
        assert!(!ledger.allows(), "it is still more than its share");
        ledger.record(millis(9.0), 0.0);
        assert!(ledger.allows(), "it is its share by now");
        ledger.record(millis(12.0), 16e-3);
        ledger.waste(10e-3);
        assert!(ledger.allows(), "more was saved than wasted");
        (0..10_000).for_each(|_| ledger.record(millis(10.0), 1e-3));
        assert!(ledger.credit() < 0.2, "half a second of steps does not count for long: {ledger:?}");
    }
}
