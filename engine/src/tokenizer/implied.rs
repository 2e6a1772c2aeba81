//! BPE whose merges are not listed: any two tokens whose concatenation is a third merge to it, the best
//! third first; of one third, the pair with the longer left part first.
//!
//! Gives what the tokenizers crate gives for the list of all such pairs (its queue is followed step by
//! step; a test compares them), without the list: of a vocabulary of 260,000 tokens it has half a million
//! pairs, which take longer to make than everything else at a start.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokenizers::{Model, ModelWrapper, Token};

/// What a vocabulary says of the merges between its tokens.
pub(crate) struct ImpliedMerges {
    /// Place of each token among those that pairs merge to, the best first; `None` where text cannot spell
    /// it, so that it takes no part. By id.
    places: Vec<Option<u32>>,
    /// Tokens of the bytes of characters that are no tokens.
    bytes: [u32; 256],
}

/// A pair that could be merged: the least is merged first.
type Candidate = Reverse<(u32, Reverse<usize>, u32, usize, usize)>;

/// A piece of the text, linked to its neighbours.
struct Symbol {
    id: u32,
    start: usize,
    end: usize,
    characters: usize,
    /// The left neighbour; for the first one itself.
    left: usize,
    /// Of the right neighbour; the number of symbols for the last one.
    right: usize,
    is_merged: bool,
}

impl ImpliedMerges {
    /// `places` as above. `None` where `model` has no token for some byte, or one that could be merged:
    /// text would not stay what the symbols spell.
    pub fn new(model: &ModelWrapper, places: Vec<Option<u32>>) -> Option<ImpliedMerges> {
        let mut bytes = [0; 256];
        for (byte, id) in bytes.iter_mut().enumerate() {
            *id = model.token_to_id(&format!("<0x{byte:02X}>"))?;
            if places.get(*id as usize).copied().flatten().is_some() {
                return None;
            }
        }
        Some(ImpliedMerges { places, bytes })
    }

    /// The tokens of a text, by a model that has the vocabulary.
    pub fn tokenize(&self, model: &ModelWrapper, text: &str) -> Vec<Token> {
        let mut symbols = self.symbols(model, text);
        let count = symbols.len();
        let mut queue: BinaryHeap<Candidate> =
            (1..count).filter_map(|right| self.candidate(model, text, &symbols, right - 1, right)).collect();
        while let Some(Reverse((.., whole, at, end))) = queue.pop() {
            let right = symbols[at].right;
            // Something else became of one of the two.
            if symbols[at].is_merged || right == count || symbols[right].end != end {
                continue;
            }
            symbols[right].is_merged = true;
            let (next, characters) = (symbols[right].right, symbols[right].characters);
            let symbol = &mut symbols[at];
            (symbol.id, symbol.end, symbol.right) = (whole, end, next);
            symbol.characters += characters;
            let left = symbol.left;
            if next < count {
                symbols[next].left = at;
                queue.extend(self.candidate(model, text, &symbols, at, next));
            }
            if left != at {
                queue.extend(self.candidate(model, text, &symbols, left, at));
            }
        }
        let kept = symbols.iter().filter(|symbol| !symbol.is_merged);
        kept.map(|symbol| {
            let name = model.id_to_token(symbol.id).unwrap_or_default();
            Token::new(symbol.id, name, (symbol.start, symbol.end))
        })
        .collect()
    }

    /// Characters that are tokens, and the bytes of others.
    fn symbols(&self, model: &ModelWrapper, text: &str) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(text.len());
        let mut add = |id: u32, start: usize, end: usize| {
            let at = symbols.len();
            let (left, right) = (at.saturating_sub(1), at + 1);
            symbols.push(Symbol { id, start, end, characters: 1, left, right, is_merged: false });
        };
        for (start, character) in text.char_indices() {
            let end = start + character.len_utf8();
            match model.token_to_id(&text[start..end]) {
                Some(id) => add(id, start, end),
                None => (start..end).for_each(|at| {
                    add(self.bytes[usize::from(text.as_bytes()[at])], at, at + 1);
                }),
            }
        }
        symbols
    }

    /// Two neighbours that can be merged.
    fn candidate(
        &self,
        model: &ModelWrapper,
        text: &str,
        symbols: &[Symbol],
        left: usize,
        right: usize,
    ) -> Option<Candidate> {
        let (first, second) = (&symbols[left], &symbols[right]);
        self.place(first.id)?;
        self.place(second.id)?;
        // Both are spelt as the text is: those that are not have no place.
        let whole = model.token_to_id(&text[first.start..second.end])?;
        Some(Reverse((self.place(whole)?, Reverse(first.characters), whole, left, second.end)))
    }

    fn place(&self, id: u32) -> Option<u32> {
        self.places.get(id as usize).copied().flatten()
    }
}
