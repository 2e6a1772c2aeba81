//! `gpt2`: byte-level BPE with explicit merges.

use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::pre_tokenizers::PreTokenizer;
use super::{GgufVocabulary, ids_by_name};
use crate::EngineError;
use crate::tokenizer::failed;

pub(super) fn build(vocabulary: &GgufVocabulary) -> Result<Inner, EngineError> {
    let pre = PreTokenizer::named(vocabulary.pre.as_deref())?;
    let ids = ids_by_name(vocabulary.tokens.iter().map(String::as_str));
    let model = BPE::builder()
        .vocab_and_merges(ids, merges(vocabulary)?)
        .ignore_merges(pre.whole_words_first)
        .build()
        .map_err(failed)?;
    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(splits(pre)?));
    inner.with_decoder(Some(ByteLevel::new(false, false, false)));
    vocabulary.add_tokens(&mut inner)?;
    let bos = vocabulary.bos_token_id.filter(|_| vocabulary.add_bos_token.unwrap_or(pre.adds_bos));
    let eos = vocabulary.eos_token_id.filter(|_| vocabulary.add_eos_token.unwrap_or(false));
    vocabulary.frame(&mut inner, bos, eos)?;
    Ok(inner)
}

fn splits(pre: &PreTokenizer) -> Result<Sequence, EngineError> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for regex in pre.splits {
        let pattern = SplitPattern::Regex((*regex).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
        steps.push(split.into());
    }
    steps.push(ByteLevel::new(false, false, false).into());
    Ok(Sequence::new(steps))
}

/// `left right` pairs. In the byte alphabet no token holds a space, so the first one separates; the
/// search starts behind the first character, which some converters left unescaped.
pub(super) fn merges(vocabulary: &GgufVocabulary) -> Result<Vec<(String, String)>, EngineError> {
    let pair = |merge: &String| {
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let space = merge[first..].find(' ')? + first;
        Some((merge[..space].to_owned(), merge[space + 1..].to_owned()))
    };
    let pairs = vocabulary.merges.iter().map(|merge| {
        pair(merge).ok_or_else(|| EngineError::Tokenizer(format!("tokenizer.ggml.merges holds `{merge}`")))
    });
    pairs.collect()
}
