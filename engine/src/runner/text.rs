//! Tokens to output text: whole characters, cut at stop strings.

use compact_str::CompactString;

use crate::request::StopCriteria;
use crate::tokenizer::{Detokenizer, Tokenizer};

/// The text side of one generation.
#[derive(Debug)]
pub(super) struct OutputText {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    /// Of the token being added.
    text: String,
}

/// What a token adds to the output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TextPiece {
    pub text: CompactString,
    /// Index of the stop string this piece ends at.
    pub matched: Option<usize>,
}

impl OutputText {
    pub fn new(stop: &StopCriteria) -> OutputText {
        OutputText {
            detokenizer: Detokenizer::after_prompt(stop.keep_special_tokens),
            stop: StopMatcher::new(stop.strings.clone(), stop.include_stop_text),
            text: String::new(),
        }
    }

    /// `may_stop` is false as long as too few tokens are generated: then stop strings are text.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32, may_stop: bool) -> TextPiece {
        self.text.clear();
        self.detokenizer.push(tokenizer, token, &mut self.text);
        match may_stop {
            true => self.stop.push(&self.text),
            false => TextPiece { text: CompactString::new(&self.text), matched: None },
        }
    }

    /// What was held back.
    pub fn flush(&mut self) -> String {
        let mut text = self.stop.flush();
        self.detokenizer.flush(&mut text);
        text
    }

    pub fn stop_string(&self, index: usize) -> &str {
        &self.stop.strings[index]
    }
}

/// Finds the first of several strings in text that comes in pieces, holding back what may be the
/// beginning of one. The match that ends first wins, of those the one that began first: so the result
/// does not depend on where the pieces are cut.
#[derive(Debug)]
struct StopMatcher {
    strings: Vec<String>,
    include_match: bool,
    held: String,
}

impl StopMatcher {
    fn new(strings: Vec<String>, include_match: bool) -> StopMatcher {
        StopMatcher { strings, include_match, held: String::new() }
    }

    fn push(&mut self, text: &str) -> TextPiece {
        if self.strings.is_empty() {
            return TextPiece { text: CompactString::new(text), matched: None };
        }
        self.held.push_str(text);
        if let Some((index, start)) = self.first_match() {
            let end = if self.include_match { start + self.strings[index].len() } else { start };
            let text = CompactString::new(&self.held[..end]);
            self.held.clear();
            return TextPiece { text, matched: Some(index) };
        }
        let safe = self.held.len() - self.open_length();
        let text = CompactString::new(&self.held[..safe]);
        self.held.drain(..safe);
        TextPiece { text, matched: None }
    }

    fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Index of the matching string and where its match begins.
    fn first_match(&self) -> Option<(usize, usize)> {
        let found = |(index, stop): (usize, &String)| {
            self.held.find(stop.as_str()).map(|start| (start + stop.len(), start, index))
        };
        self.strings.iter().enumerate().filter_map(found).min().map(|(_, start, index)| (index, start))
    }

    /// Bytes at the end that may be the beginning of a stop string.
    fn open_length(&self) -> usize {
        let open = |stop: &String| {
            let longest = (stop.len() - 1).min(self.held.len());
            (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        self.strings.iter().map(open).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output text, matched string and what is flushed, for pieces of text.
    fn run(stops: &[&str], include: bool, pieces: &[&str]) -> (String, Option<String>, String) {
        let strings: Vec<String> = stops.iter().map(|&s| s.to_owned()).collect();
        let mut matcher = StopMatcher::new(strings.clone(), include);
        let mut output = String::new();
        for piece in pieces {
            let TextPiece { text, matched } = matcher.push(piece);
            output.push_str(&text);
            if let Some(index) = matched {
                return (output, Some(strings[index].clone()), String::new());
            }
        }
        (output, None, matcher.flush())
    }

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], output: &str, stop: Option<&str>, flushed: &str) {
        let expected = (output.to_owned(), stop.map(str::to_owned), flushed.to_owned());
        assert_eq!(run(stops, false, pieces), expected, "{stops:?} in {pieces:?}");
    }

    #[test]
    fn cuts_at_the_match_wherever_the_pieces_are_cut() {
        check(&[], &["any", "thing"], "anything", None, "");
        check(&["END"], &["fine END rest"], "fine ", Some("END"), "");
        check(&["END"], &["fine E", "N", "D rest"], "fine ", Some("END"), "");
        check(&["END"], &["fine E", "N", "T"], "fine ENT", None, "");
        check(&["END"], &["fine EN"], "fine ", None, "EN");
        check(&["END"], &["EEN", "D"], "E", Some("END"), "");
        check(&["aab"], &["aa", "ab"], "a", Some("aab"), "");
        check(&["\n\n"], &["a\n", "b\n", "\n"], "a\nb", Some("\n\n"), "");
        check(&["é!"], &["caf", "é", "!"], "caf", Some("é!"), "");
        check(&["é!"], &["è", "é?"], "èé?", None, "");
        check(&["x"], &["", "", "x"], "", Some("x"), "");
    }

    #[test]
    fn the_match_that_ends_first_wins() {
        check(&["later", "stop"], &["a stop and later"], "a ", Some("stop"), "");
        check(&["abcd", "bc"], &["abcd"], "a", Some("bc"), "");
        check(&["abcd", "bc"], &["ab", "cd"], "a", Some("bc"), "");
        check(&["bc", "abc"], &["abc"], "", Some("abc"), "");
        check(&["bc", "abc"], &["a", "b", "c"], "", Some("abc"), "");
    }

    #[test]
    fn includes_the_match_when_asked() {
        let expected = ("fine END".to_owned(), Some("END".to_owned()), String::new());
        assert_eq!(run(&["END"], true, &["fine EN", "D rest"]), expected);
    }

    #[test]
    fn every_cut_of_a_text_gives_the_same_output() {
        let text = "abababcabcabdabcdé";
        for stops in [&["abcd"][..], &["abd", "cab"], &["é"], &["zzz", "dabcdéé"]] {
            let whole = run(stops, false, &[text]);
            let bounds: Vec<usize> = (0..=text.len()).filter(|&i| text.is_char_boundary(i)).collect();
            for &a in &bounds {
                for &b in bounds.iter().filter(|&&b| b >= a) {
                    let cut = run(stops, false, &[&text[..a], &text[a..b], &text[b..]]);
                    let joined = |(output, stop, flushed): &(String, Option<String>, String)| {
                        (format!("{output}{flushed}"), stop.clone())
                    };
                    assert_eq!(joined(&cut), joined(&whole), "{stops:?} cut at {a} and {b}");
                }
            }
        }
    }
}
