//! How long a model takes for a token, and for the tokens before it, so that steps are bounded in time on any
//! machine and in the middle of long prompts.

use std::time::Duration;

/// Steps of fewer tokens tell little: most of their time goes into reading the weights once.
const MEASURED_TOKENS_MIN: usize = 32;

/// Weight of the newest step. A burst of other work on the machine is forgotten in a few steps.
const NEWEST: f64 = 0.3;

/// What of the past still counts after a step, for what a token's past costs: seen at many lengths.
const PAST_REMEMBERED: f64 = 0.98;

/// A step that took longer than so many times what was expected was disturbed: no more of it tells what the
/// past costs.
const SURPRISE_MAX: f64 = 1.25;

/// Tokens of past between steps, as a standard deviation, from which on their cost can be told from noise.
const PAST_SPREAD_MIN: f64 = 64.0;

/// A running estimate: so much a token, and so much more for each token before it, as attention goes over
/// all of them.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    seconds_a_token: f64,
    seconds_a_pair: f64,
    line: Line,
}

/// Sums over steps, for the line of seconds a token over mean past (least squares).
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    steps: f64,
    past: f64,
    seconds: f64,
    past_squared: f64,
    product: f64,
}

impl Default for Pace {
    /// A slow start: 2 ms a token is a model of a billion parameters on two cores.
    fn default() -> Pace {
        Pace { seconds_a_token: 2e-3, seconds_a_pair: 0.0, line: Line::default() }
    }
}

impl Pace {
    /// Learns from a step of `tokens` tokens that had `pairs` before them, summed over them; from a small one
    /// only that the machine is faster than thought.
    pub fn observe(&mut self, tokens: usize, pairs: usize, took: Duration) {
        let count = tokens.max(1) as f64;
        let (seconds, past) = (took.as_secs_f64() / count, pairs as f64 / count);
        if tokens >= MEASURED_TOKENS_MIN {
            let expected = self.seconds_a_token + self.seconds_a_pair * past;
            self.line.add(past, seconds.min(SURPRISE_MAX * expected));
            self.seconds_a_pair = self.line.slope().unwrap_or(self.seconds_a_pair);
        }
        let seconds = (seconds - self.seconds_a_pair * past).max(0.0);
        if tokens >= MEASURED_TOKENS_MIN || (tokens > 0 && seconds < self.seconds_a_token) {
            self.seconds_a_token += NEWEST * (seconds - self.seconds_a_token);
        }
    }

    /// What so many tokens are expected to take, besides what their past costs.
    pub fn seconds(&self, tokens: usize) -> f64 {
        self.seconds_a_token * tokens as f64
    }

    /// What so many tokens are expected to take that have `pairs` before them, summed over them.
    pub fn seconds_after(&self, tokens: usize, pairs: usize) -> f64 {
        self.seconds(tokens) + self.seconds_a_pair * pairs as f64
    }

    /// How many tokens fit into this time, at least the fewest that are worth a step and at most
    /// `tokens_max`.
    pub fn tokens_within(&self, time: Duration, tokens_max: usize) -> usize {
        let tokens = time.as_secs_f64() / self.seconds_a_token.max(1e-9);
        (tokens as usize).max(MEASURED_TOKENS_MIN).min(tokens_max)
    }
}

impl Line {
    fn add(&mut self, past: f64, seconds: f64) {
        let sums =
            [&mut self.steps, &mut self.past, &mut self.seconds, &mut self.past_squared, &mut self.product];
        let terms = [1.0, past, seconds, past * past, past * seconds];
        for (sum, term) in sums.into_iter().zip(terms) {
            *sum = *sum * PAST_REMEMBERED + term;
        }
    }

    /// Seconds for each token of past, once steps differ enough in it.
    fn slope(&self) -> Option<f64> {
        let mean = self.past / self.steps;
        let spread = self.past_squared / self.steps - mean * mean;
        let covariance = self.product / self.steps - mean * self.seconds / self.steps;
        (spread > PAST_SPREAD_MIN * PAST_SPREAD_MIN).then(|| (covariance / spread).max(0.0))
    }
}

/// What a model's time is worth in its tokens of service: over many steps, as a step of decodes alone takes
/// long for few.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    seconds: f64,
    tokens: f64,
}

/// What of the past still counts after a step.
const REMEMBERED: f64 = 0.95;

impl Default for Price {
    /// As a [`Pace`] begins.
    fn default() -> Price {
        Price { seconds: 2e-3, tokens: 1.0 }
    }
}

impl Price {
    /// Learns from a step of `tokens` tokens of service.
    pub fn observe(&mut self, tokens: u64, took: Duration) {
        if tokens > 0 {
            self.seconds = self.seconds * REMEMBERED + took.as_secs_f64();
            self.tokens = self.tokens * REMEMBERED + tokens as f64;
        }
    }

    /// Tokens of service that so much time is worth.
    pub fn tokens(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.tokens / self.seconds.max(1e-9)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_settle_at_the_time_given() {
        for micros_a_token in [20, 1_000, 5_000] {
            let mut pace = Pace::default();
            let mut tokens = 0;
            for _ in 0..30 {
                tokens = pace.tokens_within(Duration::from_millis(200), 100_000);
                // 3 ms of each step do not depend on its size.
                pace.observe(tokens, 0, Duration::from_micros(3_000 + micros_a_token * tokens as u64));
            }
            let took = 3_000 + micros_a_token * tokens as u64;
            assert!((190_000..=210_000).contains(&took), "{took} us at {micros_a_token} us a token");
        }
    }

    #[test]
    fn what_the_past_costs_is_told_from_what_a_token_costs() {
        // A token takes 400 us, and 0.1 us for each before it; some steps are disturbed.
        let mut pace = Pace::default();
        let took = |tokens: f64, past: f64| Duration::from_secs_f64(4e-4 * tokens + 1e-7 * tokens * past);
        for step in 0..200 {
            let (tokens, past) = (32 + step * 37 % 200, step * 997 % 4000);
            let disturbed = if step % 20 == 0 { 3 } else { 1 };
            pace.observe(tokens, tokens * past, disturbed * took(tokens as f64, past as f64));
        }
        (0..5).for_each(|_| pace.observe(100, 0, took(100.0, 0.0)));
        for past in [0, 1_000, 8_000] {
            let expected = took(100.0, past as f64).as_secs_f64();
            let error = pace.seconds_after(100, 100 * past) / expected - 1.0;
            assert!(error.abs() < 0.25, "{error} of the time after {past} tokens");
        }
    }

    #[test]
    fn stays_within_its_bounds() {
        let mut pace = Pace::default();
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 100);
        assert_eq!(pace.tokens_within(Duration::from_secs(200), 512), 512);
        pace.observe(100, 0, Duration::from_secs(1000));
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 32);
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 8), 8);
        (0..100).for_each(|_| pace.observe(100, 0, Duration::ZERO));
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 512);
        pace.observe(1, 0, Duration::from_secs(1000));
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 512, "one token tells nothing");
        let mut pace = Pace::default();
        (0..30).for_each(|_| pace.observe(20, 0, Duration::from_millis(2)));
        assert!(pace.tokens_within(Duration::from_millis(200), 4096) > 1900, "unless it was fast");
    }
}
