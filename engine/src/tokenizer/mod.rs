//! Text to token ids and back.

/// A model's vocabulary.
pub struct Tokenizer {}
