//! `llama`: SentencePiece BPE. The file holds a score a token instead of merges; a merge is any two
//! tokens whose concatenation is a third, the best-scored third first.

use std::cmp::Reverse;

use ahash::AHashMap;
use tokenizers::Tokenizer as Inner;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Sequence};

use super::{GgufVocabulary, TokenType, byte_level, ids_by_name};
use crate::EngineError;
use crate::tokenizer::failed;

const SPACE: &str = "\u{2581}";

pub(super) fn build(vocabulary: &GgufVocabulary) -> Result<Inner, EngineError> {
    let names: Vec<String> = (0..vocabulary.tokens.len()).map(|id| name(vocabulary, id)).collect();
    let merges = if vocabulary.merges.is_empty() {
        implied_merges(vocabulary, &names)?
    } else {
        byte_level::merges(vocabulary)?
    };
    let ids = ids_by_name(names.iter().map(String::as_str));
    let mut model = BPE::builder().vocab_and_merges(ids, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown(vocabulary) {
        model = model.unk_token(unknown);
    }
    let mut inner = Inner::new(model.build().map_err(failed)?);
    let space_prefix = vocabulary.add_space_prefix.unwrap_or(true);
    inner.with_normalizer(Some(normalizer(space_prefix)?)).map_err(failed)?;
    inner.with_decoder(Some(decoder(space_prefix)?));
    vocabulary.add_tokens(&mut inner)?;
    let bos = vocabulary.bos_token_id.filter(|_| vocabulary.add_bos_token.unwrap_or(true));
    let eos = vocabulary.eos_token_id.filter(|_| vocabulary.add_eos_token.unwrap_or(false));
    vocabulary.frame(&mut inner, bos, eos)?;
    Ok(inner)
}

/// Gemma's files store runs of spaces as real spaces, which the normaliser below never leaves.
fn name(vocabulary: &GgufVocabulary, id: usize) -> String {
    let name = &vocabulary.tokens[id];
    let spaces = !name.is_empty() && name.bytes().all(|byte| byte == b' ');
    if spaces { SPACE.repeat(name.len()) } else { name.clone() }
}

fn unknown(vocabulary: &GgufVocabulary) -> Option<String> {
    let typed = (0..vocabulary.tokens.len()).find(|id| vocabulary.token_type(*id) == TokenType::Unknown);
    let id = vocabulary.unknown_token_id.map(|id| id as usize).or(typed)?;
    vocabulary.tokens.get(id).cloned()
}

/// Ids of a token and of the two it is made of.
struct Merge {
    whole: usize,
    left: usize,
    right: usize,
    left_characters: usize,
}

/// Pairs of tokens that make a third, best third first; of one third, the pair with the longer left
/// part first, as `transformers` orders them. Tokens that text cannot spell (control, byte, unused) take no part.
fn implied_merges(
    vocabulary: &GgufVocabulary,
    names: &[String],
) -> Result<Vec<(String, String)>, EngineError> {
    if vocabulary.scores.is_empty() {
        return Err(EngineError::Tokenizer("tokenizer.ggml.scores is missing".into()));
    }
    let spelt = |id: &usize| matches!(vocabulary.token_type(*id), TokenType::Normal | TokenType::UserDefined);
    let ids: AHashMap<&str, usize> =
        (0..names.len()).rev().filter(spelt).map(|id| (names[id].as_str(), id)).collect();
    let mut merges = Vec::new();
    for id in (0..names.len()).filter(spelt) {
        let whole = names[id].as_str();
        for (left_characters, (cut, _)) in whole.char_indices().enumerate().skip(1) {
            let (left, right) = whole.split_at(cut);
            if let Some(&left) = ids.get(left)
                && let Some(&right) = ids.get(right)
            {
                merges.push(Merge { whole: id, left, right, left_characters });
            }
        }
    }
    sort_best_first(vocabulary, &mut merges);
    Ok(merges.into_iter().map(|merge| (names[merge.left].clone(), names[merge.right].clone())).collect())
}

/// By score, except in Gemma's files, whose scores do not follow the order the merges were learnt in:
/// there the order of the tokens does.
fn sort_best_first(vocabulary: &GgufVocabulary, merges: &mut [Merge]) {
    if vocabulary.architecture.starts_with("gemma") {
        merges.sort_by_key(|merge| (merge.whole, Reverse(merge.left_characters)));
        return;
    }
    let score = |merge: &Merge| vocabulary.scores[merge.whole];
    merges.sort_by(|a, b| {
        let order = score(b).total_cmp(&score(a)).then(b.left_characters.cmp(&a.left_characters));
        order.then(a.whole.cmp(&b.whole))
    });
}

fn normalizer(space_prefix: bool) -> Result<Sequence, EngineError> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if space_prefix {
        steps.push(Prepend::new(SPACE.to_owned()).into());
    }
    steps.push(Replace::new(" ", SPACE).map_err(failed)?.into());
    Ok(Sequence::new(steps))
}

fn decoder(space_prefix: bool) -> Result<DecoderSequence, EngineError> {
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if space_prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    Ok(DecoderSequence::new(steps))
}
