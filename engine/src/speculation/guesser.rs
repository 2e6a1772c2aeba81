//! One sequence's guesses: made after each token, compared with the next ones, run or not.

use super::GUESSES_MAX;
use super::acceptance::Acceptance;
use super::lookup::Lookup;
use super::plan::Wish;

/// Whose guesses the present ones are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The text's own, after so many agreeing tokens.
    Text { agreement: usize },
    /// A draft model's.
    Draft,
}

/// Guesses for one sequence. Memory: about 40 bytes a token.
#[derive(Debug)]
pub(crate) struct Guesser {
    lookup: Lookup,
    acceptance: Acceptance,
    /// The next tokens, if it goes on as the source says.
    guesses: Vec<u32>,
    source: Source,
    /// How many of them came true.
    right: usize,
}

impl Guesser {
    /// Cheap: the prompt is indexed when the first token comes, or before by [`Guesser::index`].
    pub fn new(prompt: &[u32]) -> Guesser {
        Guesser {
            lookup: Lookup::new(prompt),
            acceptance: Acceptance::default(),
            guesses: Vec::with_capacity(GUESSES_MAX),
            source: Source::Text { agreement: 0 },
            right: 0,
        }
    }

    /// Makes room for so many tokens.
    pub fn reserve(&mut self, tokens: usize) {
        self.lookup.reserve(tokens);
    }

    /// Indexes the prompt.
    pub fn index(&mut self) {
        self.lookup.index();
    }

    /// Prompt and what came since.
    pub fn tokens(&self) -> &[u32] {
        self.lookup.tokens()
    }

    /// The sequence went on with `token`.
    pub fn push(&mut self, token: u32) {
        self.acceptance.fade_draft();
        let guess = self.guesses.get(self.right).copied();
        if let Some(guess) = guess {
            match self.source {
                Source::Text { agreement } => {
                    self.acceptance.observe_text(agreement + self.right, guess == token);
                }
                Source::Draft => self.acceptance.observe_draft(guess == token),
            }
        }
        self.lookup.push(token);
        if guess == Some(token) {
            self.right += 1;
        } else {
            self.guess();
        }
    }

    /// How many tokens the text has guesses for, at most `count`, and how likely they are.
    pub fn wish(&mut self, count: usize) -> Wish {
        if self.right > 0 || self.source == Source::Draft {
            // Again from where the text is now: it agrees by so much more.
            self.guess();
        }
        let Source::Text { agreement } = self.source else { return Wish::default() };
        let guesses = self.guesses.len().min(count);
        Wish { guesses, chance: self.acceptance.text_chance(agreement), ..Wish::default() }
    }

    /// The chance of a draft model's next guess.
    pub fn draft_chance(&self) -> f64 {
        self.acceptance.draft_chance()
    }

    /// The draft model guesses this next: the text's guesses are dropped, the draft's go on.
    pub fn push_draft(&mut self, guess: u32) {
        if self.source != Source::Draft {
            self.guesses.clear();
            (self.source, self.right) = (Source::Draft, 0);
        }
        self.guesses.push(guess);
    }

    /// Whether the present guesses are a draft model's: until one of them is wrong.
    pub fn is_drafted(&self) -> bool {
        self.source == Source::Draft
    }

    /// The first `count` guesses.
    pub fn guesses(&self, count: usize) -> &[u32] {
        &self.guesses[..count.min(self.guesses.len())]
    }

    fn guess(&mut self) {
        self.guesses.clear();
        (self.source, self.right) = (Source::Text { agreement: 0 }, 0);
        if let Some(found) = self.lookup.find() {
            self.source = Source::Text { agreement: found.agreement };
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
        let before = guesser.acceptance.text_chance(2);
        (0..30).for_each(|i| [1, 2, 2000 + i].iter().for_each(|&token| guesser.push(token)));
        assert!(guesser.acceptance.text_chance(2) < before / 2.0);
    }

    #[test]
    fn a_drafts_guesses_are_counted_apart() {
        let mut guesser = Guesser::new(&[1, 2, 3, 1, 2]);
        guesser.push(3);
        let (text, draft) = (guesser.acceptance.text_chance(2), guesser.draft_chance());
        assert_eq!(guesser.wish(8).guesses, 8);
        for round in 0..20 {
            guesser.push_draft(100 + round);
            guesser.push_draft(7);
            assert_eq!(guesser.guesses(8), &[100 + round, 7]);
            guesser.push(100 + round);
            guesser.push(7);
            guesser.wish(8);
        }
        assert!(guesser.draft_chance() > draft);
        assert_eq!(guesser.acceptance.text_chance(2), text);
    }
}
