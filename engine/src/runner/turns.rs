//! How the cores are shared between chat and embedding models: beside running chats, embeddings get a
//! fixed part of the time, in pieces as small as they come, so that a batch of any length delays tokens
//! by that part on average. Without chats they get all of it.

use std::time::Duration;

/// Time for embeddings for each second of chat steps.
const EMBED_SHARE: f64 = 0.25;

/// What embeddings may use, in seconds; below zero when their last step took longer than they had.
#[derive(Debug, Default)]
pub(super) struct Turns {
    credit: f64,
}

impl Turns {
    /// Chat models ran for `took`; credit is saved up to `credit_max`.
    pub fn chats_ran(&mut self, took: Duration, credit_max: Duration) {
        let earned = EMBED_SHARE * took.as_secs_f64();
        self.credit = (self.credit + earned).min(credit_max.as_secs_f64());
    }

    /// No chat had anything to compute: nothing is owed.
    pub fn chats_rested(&mut self) {
        self.credit = 0.0;
    }

    /// Time for a step of an embedding model beside chats, if it is its turn.
    pub fn embed_time(&self) -> Option<Duration> {
        (self.credit > 0.0).then(|| Duration::from_secs_f64(self.credit))
    }

    pub fn embeddings_ran(&mut self, took: Duration) {
        self.credit -= took.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds that embeddings got beside a thousand chat steps, and the most between two of those.
    fn beside_chats(chat_ms: u64, embed_ms: u64) -> (f64, f64) {
        let (mut turns, mut total, mut most) = (Turns::default(), 0.0, 0.0_f64);
        for _ in 0..1000 {
            turns.chats_ran(Duration::from_millis(chat_ms), Duration::from_millis(25));
            let mut between = 0.0;
            // Always another input: a step takes what it takes, whatever time it was given.
            while turns.embed_time().is_some() {
                let took = Duration::from_millis(embed_ms);
                turns.embeddings_ran(took);
                between += took.as_secs_f64();
            }
            total += between;
            most = most.max(between);
        }
        (total, most)
    }

    #[test]
    fn embeddings_get_their_part_beside_chats_one_step_at_a_time() {
        for (chat_ms, embed_ms) in [(3, 5), (3, 1), (20, 2), (40, 200)] {
            let (total, most) = beside_chats(chat_ms, embed_ms);
            let part = total / (chat_ms as f64);
            assert!((part - EMBED_SHARE).abs() < 0.02, "{part} of the time of {chat_ms} ms steps");
            let piece = (embed_ms as f64 + EMBED_SHARE * chat_ms as f64) / 1000.0;
            assert!(most <= piece + 1e-9, "{most} s between two tokens");
        }
    }

    #[test]
    fn debts_end_with_the_chats() {
        let mut turns = Turns::default();
        turns.embeddings_ran(Duration::from_secs(10));
        turns.chats_rested();
        assert_eq!(turns.embed_time(), None);
        turns.chats_ran(Duration::from_millis(4), Duration::from_millis(25));
        assert_eq!(turns.embed_time(), Some(Duration::from_millis(1)));
    }
}
