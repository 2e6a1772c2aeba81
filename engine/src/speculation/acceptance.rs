//! How often guesses come true, by how long the text before them agreed.

/// A guess after this many agreeing tokens belongs to the next class.
const CLASS_BOUNDS: [usize; 3] = [4, 8, 16];

/// What is believed before anything was seen, and how many guesses that belief weighs.
const PRIOR_CHANCES: [f64; CLASS_BOUNDS.len() + 1] = [0.15, 0.3, 0.5, 0.7];
const PRIOR_GUESSES: f64 = 4.0;

/// What was seen counts this much less with each further guess: texts change.
const MEMORY: f64 = 0.97;

/// Counts of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Acceptance {
    classes: [Class; CLASS_BOUNDS.len() + 1],
}

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    right: f64,
    seen: f64,
}

impl Acceptance {
    /// The chance that the next token is as guessed.
    pub fn chance(&self, agreement: usize) -> f64 {
        let class = class(agreement);
        let Class { right, seen } = self.classes[class];
        (right + PRIOR_CHANCES[class] * PRIOR_GUESSES) / (seen + PRIOR_GUESSES)
    }

    /// Counts one guess.
    pub fn observe(&mut self, agreement: usize, right: bool) {
        let class = &mut self.classes[class(agreement)];
        class.right = class.right * MEMORY + f64::from(u8::from(right));
        class.seen = class.seen * MEMORY + 1.0;
    }
}

fn class(agreement: usize) -> usize {
    CLASS_BOUNDS.iter().filter(|&&bound| agreement >= bound).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_follow_what_was_seen() {
        let mut acceptance = Acceptance::default();
        assert_eq!(acceptance.chance(2), 0.15);
        assert_eq!(acceptance.chance(40), 0.7);
        (0..200).for_each(|_| acceptance.observe(5, true));
        assert!(acceptance.chance(4) > 0.9);
        assert_eq!(acceptance.chance(8), 0.5, "other classes know nothing of it");
        (0..200).for_each(|_| acceptance.observe(5, false));
        assert!(acceptance.chance(4) < 0.05);
    }
}
