//! One sequence's guesses: made after each token, compared with the next ones, run or not.

use super::GUESSES_MAX;
use super::acceptance::Acceptance;
use super::lookup::Lookup;
use super::plan::Wish;

/// Guesses for one sequence. Memory: about 40 bytes a token.
#[derive(Debug)]
pub(crate) struct Guesser {
    lookup: Lookup,
    acceptance: Acceptance,
    /// The next tokens, if the text goes on as it did before.
    guesses: Vec<u32>,
    /// How many of them came true.
    right: usize,
    /// Agreement before the first of them.
    agreement: usize,
}

impl Guesser {
    /// Cheap: the prompt is indexed when the first token comes.
    pub fn new(prompt: &[u32]) -> Guesser {
        Guesser {
            lookup: Lookup::new(prompt),
            acceptance: Acceptance::default(),
            guesses: Vec::with_capacity(GUESSES_MAX),
            right: 0,
            agreement: 0,
        }
    }

    /// The sequence went on with `token`.
    pub fn push(&mut self, token: u32) {
        let guess = self.guesses.get(self.right).copied();
        if let Some(guess) = guess {
            self.acceptance.observe(self.agreement + self.right, guess == token);
        }
        self.lookup.push(token);
        if guess == Some(token) {
            self.right += 1;
        } else {
            self.guess();
        }
    }

    /// How many tokens there are guesses for, at most `count`, and how likely they are.
    pub fn wish(&mut self, count: usize) -> Wish {
        if self.right > 0 {
            // Again from where the text is now: it agrees by so much more.
            self.guess();
        }
        let guesses = self.guesses.len().min(count);
        Wish { guesses, chance: self.acceptance.chance(self.agreement), granted: 0 }
    }

    /// The first `count` guesses since [`Guesser::wish`].
    pub fn guesses(&self, count: usize) -> &[u32] {
        &self.guesses[..count.min(self.guesses.len())]
    }

    fn guess(&mut self) {
        self.guesses.clear();
        self.right = 0;
        if let Some(found) = self.lookup.find() {
            self.agreement = found.agreement;
            self.lookup.read(found, GUESSES_MAX, &mut self.guesses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_become_surer_as_they_come_true() {
        let text: Vec<u32> = (100..164).collect();
        let mut guesser = Guesser::new(&[&text[..], &text[..1]].concat());
        guesser.push(text[1]);
        let first = guesser.wish(4);
        assert_eq!(guesser.guesses(first.guesses), &text[2..6]);
        text[2..40].iter().for_each(|&token| guesser.push(token));
        let later = guesser.wish(usize::MAX);
        assert_eq!(guesser.guesses(later.guesses), &text[40..48]);
        assert!(later.chance > 0.8 && first.chance < 0.2, "{first:?} {later:?}");
        guesser.push(1);
        assert_eq!(guesser.wish(4).guesses, 0, "nothing like it came before");
    }

    #[test]
    fn what_is_not_computed_counts_too() {
        // The same words, another end each time.
        let mut guesser = Guesser::new(&[1, 2, 1000]);
        let before = guesser.acceptance.chance(2);
        (0..30).for_each(|i| [1, 2, 2000 + i].iter().for_each(|&token| guesser.push(token)));
        assert!(guesser.acceptance.chance(2) < before / 2.0);
    }
}
