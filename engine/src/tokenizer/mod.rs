//! Text to token ids and back: one [`Tokenizer`], whatever file the vocabulary came from.
//!
//! - [`json`]: a Hugging Face `tokenizer.json` with the small files beside it.
//! - [`gguf`]: the four kinds of vocabulary a GGUF file can carry, turned into the same type.
//! - [`charsmap`]: the check of SentencePiece's compiled normaliser.
//! - [`pieces`]: the bytes each token stands for; [`bound`]: how many they can be at most.
//! - [`stream`]: token ids to text, one at a time, never splitting a character.
//! - [`implied`]: merges that a vocabulary does not list.
//!
//! All other merging and the lattice search are the `tokenizers` crate's. What stands here is what a server adds:
//! text from outside can never become a special token, and prompts rendered by a chat template say
//! which of their special tokens are the template's own ([`PromptText`]).
//!
//! Length limits, padding and truncation are the callers' business; those baked into a file are
//! ignored.

mod bound;
mod charsmap;
pub mod gguf;
mod implied;
pub mod json;
mod pieces;
mod stream;

use tokenizers::tokenizer::{OffsetReferential, OffsetType};
use tokenizers::{AddedVocabulary, Encoding, Model, PostProcessor, PreTokenizer, Token};

use crate::EngineError;
use crate::prompt::PromptText;
use implied::ImpliedMerges;
use pieces::Pieces;

pub use gguf::GgufVocabulary;
pub use stream::{Detokenizer, StreamDecoder};

/// A model's vocabulary and how text is cut into it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Of a vocabulary that does not list its merges; `inner` has none then.
    implied: Option<ImpliedMerges>,
    /// Finds tokens in text from outside: added tokens, but none that is special.
    text_vocabulary: AddedVocabulary,
    /// Finds every added token, special ones included.
    template_vocabulary: AddedVocabulary,
    /// What `add_special` puts before and after a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    pieces: Pieces,
    roles: TokenRoles,
}

/// Ids with a meaning to the model, as its files name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRoles {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    /// Every token that ends a turn or a text; `eos` is among them.
    pub ends: Vec<u32>,
}

/// Special tokens that end a turn or a text in the model families known today. A vocabulary that has
/// one means it as an end even where its metadata names only one end-of-sequence token.
const END_TOKENS: [&str; 16] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|call|>",
    "<|eos|>",
    "<EOT>",
    "<|EOT|>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

impl Tokenizer {
    /// Wraps a tokenizer whose added tokens, decoder and post-processor are complete.
    fn new(
        mut inner: tokenizers::Tokenizer,
        implied: Option<ImpliedMerges>,
        mut roles: TokenRoles,
    ) -> Result<Tokenizer, EngineError> {
        match_special_tokens_verbatim(&mut inner)?;
        let pieces = Pieces::of(&inner);
        let template_vocabulary = inner.get_added_vocabulary().clone();
        let mut text_vocabulary = template_vocabulary.clone();
        text_vocabulary.set_encode_special_tokens(true);
        let (prefix, suffix) = frame(&inner)?;
        roles.complete(&inner);
        Ok(Tokenizer { inner, implied, text_vocabulary, template_vocabulary, prefix, suffix, pieces, roles })
    }

    /// Ids of text from outside. The names of special tokens in it stay plain text. `add_special` puts
    /// the model's own frame (BOS, `[CLS]` ... `[SEP]`) around it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        if add_special {
            ids.extend(&self.prefix);
        }
        self.append(&mut ids, &self.text_vocabulary, text, None)?;
        if add_special {
            ids.extend(&self.suffix);
        }
        Ok(ids)
    }

    /// Ids of text that is trusted throughout: special tokens in it are recognised, nothing is added.
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        self.append(&mut ids, &self.template_vocabulary, text, None)?;
        Ok(ids)
    }

    /// Ids of a rendered chat template: its own special tokens are recognised, those in the messages it
    /// quotes stay text.
    pub fn encode_prompt(&self, prompt: &PromptText) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        self.append(&mut ids, &self.template_vocabulary, prompt.marked(), prompt.mark())?;
        Ok(ids)
    }

    /// Number of ids [`encode`](Self::encode) gives.
    pub fn count(&self, text: &str, add_special: bool) -> Result<usize, EngineError> {
        Ok(self.encode(text, add_special)?.len())
    }

    /// The fewest tokens that a text of so many bytes can become; 0 where the vocabulary sets no bound.
    pub fn tokens_min(&self, text_bytes: usize) -> usize {
        self.pieces.bytes_per_token_max().map_or(0, |bytes_max| text_bytes.div_ceil(bytes_max))
    }

    /// Text of `ids` from the start of a text; bytes that are not UTF-8 become U+FFFD. Special tokens
    /// are left out unless `keep_special`.
    pub fn decode(&self, ids: &[u32], keep_special: bool) -> String {
        let mut detokenizer = Detokenizer::at_text_start(keep_special);
        let mut text = String::new();
        for &id in ids {
            detokenizer.push(self, id, &mut text);
        }
        detokenizer.flush(&mut text);
        text
    }

    /// The bytes one token adds inside a text; not valid UTF-8 alone where a character spans tokens.
    /// Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    /// The vocabulary's own name of a token, as `id_to_token` of other libraries gives it.
    pub fn token_name(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token by its own name, special or not.
    pub fn token_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// One more than the highest id. A model's logits may be longer (padding) but not shorter.
    pub fn vocabulary_size(&self) -> usize {
        self.pieces.len()
    }

    /// Whether `id` is a control token, left out of decoded text.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    /// Names of all special tokens, longest first.
    pub fn special_tokens(&self) -> &[String] {
        self.pieces.special_names()
    }

    pub fn roles(&self) -> &TokenRoles {
        &self.roles
    }

    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Tokens that end a generation.
    pub fn end_tokens(&self) -> &[u32] {
        &self.roles.ends
    }

    /// Adds ends named by a file this type does not read (`generation_config.json` of another folder).
    pub fn add_end_tokens(&mut self, ids: &[u32]) {
        self.roles.add_ends(ids);
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Cuts `text` into added tokens and model tokens. Occurrences of `mark` keep an added token from
    /// being found across them and are gone before the model sees the text.
    fn append(
        &self,
        ids: &mut Vec<u32>,
        added: &AddedVocabulary,
        text: &str,
        mark: Option<char>,
    ) -> Result<(), EngineError> {
        let mut cut = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(mark) = mark {
            cut.normalize(|part| {
                part.filter(|character| character != mark);
                Ok(())
            })
            .map_err(failed)?;
        }
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut cut).map_err(failed)?;
        }
        cut.tokenize(|part| self.model_tokens(part.get())).map_err(failed)?;
        for (_, _, tokens) in cut.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            ids.extend(tokens.iter().flatten().map(|token| token.id));
        }
        Ok(())
    }

    /// The model's tokens of one piece. Some models (unigram lattices, merges derived from scores) can
    /// spell a control token out of ordinary characters; such a token is spelt character by character.
    fn model_tokens(&self, part: &str) -> tokenizers::Result<Vec<Token>> {
        let model = self.inner.get_model();
        let tokenize = |text: &str| match &self.implied {
            Some(implied) => Ok(implied.tokenize(model, text)),
            None => model.tokenize(text),
        };
        let tokens = tokenize(part)?;
        if !tokens.iter().any(|token| self.is_forged(token.id)) {
            return Ok(tokens);
        }
        let mut spelt = Vec::new();
        for token in tokens {
            if self.is_forged(token.id) {
                for character in token.value.chars() {
                    spelt.extend(tokenize(character.encode_utf8(&mut [0; 4]))?);
                }
            } else {
                spelt.push(token);
            }
        }
        Ok(spelt)
    }

    fn is_forged(&self, id: u32) -> bool {
        self.is_special(id) && self.roles.unknown != Some(id)
    }
}

impl TokenRoles {
    fn complete(&mut self, inner: &tokenizers::Tokenizer) {
        if self.unknown.is_none() {
            self.unknown = unknown_token(inner);
        }
        if let Some(eos) = self.eos {
            self.add_ends(&[eos]);
        }
        let vocabulary = inner.get_added_vocabulary();
        for name in END_TOKENS.iter().filter(|name| vocabulary.is_special_token(name)) {
            if let Some(id) = inner.token_to_id(name) {
                self.add_ends(&[id]);
            }
        }
    }

    fn add_ends(&mut self, ids: &[u32]) {
        for id in ids {
            if !self.ends.contains(id) {
                self.ends.push(*id);
            }
        }
    }
}

fn unknown_token(inner: &tokenizers::Tokenizer) -> Option<u32> {
    use tokenizers::ModelWrapper;
    match inner.get_model() {
        ModelWrapper::BPE(model) => model.get_unk_token().as_ref().and_then(|name| model.token_to_id(name)),
        ModelWrapper::WordPiece(model) => model.token_to_id(&model.unk_token),
        ModelWrapper::WordLevel(model) => model.token_to_id(&model.unk_token),
        ModelWrapper::Unigram(_) => ["<unk>", "[UNK]"].iter().find_map(|name| inner.token_to_id(name)),
    }
}

/// Makes special tokens match the text as written. One that matched normalised text could be reached
/// by text that merely normalises to its name.
fn match_special_tokens_verbatim(inner: &mut tokenizers::Tokenizer) -> Result<(), EngineError> {
    let normalized: Vec<_> = inner
        .get_added_tokens_decoder()
        .into_values()
        .filter(|token| token.special && token.normalized)
        .map(|token| token.normalized(false))
        .collect();
    inner.add_special_tokens(normalized).map(drop).map_err(failed)
}

/// What the post-processor puts before and after a text, found by running it on a stand-in token.
fn frame(inner: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), EngineError> {
    const STAND_IN: u32 = u32::MAX;
    let Some(processor) = inner.get_post_processor() else { return Ok(Default::default()) };
    let text = Encoding::from_tokens(vec![Token::new(STAND_IN, String::new(), (0, 0))], 0);
    let framed = processor.process(text, None, true).map_err(failed)?;
    let mut parts = framed.get_ids().splitn(2, |&id| id == STAND_IN);
    let prefix = parts.next().unwrap_or_default().to_vec();
    Ok((prefix, parts.next().unwrap_or_default().to_vec()))
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Tokenizer(error.to_string())
}
