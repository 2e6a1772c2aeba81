//! How long a model takes for a token, so that steps are bounded in time on any machine.

use std::time::Duration;

/// Steps of fewer tokens tell little: most of their time goes into reading the weights once.
const MEASURED_TOKENS_MIN: usize = 32;

/// Weight of the newest step. A burst of other work on the machine is forgotten in a few steps.
const NEWEST: f64 = 0.3;

/// A running estimate.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    seconds_a_token: f64,
}

impl Default for Pace {
    /// A slow start: 2 ms a token is a model of a billion parameters on two cores.
    fn default() -> Pace {
        Pace { seconds_a_token: 2e-3 }
    }
}

impl Pace {
    /// Learns from a step; from a small one only that the machine is faster than thought.
    pub fn observe(&mut self, tokens: usize, took: Duration) {
        let seconds = took.as_secs_f64() / tokens.max(1) as f64;
        if tokens >= MEASURED_TOKENS_MIN || (tokens > 0 && seconds < self.seconds_a_token) {
            self.seconds_a_token += NEWEST * (seconds - self.seconds_a_token);
        }
    }

    /// What so many tokens are expected to take.
    pub fn seconds(&self, tokens: usize) -> f64 {
        self.seconds_a_token * tokens as f64
    }

    /// How many tokens fit into this time, at least the fewest that are worth a step and at most
    /// `tokens_max`.
    pub fn tokens_within(&self, time: Duration, tokens_max: usize) -> usize {
        let tokens = time.as_secs_f64() / self.seconds_a_token.max(1e-9);
        (tokens as usize).max(MEASURED_TOKENS_MIN).min(tokens_max)
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
                pace.observe(tokens, Duration::from_micros(3_000 + micros_a_token * tokens as u64));
            }
            let took = 3_000 + micros_a_token * tokens as u64;
            assert!((190_000..=210_000).contains(&took), "{took} us at {micros_a_token} us a token");
        }
    }

    #[test]
    fn stays_within_its_bounds() {
        let mut pace = Pace::default();
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 100);
        assert_eq!(pace.tokens_within(Duration::from_secs(200), 512), 512);
        pace.observe(100, Duration::from_secs(1000));
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 32);
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 8), 8);
        (0..100).for_each(|_| pace.observe(100, Duration::ZERO));
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 512);
        pace.observe(1, Duration::from_secs(1000));
        assert_eq!(pace.tokens_within(Duration::from_millis(200), 512), 512, "one token tells nothing");
        let mut pace = Pace::default();
        (0..30).for_each(|_| pace.observe(20, Duration::from_millis(2)));
        assert!(pace.tokens_within(Duration::from_millis(200), 4096) > 1900, "unless it was fast");
    }
}
