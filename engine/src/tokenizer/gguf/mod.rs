//! Vocabularies from GGUF metadata, one file a kind:
//!
//! | `tokenizer.ggml.model` | kind | file |
//! |---|---|---|
//! | `gpt2` | byte-level BPE, cut first by `tokenizer.ggml.pre` | [`byte_level`], [`pre_tokenizers`] |
//! | `llama` | SentencePiece BPE, merges implied by scores | [`sentencepiece`] |
//! | `t5` | SentencePiece unigram, its compiled normaliser | [`unigram`], [`charsmap`](super::charsmap) |
//! | `bert` | WordPiece | [`word_piece`] |
//!
//! [`metadata`] reads them off a file. Keys and their meaning: the GGUF specification and llama.cpp's vocabulary loader.

mod byte_level;
mod metadata;
mod pre_tokenizers;
mod sentencepiece;
mod unigram;
mod word_piece;

use std::collections::HashSet;

use ahash::AHashMap;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::{TokenRoles, Tokenizer, failed};
use crate::EngineError;

/// What a GGUF file says about its tokens; fields are the keys `tokenizer.ggml.*`. Absent keys are
/// `None` or empty, and the kind's own default holds.
#[derive(Clone, Debug, Default)]
pub struct GgufVocabulary {
    /// `general.architecture`: Gemma's files need their own reading.
    pub architecture: String,
    pub model: String,
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    /// One a token, or empty.
    pub scores: Vec<f32>,
    /// One a token, or empty: see [`TokenType`].
    pub token_types: Vec<i32>,
    /// `left right`, best first.
    pub merges: Vec<String>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub unknown_token_id: Option<u32>,
    pub separator_token_id: Option<u32>,
    pub cls_token_id: Option<u32>,
    /// `eot_token_id`, `eom_token_id`: further ends of a turn.
    pub end_token_ids: Vec<u32>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's compiled normaliser.
    pub precompiled_charsmap: Vec<u8>,
}

/// The numbers of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// More tokens than any model has, few enough that a hostile file stays harmless.
const TOKENS_MAX: usize = 1 << 22;

impl Tokenizer {
    /// Builds the tokenizer a GGUF file describes.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] naming the key that is unknown, inconsistent or missing.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Tokenizer, EngineError> {
        vocabulary.check()?;
        let (inner, implied) = match vocabulary.model.as_str() {
            "gpt2" => (byte_level::build(vocabulary)?, None),
            "llama" => sentencepiece::build(vocabulary)?,
            "t5" => (unigram::build(vocabulary)?, None),
            "bert" => (word_piece::build(vocabulary)?, None),
            other => {
                return Err(EngineError::Tokenizer(format!(
                    "tokenizer.ggml.model is `{other}`; this version reads gpt2, llama, t5 and bert"
                )));
            }
        };
        Tokenizer::new(inner, implied, vocabulary.roles())
    }
}

impl GgufVocabulary {
    fn check(&self) -> Result<(), EngineError> {
        let count = self.tokens.len();
        if count == 0 || count > TOKENS_MAX {
            return Err(EngineError::Tokenizer(format!("tokenizer.ggml.tokens holds {count} tokens")));
        }
        for (key, length) in [("scores", self.scores.len()), ("token_type", self.token_types.len())] {
            if length != 0 && length != count {
                return Err(EngineError::Tokenizer(format!(
                    "tokenizer.ggml.{key} has {length} entries for {count} tokens"
                )));
            }
        }
        for (key, id) in self.named_ids() {
            if id.is_some_and(|id| id as usize >= count) {
                let reason = format!("tokenizer.ggml.{key}_token_id is outside the {count} tokens");
                return Err(EngineError::Tokenizer(reason));
            }
        }
        Ok(())
    }

    fn named_ids(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("bos", self.bos_token_id),
            ("eos", self.eos_token_id),
            ("unknown", self.unknown_token_id),
            ("seperator", self.separator_token_id),
            ("cls", self.cls_token_id),
            ("eot", self.end_token_ids.iter().copied().max()),
        ]
    }

    fn roles(&self) -> TokenRoles {
        TokenRoles {
            bos: self.bos_token_id.or(self.cls_token_id),
            eos: self.eos_token_id.or(self.separator_token_id),
            unknown: self.unknown_token_id,
            ends: self.end_token_ids.clone(),
        }
    }

    fn token_type(&self, id: usize) -> TokenType {
        match self.token_types.get(id) {
            Some(2) => TokenType::Unknown,
            Some(3) => TokenType::Control,
            Some(4) => TokenType::UserDefined,
            Some(5) => TokenType::Unused,
            Some(6) => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }

    fn name(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }

    /// Tokens found in text before the model sees it: user-defined ones, and control ones as special.
    /// Every id the metadata gives a role is control, whatever its type says.
    fn add_tokens(&self, inner: &mut Inner) -> Result<(), EngineError> {
        let named: HashSet<u32> = self.named_ids().into_iter().filter_map(|(_, id)| id).collect();
        let named_end: HashSet<u32> = self.end_token_ids.iter().copied().collect();
        let mut seen = HashSet::new();
        let mut added = Vec::new();
        for (id, name) in (0u32..).zip(&self.tokens) {
            let control = self.token_type(id as usize) == TokenType::Control
                || named.contains(&id)
                || named_end.contains(&id);
            let user_defined = self.token_type(id as usize) == TokenType::UserDefined;
            // A name that occurs twice belongs to its first id; adding it again would move it.
            if (control || user_defined) && inner.token_to_id(name) == Some(id) && seen.insert(name) {
                added.push(AddedToken::from(name.as_str(), control).normalized(false));
            }
        }
        inner.add_tokens(added).map(drop).map_err(failed)
    }

    /// Frames texts with `first` and `last`.
    fn frame(&self, inner: &mut Inner, first: Option<u32>, last: Option<u32>) -> Result<(), EngineError> {
        let first = first.and_then(|id| Some((self.name(id)?, id)));
        let last = last.and_then(|id| Some((self.name(id)?, id)));
        if first.is_none() && last.is_none() {
            return Ok(());
        }
        let mut template: Vec<String> = Vec::new();
        template.extend(first.map(|_| "first".to_owned()));
        template.push("$A".to_owned());
        template.extend(last.map(|_| "last".to_owned()));
        let mut tokens = Vec::new();
        for (place, token) in [("first", first), ("last", last)] {
            let Some((name, id)) = token else { continue };
            tokens.push(
                tokenizers::processors::template::SpecialToken::new(
                    place.to_owned(),
                    vec![id],
                    vec![name.to_owned()],
                )
                .map_err(failed)?,
            );
        }
        let processor = TemplateProcessing::builder()
            .try_single(template)
            .map_err(failed)?
            .special_tokens(tokens)
            .build()
            .map_err(failed)?;
        inner.with_post_processor(Some(processor));
        Ok(())
    }
}

/// Names to ids; of a name that occurs twice the first id counts.
fn ids_by_name<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> AHashMap<String, u32> {
    let mut ids = AHashMap::with_capacity(names.len());
    for (id, name) in (0u32..).zip(names) {
        ids.entry(name.to_owned()).or_insert(id);
    }
    ids
}
