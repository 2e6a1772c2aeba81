//! How often guesses come true: the text's, by how long the text before them agreed, and a draft
//! model's.

/// A guess after this many agreeing tokens belongs to the next class.
const CLASS_BOUNDS: [usize; 3] = [4, 8, 16];

/// What is believed before anything was seen, and how many guesses that belief weighs.
const PRIOR_CHANCES: [f64; CLASS_BOUNDS.len() + 1] = [0.15, 0.3, 0.5, 0.7];
const PRIOR_GUESSES: f64 = 4.0;

const PRIOR_DRAFT_CHANCE: f64 = 0.6;

/// A draft model that is not asked is not counted either: what was seen of it fades with each token, so
/// that it gets another try.
const DRAFT_MEMORY: f64 = 0.995;

/// What was seen counts this much less with each further guess: texts change.
const MEMORY: f64 = 0.97;

/// Counts of one sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Acceptance {
    classes: [Class; CLASS_BOUNDS.len() + 1],
    draft: Class,
}

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    right: f64,
    seen: f64,
}

impl Acceptance {
    /// The chance that the next token is as the text guesses.
    pub fn text_chance(&self, agreement: usize) -> f64 {
        let class = class(agreement);
        self.classes[class].chance(PRIOR_CHANCES[class])
    }

    pub fn observe_text(&mut self, agreement: usize, right: bool) {
        self.classes[class(agreement)].observe(right);
    }

    /// The chance that the next token is as a draft model guesses.
    pub fn draft_chance(&self) -> f64 {
        self.draft.chance(PRIOR_DRAFT_CHANCE)
    }

    /// There is a token more, guessed or not.
    pub fn fade_draft(&mut self) {
        self.draft.right *= DRAFT_MEMORY;
        self.draft.seen *= DRAFT_MEMORY;
    }

    pub fn observe_draft(&mut self, right: bool) {
        self.draft.observe(right);
    }
}

impl Class {
    fn chance(&self, prior: f64) -> f64 {
        (self.right + prior * PRIOR_GUESSES) / (self.seen + PRIOR_GUESSES)
    }

    fn observe(&mut self, right: bool) {
        self.right = self.right * MEMORY + f64::from(u8::from(right));
        self.seen = self.seen * MEMORY + 1.0;
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
        assert_eq!(acceptance.text_chance(2), 0.15);
        assert_eq!(acceptance.text_chance(40), 0.7);
        (0..200).for_each(|_| acceptance.observe_text(5, true));
        assert!(acceptance.text_chance(4) > 0.9);
        assert_eq!(acceptance.text_chance(8), 0.5, "other classes know nothing of it");
        (0..200).for_each(|_| acceptance.observe_text(5, false));
        assert!(acceptance.text_chance(4) < 0.05);
    }

    #[test]
    fn a_draft_that_failed_gets_another_try() {
        let mut acceptance = Acceptance::default();
        (0..100).for_each(|_| acceptance.observe_draft(false));
        assert!(acceptance.draft_chance() < 0.1);
        (0..1000).for_each(|_| acceptance.fade_draft());
        assert!(acceptance.draft_chance() > 0.5);
    }
}
