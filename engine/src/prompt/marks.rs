//! Keeping text from outside from becoming a special token.
//!
//! A message may contain `<|im_end|>`; the prompt must then contain those ten characters, not the token
//! that ends a turn. The template cannot tell, so its inputs are marked before it runs:
//!
//! 1. In every string from outside, each run of characters in which a special token can be read, and the
//!    white space around it, is put between two private-use characters ([`Marks::open`],
//!    [`Marks::close`]). Only such runs: the template can still trim, slice, join and compare the text,
//!    and where it looks for `'</think>' in content` or splits there, it finds it and can trim the parts.
//! 2. Where a string begins or ends with a part of a special token, which neighbouring text could
//!    complete, [`Marks::cut`] stands next to that part (inside the white space a template may trim).
//! 3. After rendering, [`Quoting::finish`] takes the first two characters out and puts the third between
//!    all characters of the runs they enclosed. The tokenizer then looks for special tokens, finds those
//!    of the template only, and removes the third character before anything else sees it.
//!
//! The three characters are chosen for each prompt so that they occur nowhere in it. Text without any
//! part of a special token gets no marks at all, so its prompt is exactly the unmarked one.
//!
//! What this does not see: special tokens a template *computes* from harmless text, by changing its case
//! or replacing parts of it.

use std::collections::{HashMap, HashSet};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value as Json};

use super::PromptText;
use crate::EngineError;

/// Knows the special tokens of one tokenizer and their parts.
pub(super) struct Marker {
    /// `None` where there are no special tokens.
    specials: Option<AhoCorasick>,
    /// Proper prefixes and suffixes of special tokens.
    prefixes: HashSet<String>,
    suffixes: HashSet<String>,
    /// All special tokens between NULs, to look for inner parts.
    joined: String,
    longest_bytes: usize,
    template: String,
}

/// Three characters that occur nowhere else in a prompt.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    open: char,
    close: char,
    cut: char,
}

/// Marks the inputs of one prompt and remembers what it enclosed.
pub(super) struct Quoting<'a> {
    marker: &'a Marker,
    marks: Marks,
    runs: HashSet<String>,
    /// Keys seen so far and whether the template names them.
    named: HashMap<String, bool>,
    used: bool,
}

/// Values of `role` and `type` that templates compare and some paste between `<|` and `|>`.
const PLAIN_NAMES: [&str; 22] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "model",
    "ipython",
    "environment",
    "observation",
    "documents",
    "text",
    "image",
    "audio",
    "object",
    "array",
    "string",
    "number",
    "integer",
    "boolean",
    "null",
    "json_object",
];

/// Private-use plane 15; each character is four bytes, the first 0xF3.
const CANDIDATES: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

impl Marker {
    pub(super) fn new(special_tokens: &[String], template: &str) -> Result<Marker, EngineError> {
        let failed = |error: aho_corasick::BuildError| EngineError::Template(error.to_string());
        let specials = if special_tokens.is_empty() {
            None
        } else {
            Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::Standard)
                    .build(special_tokens)
                    .map_err(failed)?,
            )
        };
        let (mut prefixes, mut suffixes) = (HashSet::new(), HashSet::new());
        for token in special_tokens {
            for (cut, _) in token.char_indices().skip(1) {
                prefixes.insert(token[..cut].to_owned());
                suffixes.insert(token[cut..].to_owned());
            }
        }
        Ok(Marker {
            specials,
            prefixes,
            suffixes,
            joined: special_tokens.join("\0"),
            longest_bytes: special_tokens.iter().map(String::len).max().unwrap_or(0),
            template: template.to_owned(),
        })
    }

    /// Three characters found in none of the texts.
    pub(super) fn marks_for(
        &self,
        messages: &[Json],
        variables: &Map<String, Json>,
        template: &str,
    ) -> Result<Marks, EngineError> {
        let mut seen = HashSet::new();
        let mut note = |text: &str| {
            if text.as_bytes().contains(&0xf3) {
                seen.extend(text.chars().filter(|character| CANDIDATES.contains(character)));
            }
        };
        note(template);
        note(&self.joined);
        messages.iter().for_each(|message| for_each_text(message, &mut note));
        variables.iter().for_each(|(key, value)| {
            note(key);
            for_each_text(value, &mut note);
        });
        let mut free = CANDIDATES.filter(|character| !seen.contains(character));
        match (free.next(), free.next(), free.next()) {
            (Some(open), Some(close), Some(cut)) => Ok(Marks { open, close, cut }),
            _ => Err(EngineError::Template("the messages use every private-use character there is".into())),
        }
    }

    pub(super) fn quoting(&self, marks: &Marks) -> Quoting<'_> {
        Quoting { marker: self, marks: *marks, runs: HashSet::new(), named: HashMap::new(), used: false }
    }

    /// Byte ranges in which special tokens can be read, with the white space around them but not the one
    /// that begins or ends the text; overlapping ones are joined.
    fn runs(&self, text: &str) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let Some(specials) = &self.specials else { return runs };
        let mut found: Vec<(usize, usize)> =
            specials.find_overlapping_iter(text).map(|found| (found.start(), found.end())).collect();
        found.sort_unstable();
        for (start, end) in found {
            match runs.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => runs.push((start, end)),
            }
        }
        with_white_space(text, &runs)
    }

    /// Whether text before `text` could complete a special token with its beginning.
    fn begins_with_part(&self, text: &str) -> bool {
        let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
        ends.take_while(|end| *end < self.longest_bytes).any(|end| self.suffixes.contains(&text[..end]))
            || self.is_inner_part(text)
    }

    /// Whether text after `text` could complete a special token with its end.
    fn ends_with_part(&self, text: &str) -> bool {
        let starts = text.char_indices().rev().map(|(at, _)| at);
        starts
            .take_while(|start| text.len() - start < self.longest_bytes)
            .any(|start| self.prefixes.contains(&text[start..]))
    }

    fn is_inner_part(&self, text: &str) -> bool {
        !text.is_empty() && text.len() < self.longest_bytes && self.joined.contains(text)
    }

    /// Whether the template names `word`, as a string or as an attribute.
    fn is_named(&self, word: &str) -> bool {
        ["'", "\"", "."].iter().any(|before| {
            let start = format!("{before}{word}");
            let follows = |rest: &str| match *before {
                "." => !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'),
                quote => rest.starts_with(quote),
            };
            self.template.match_indices(&start).any(|(at, _)| follows(&self.template[at + start.len()..]))
        })
    }
}

impl Quoting<'_> {
    /// Marks every string of a message or variable, and the keys the template does not name.
    pub(super) fn quote(&mut self, value: &mut Json) {
        match value {
            Json::String(text) => self.quote_text(text, true),
            Json::Array(items) => items.iter_mut().for_each(|item| self.quote(item)),
            Json::Object(fields) => self.quote_map(fields),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    pub(super) fn quote_map(&mut self, fields: &mut Map<String, Json>) {
        *fields = std::mem::take(fields)
            .into_iter()
            .map(|(mut key, mut value)| {
                match &mut value {
                    Json::String(text) if key == "role" || key == "type" => {
                        let plain = PLAIN_NAMES.contains(&text.as_str()) || self.names(text);
                        self.quote_text(text, !plain);
                    }
                    other => self.quote(other),
                }
                let named = self.names(&key);
                self.quote_text(&mut key, !named);
                (key, value)
            })
            .collect();
    }

    fn names(&mut self, word: &str) -> bool {
        if let Some(named) = self.named.get(word) {
            return *named;
        }
        let named = self.marker.is_named(word);
        self.named.insert(word.to_owned(), named);
        named
    }

    /// Marks one text; its ends only where `ends`.
    fn quote_text(&mut self, text: &mut String, ends: bool) {
        let runs = self.marker.runs(text);
        let trimmed = text.trim();
        let inner = text.len() - text.trim_start().len();
        let (start, end) = (inner, inner + trimmed.len());
        // A run at an end is closed off by its own marks.
        let (at_start, at_end) = (runs.iter().any(|run| run.0 == start), runs.iter().any(|run| run.1 == end));
        let cut_before = ends && !at_start && self.marker.begins_with_part(trimmed);
        let cut_after = ends && !at_end && self.marker.ends_with_part(trimmed);
        if runs.is_empty() && !cut_before && !cut_after {
            return;
        }
        self.used = true;
        // In the order they stand at one place: a cut inside the marks of a run would hide the run.
        let mut inserts: Vec<(usize, char)> = Vec::new();
        inserts.extend(cut_before.then_some((start, self.marks.cut)));
        for (from, to) in runs {
            self.runs.insert(text[from..to].to_owned());
            inserts.extend([(from, self.marks.open), (to, self.marks.close)]);
        }
        inserts.extend(cut_after.then_some((end, self.marks.cut)));
        *text = with_inserted(text, inserts);
    }

    /// Turns the template's output into a prompt whose only mark is the cut.
    pub(super) fn finish(self, rendered: String) -> PromptText {
        if !self.used {
            return PromptText { marked: rendered, mark: None };
        }
        let Marks { open, close, cut } = self.marks;
        let mut marked = String::with_capacity(rendered.len());
        let mut rest = rendered.as_str();
        while let Some(at) = rest.find([open, close]) {
            marked.push_str(&rest[..at]);
            marked.push(cut);
            let enclosed = rest[at..].starts_with(open);
            rest = &rest[at + open.len_utf8()..];
            let run = rest.find([open, close]).map(|end| &rest[..end]);
            if let Some(run) = run.filter(|run| enclosed && self.runs.contains(*run)) {
                push_cut_apart(&mut marked, run, cut);
                rest = &rest[run.len()..];
            }
        }
        marked.push_str(rest);
        PromptText { marked, mark: Some(cut) }
    }
}

fn with_white_space(text: &str, runs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut wide: Vec<(usize, usize)> = Vec::with_capacity(runs.len());
    for &(start, end) in runs {
        let before = text[..start].trim_end().len();
        let after = text.len() - text[end..].trim_start().len();
        let start = if before == 0 { start } else { before };
        let end = if after == text.len() { end } else { after };
        match wide.last_mut() {
            Some(last) if start < last.1 => last.1 = end,
            _ => wide.push((start, end)),
        }
    }
    wide
}

/// No special token can be read in what this appends. One of a single character cannot be cut, so that
/// character is left out: the only text a prompt loses.
fn push_cut_apart(marked: &mut String, run: &str, cut: char) {
    if run.chars().count() == 1 {
        return;
    }
    for character in run.chars() {
        marked.push(character);
        marked.push(cut);
    }
}

fn with_inserted(text: &str, mut inserts: Vec<(usize, char)>) -> String {
    inserts.sort_by_key(|(at, _)| *at);
    let mut out = String::with_capacity(text.len() + 4 * inserts.len());
    let mut copied = 0;
    for (at, character) in inserts {
        out.push_str(&text[copied..at]);
        out.push(character);
        copied = at;
    }
    out.push_str(&text[copied..]);
    out
}

fn for_each_text(value: &Json, visit: &mut impl FnMut(&str)) {
    match value {
        Json::String(text) => visit(text),
        Json::Array(items) => items.iter().for_each(|item| for_each_text(item, visit)),
        Json::Object(fields) => fields.iter().for_each(|(key, value)| {
            visit(key);
            for_each_text(value, visit);
        }),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}
