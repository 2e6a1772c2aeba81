//! `bert`: WordPiece. GGUF turns BERT's marks around: a token that starts a word begins with U+2581,
//! one that continues it has lost its `##`.

use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::{GgufVocabulary, TokenType, ids_by_name};
use crate::EngineError;
use crate::tokenizer::failed;

/// BERT's own limit on a word; longer ones are unknown.
const WORD_CHARACTERS_MAX: usize = 100;

pub(super) fn build(vocabulary: &GgufVocabulary) -> Result<Inner, EngineError> {
    let names: Vec<String> = (0..vocabulary.tokens.len()).map(|id| name(vocabulary, id)).collect();
    let unknown =
        vocabulary.unknown_token_id.and_then(|id| vocabulary.name(id)).unwrap_or("[UNK]").to_owned();
    if !names.contains(&unknown) {
        let reason = "tokenizer.ggml.unknown_token_id is missing, and no token is called [UNK]";
        return Err(EngineError::Tokenizer(reason.into()));
    }
    let ids = ids_by_name(names.iter().map(String::as_str));
    let model = WordPiece::builder()
        .vocab(ids)
        .unk_token(unknown)
        .continuing_subword_prefix("##".to_owned())
        .max_input_chars_per_word(WORD_CHARACTERS_MAX)
        .build()
        .map_err(failed)?;
    let mut inner = Inner::new(model);
    let lowercase = !is_cased(&names);
    inner
        .with_normalizer(Some(BertNormalizer::new(true, true, Some(lowercase), lowercase)))
        .map_err(failed)?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    inner.with_decoder(Some(WordPieceDecoder::new("##".to_owned(), true)));
    vocabulary.add_tokens(&mut inner)?;
    let first = vocabulary.cls_token_id.or(vocabulary.bos_token_id);
    let last = vocabulary.separator_token_id.or(vocabulary.eos_token_id);
    vocabulary.frame(
        &mut inner,
        first.filter(|_| vocabulary.add_bos_token.unwrap_or(true)),
        last.filter(|_| vocabulary.add_eos_token.unwrap_or(true)),
    )?;
    Ok(inner)
}

/// BERT's spelling of a token.
fn name(vocabulary: &GgufVocabulary, id: usize) -> String {
    let name = &vocabulary.tokens[id];
    let control = matches!(vocabulary.token_type(id), TokenType::Control | TokenType::Unknown);
    let bracketed = name.len() > 2 && name.starts_with('[') && name.ends_with(']');
    match name.strip_prefix('\u{2581}') {
        Some(word) => word.to_owned(),
        None if control || bracketed => name.clone(),
        None => format!("##{name}"),
    }
}

/// GGUF does not say whether a model tells case apart; its vocabulary does.
fn is_cased(names: &[String]) -> bool {
    names.iter().any(|name| !name.starts_with('[') && name.bytes().any(|byte| byte.is_ascii_uppercase()))
}
