//! Windows of work and the machine's limits right before and after each: fractions are ratios of neighbours
//! in time, and what is reported is the median over windows.

use kernels::roofline::Roofline;

/// Measured windows of one kind of work.
pub struct Windows<'a> {
    measure_limits: &'a dyn Fn() -> Roofline,
    /// Measured right before the window to come.
    before: Roofline,
    windows: Vec<Window>,
}

#[derive(Clone, Copy)]
struct Window {
    /// Of one repetition.
    seconds: f64,
    /// The mean of those on both sides.
    limits: Roofline,
}

impl<'a> Windows<'a> {
    pub fn new(measure_limits: &'a dyn Fn() -> Roofline) -> Windows<'a> {
        Windows { measure_limits, before: measure_limits(), windows: Vec::new() }
    }

    /// Measures the limits anew: other things were done since the last window.
    pub fn restart(&mut self) {
        self.before = (self.measure_limits)();
    }

    /// A window of some repetitions, which `work` takes the seconds of.
    pub fn measure(&mut self, repetitions: usize, work: impl FnOnce() -> f64) {
        let seconds = work() / repetitions.max(1) as f64;
        let (before, after) = (self.before, (self.measure_limits)());
        let limits = Roofline {
            read_bytes_per_s: (before.read_bytes_per_s + after.read_bytes_per_s) / 2.0,
            int8_ops_per_s: (before.int8_ops_per_s + after.int8_ops_per_s) / 2.0,
        };
        self.windows.push(Window { seconds, limits });
        self.before = after;
    }

    /// Of one repetition.
    pub fn seconds(&self) -> f64 {
        median(self.windows.iter().map(|window| window.seconds))
    }

    /// Of each window.
    pub fn limits(&self) -> impl Iterator<Item = Roofline> {
        self.windows.iter().map(|window| window.limits)
    }

    /// What reading so many bytes a repetition is of the bandwidth.
    pub fn read_fraction(&self, bytes: f64) -> f64 {
        median(self.windows.iter().map(|window| bytes / window.seconds / window.limits.read_bytes_per_s))
    }

    /// What so many int8 operations a repetition are of the peak.
    pub fn int8_fraction(&self, ops: f64) -> f64 {
        median(self.windows.iter().map(|window| ops / window.seconds / window.limits.int8_ops_per_s))
    }
}

/// 0 for no values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_fraction_is_of_the_limits_around_its_window() {
        // A machine that gets half as fast from look to look, and work that always takes half of it.
        let speed = Cell::new(64.0);
        let look = || {
            speed.set(speed.get() / 2.0);
            Roofline { read_bytes_per_s: speed.get(), int8_ops_per_s: 10.0 * speed.get() }
        };
        let mut windows = Windows::new(&look);
        for _ in 0..3 {
            // The look that follows will find half of this.
            let around = 0.75 * speed.get();
            windows.measure(4, || 4.0 * 96.0 / (around / 2.0));
        }
        assert_eq!((windows.read_fraction(96.0), windows.int8_fraction(480.0)), (0.5, 0.25));
        assert_eq!(windows.seconds(), 16.0, "the median's, one repetition");
        let limits: Vec<f64> = windows.limits().map(|limits| limits.read_bytes_per_s).collect();
        assert_eq!(limits, [24.0, 12.0, 6.0]);
        windows.restart();
        windows.measure(1, || 100.0);
        assert_eq!(windows.limits().last().unwrap().read_bytes_per_s, 1.5);
    }

    #[test]
    fn medians() {
        for (values, expected) in [(&[][..], 0.0), (&[3.0], 3.0), (&[9.0, 1.0, 2.0], 2.0), (&[1.0, 2.0], 2.0)]
        {
            assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        }
    }
}
