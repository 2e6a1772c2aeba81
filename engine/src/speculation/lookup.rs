//! Guesses from the sequence's own text: what followed the last time the same few tokens came.
//!
//! Summaries, edits of code and answers that quote a document say again what the prompt said.

use ahash::AHashMap;

/// Lengths of the token runs that are looked up, the longest first: the longer, the surer.
const GRAMS: [usize; 2] = [4, 2];

/// Backward agreement beyond this says no more.
const AGREEMENT_MAX: usize = 16;

/// A sequence's tokens, indexed by their runs.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    tokens: Vec<u32>,
    /// Tokens whose runs are in `after`: all but the last once something was looked up.
    indexed: usize,
    /// For each length of `GRAMS`: by a run's hash, where the text after its latest occurrence begins.
    after: [AHashMap<u64, u32>; GRAMS.len()],
}

/// Where guesses are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// Index of the first token of the guess.
    start: usize,
    /// Tokens before it that are those the sequence ends with.
    pub agreement: usize,
}

impl Lookup {
    pub fn new(tokens: &[u32]) -> Lookup {
        Lookup { tokens: tokens.to_vec(), ..Lookup::default() }
    }

    /// Makes room for so many tokens.
    pub fn reserve(&mut self, tokens: usize) {
        self.tokens.reserve(tokens);
        let runs = self.tokens.len() - self.indexed + tokens;
        self.after.iter_mut().for_each(|map| map.reserve(runs));
    }

    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Indexes the runs that something follows: the end of the text must not find itself.
    pub fn index(&mut self) {
        for end in self.indexed..self.tokens.len() {
            for (map, gram) in self.after.iter_mut().zip(GRAMS) {
                if let (Some(run), Ok(end)) = (last(&self.tokens[..end], gram), u32::try_from(end)) {
                    map.insert(hash(run), end);
                }
            }
        }
        self.indexed = self.tokens.len();
    }

    /// Where the tokens the sequence ends with came before.
    pub fn find(&mut self) -> Option<Match> {
        self.index();
        let end = self.tokens.len();
        for (map, gram) in self.after.iter().zip(GRAMS) {
            let Some(run) = last(&self.tokens, gram) else { continue };
            let Some(&start) = map.get(&hash(run)) else { continue };
            let start = start as usize;
            let pairs = self.tokens[..start].iter().rev().zip(self.tokens[..end].iter().rev());
            let agreement = pairs.take(AGREEMENT_MAX).take_while(|(a, b)| a == b).count();
            // Less would be another run of the same hash.
            if agreement >= gram {
                return Some(Match { start, agreement });
            }
        }
        None
    }

    /// Appends `count` guesses to `guesses`. Where the match runs into the end of the text, the text goes
    /// on repeating.
    pub fn read(&self, found: Match, count: usize, guesses: &mut Vec<u32>) {
        let period = self.tokens.len() - found.start;
        guesses.extend((0..count).map(|i| self.tokens[found.start + i % period]));
    }
}

fn last(tokens: &[u32], count: usize) -> Option<&[u32]> {
    tokens.len().checked_sub(count).map(|start| &tokens[start..])
}

/// FNV-1a over tokens, with a final mix.
fn hash(run: &[u32]) -> u64 {
    let hash = run.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &token| {
        (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(text: &[u32], count: usize) -> (usize, Vec<u32>) {
        let mut lookup = Lookup::new(text);
        let mut guesses = Vec::new();
        let Some(found) = lookup.find() else { return (0, guesses) };
        lookup.read(found, count, &mut guesses);
        (found.agreement, guesses)
    }

    #[test]
    fn continues_as_the_text_did_before() {
        let check = |text: &[u32], agreement: usize, guesses: &[u32]| {
            assert_eq!(guess(text, 3), (agreement, guesses.to_vec()), "{text:?}");
        };
        check(&[], 0, &[]);
        check(&[1], 0, &[]);
        check(&[1, 2, 3, 4], 0, &[]);
        check(&[1, 2, 3, 4, 5, 9, 1, 2], 2, &[3, 4, 5]);
        // The latest of two continuations.
        check(&[1, 2, 7, 1, 2, 8, 9, 9, 1, 2], 2, &[8, 9, 9]);
        // The longer run knows better than the later one.
        check(&[5, 6, 1, 2, 7, 0, 1, 2, 8, 5, 6, 1, 2], 4, &[7, 0, 1]);
        // One token is no run.
        check(&[1, 7, 8, 1], 0, &[]);
        // Into the end: it repeats.
        check(&[3, 4, 3, 4, 3], 3, &[4, 3, 4]);
        check(&[9, 9, 9], 2, &[9, 9, 9]);
    }

    #[test]
    fn agreement_counts_backwards_up_to_its_bound() {
        let text: Vec<u32> = (0..40).chain(0..40).collect();
        assert_eq!(guess(&text[..45], 1), (5, vec![5]));
        assert_eq!(guess(&text[..75], 1), (AGREEMENT_MAX, vec![35]));
    }

    #[test]
    fn pushing_one_by_one_is_the_same_as_at_once() {
        let text: Vec<u32> = (0..200).map(|i| (i * i) % 7).collect();
        let mut grown = Lookup::new(&text[..1]);
        for (i, &token) in text.iter().enumerate().skip(1) {
            grown.push(token);
            assert_eq!(grown.find(), Lookup::new(&text[..=i]).find());
        }
    }
}
