//! `t5`: SentencePiece unigram, the most likely way to cut a text (T5, XLM-RoBERTa and their kin).

use tokenizers::Tokenizer as Inner;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{NormalizerWrapper, Precompiled, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use super::{GgufVocabulary, TokenType};
use crate::EngineError;
use crate::tokenizer::{charsmap, failed};

pub(super) fn build(vocabulary: &GgufVocabulary) -> Result<Inner, EngineError> {
    if vocabulary.scores.is_empty() {
        return Err(EngineError::Tokenizer("tokenizer.ggml.scores is missing".into()));
    }
    let typed = (0..vocabulary.tokens.len()).find(|id| vocabulary.token_type(*id) == TokenType::Unknown);
    let unknown = vocabulary.unknown_token_id.map(|id| id as usize).or(typed);
    if unknown.is_none() {
        return Err(EngineError::Tokenizer("tokenizer.ggml.unknown_token_id is missing".into()));
    }
    let scored: Vec<(String, f64)> = vocabulary
        .tokens
        .iter()
        .cloned()
        .zip(vocabulary.scores.iter().map(|score| f64::from(*score)))
        .collect();
    let byte_fallback = (0..vocabulary.tokens.len()).any(|id| vocabulary.token_type(id) == TokenType::Byte);
    let mut inner = Inner::new(Unigram::from(scored, unknown, byte_fallback).map_err(failed)?);
    inner.with_normalizer(normalizer(vocabulary)?).map_err(failed)?;
    inner.with_pre_tokenizer(Some(metaspace(vocabulary)));
    inner.with_decoder(Some(metaspace(vocabulary)));
    vocabulary.add_tokens(&mut inner)?;
    let bos = vocabulary.bos_token_id.filter(|_| vocabulary.add_bos_token.unwrap_or(false));
    let eos = vocabulary.eos_token_id.filter(|_| vocabulary.add_eos_token.unwrap_or(true));
    vocabulary.frame(&mut inner, bos, eos)?;
    Ok(inner)
}

fn normalizer(vocabulary: &GgufVocabulary) -> Result<Option<Sequence>, EngineError> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if !vocabulary.precompiled_charsmap.is_empty() {
        let named = |reason: String| failed(format!("tokenizer.ggml.precompiled_charsmap: {reason}"));
        charsmap::check(&vocabulary.precompiled_charsmap).map_err(named)?;
        let charsmap =
            Precompiled::from(&vocabulary.precompiled_charsmap).map_err(|error| named(error.to_string()))?;
        steps.push(charsmap.into());
    }
    if vocabulary.remove_extra_whitespaces.unwrap_or(true) {
        for (extra, kept) in [("^ +| +$", ""), (" {2,}", " ")] {
            let extra = ReplacePattern::Regex(extra.to_owned());
            steps.push(Replace::new(extra, kept).map_err(failed)?.into());
        }
    }
    Ok((!steps.is_empty()).then(|| Sequence::new(steps)))
}

fn metaspace(vocabulary: &GgufVocabulary) -> Metaspace {
    let prefix = vocabulary.add_space_prefix.unwrap_or(true);
    Metaspace::new('\u{2581}', if prefix { PrependScheme::Always } else { PrependScheme::Never }, true)
}
