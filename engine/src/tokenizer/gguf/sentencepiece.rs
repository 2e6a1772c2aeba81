//! `llama`: SentencePiece BPE. The file holds a score a token instead of merges; a merge is any two
//! tokens whose concatenation is a third, the best-scored third first.

use std::borrow::Cow;
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
use crate::tokenizer::implied::ImpliedMerges;

const SPACE: &str = "\u{2581}";

pub(super) fn build(vocabulary: &GgufVocabulary) -> Result<(Inner, Option<ImpliedMerges>), EngineError> {
    let names: Vec<Cow<'_, str>> = (0..vocabulary.tokens.len()).map(|id| name(vocabulary, id)).collect();
    let ids = ids_by_name(names.iter().map(|name| &**name));
    if !vocabulary.merges.is_empty() {
        return Ok((assemble(vocabulary, ids, byte_level::merges(vocabulary)?)?, None));
    }
    // Of a name that occurs twice, the list of merges and the vocabulary can mean different tokens.
    if ids.len() == names.len() {
        let inner = assemble(vocabulary, ids, Vec::new())?;
        let implied = ImpliedMerges::new(inner.get_model(), places(vocabulary)?);
        if implied.is_some() {
            return Ok((inner, implied));
        }
    }
    let ids = ids_by_name(names.iter().map(|name| &**name));
    Ok((assemble(vocabulary, ids, implied_merges(vocabulary, &names)?)?, None))
}

fn assemble(
    vocabulary: &GgufVocabulary,
    ids: AHashMap<String, u32>,
    merges: Vec<(String, String)>,
) -> Result<Inner, EngineError> {
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
fn name(vocabulary: &GgufVocabulary, id: usize) -> Cow<'_, str> {
    let name = vocabulary.tokens[id].as_str();
    let spaces = !name.is_empty() && name.bytes().all(|byte| byte == b' ');
    if spaces { SPACE.repeat(name.len()).into() } else { name.into() }
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
/// part first, as `transformers` orders them. For vocabularies that [`ImpliedMerges`] does not take.
fn implied_merges(
    vocabulary: &GgufVocabulary,
    names: &[Cow<'_, str>],
) -> Result<Vec<(String, String)>, EngineError> {
    check_scores(vocabulary)?;
    let spelt = |id: &usize| is_spelt(vocabulary, *id);
    let ids: AHashMap<&str, usize> =
        (0..names.len()).rev().filter(spelt).map(|id| (&*names[id], id)).collect();
    let mut merges = Vec::new();
    for id in (0..names.len()).filter(spelt) {
        let whole = &*names[id];
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
    let name = |id: usize| names[id].clone().into_owned();
    Ok(merges.into_iter().map(|merge| (name(merge.left), name(merge.right))).collect())
}

fn check_scores(vocabulary: &GgufVocabulary) -> Result<(), EngineError> {
    match vocabulary.scores.is_empty() {
        true => Err(EngineError::Tokenizer("tokenizer.ggml.scores is missing".into())),
        false => Ok(()),
    }
}

/// Whether text can spell a token: control, byte and unused ones take no part in merges.
fn is_spelt(vocabulary: &GgufVocabulary, id: usize) -> bool {
    matches!(vocabulary.token_type(id), TokenType::Normal | TokenType::UserDefined)
}

/// Places of tokens in the order of [`sort_best_first`]; tokens of the same score share one.
fn places(vocabulary: &GgufVocabulary) -> Result<Vec<Option<u32>>, EngineError> {
    check_scores(vocabulary)?;
    let count = vocabulary.tokens.len();
    if ids_are_order(vocabulary) {
        return Ok((0..count).map(|id| is_spelt(vocabulary, id).then_some(id as u32)).collect());
    }
    let score = |id: &usize| vocabulary.scores[*id];
    let mut sorted: Vec<usize> = (0..count).filter(|&id| is_spelt(vocabulary, id)).collect();
    sorted.sort_unstable_by(|a, b| score(b).total_cmp(&score(a)));
    let mut places = vec![None; count];
    for (place, same) in (0..).zip(sorted.chunk_by(|a, b| score(a).total_cmp(&score(b)).is_eq())) {
        same.iter().for_each(|&id| places[id] = Some(place));
    }
    Ok(places)
}

/// Gemma's scores do not follow the order the merges were learnt in; the order of the tokens does.
fn ids_are_order(vocabulary: &GgufVocabulary) -> bool {
    vocabulary.architecture.starts_with("gemma")
}

/// By score, except where the ids say it.
fn sort_best_first(vocabulary: &GgufVocabulary, merges: &mut [Merge]) {
    if ids_are_order(vocabulary) {
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

#[cfg(test)]
mod tests {
    use tokenizers::Model;

    use super::*;

    /// SplitMix64 (Steele et al. 2014).
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 27)
    }

    const LETTERS: [&str; 6] = ["a", "b", "c", SPACE, "\u{e9}", "<"];

    fn text(state: &mut u64, letters: &[&str], length: u64) -> String {
        (0..length).map(|_| letters[random(state) as usize % letters.len()]).collect()
    }

    /// Bytes, all letters, then strings of them with few different scores; some are of kinds that text
    /// cannot spell.
    fn vocabulary(state: &mut u64) -> GgufVocabulary {
        let mut tokens = vec!["<unk>".to_owned()];
        let mut token_types = vec![2];
        for byte in 0..256 {
            tokens.push(format!("<0x{byte:02X}>"));
            token_types.push(6);
        }
        for number in 0..200 {
            let length = 2 + random(state) % 5;
            let token =
                LETTERS.get(number).map_or_else(|| text(state, &LETTERS, length), |&letter| letter.into());
            if !tokens.contains(&token) {
                tokens.push(token);
                token_types.push(if random(state).is_multiple_of(12) {
                    3 + (random(state) % 3) as i32
                } else {
                    1
                });
            }
        }
        let scores = tokens.iter().map(|_| -((random(state) % 40) as f32)).collect();
        let architecture = if random(state).is_multiple_of(2) { "gemma3" } else { "llama" }.to_owned();
        GgufVocabulary {
            architecture,
            model: "llama".into(),
            tokens,
            scores,
            token_types,
            ..Default::default()
        }
    }

    #[test]
    fn implied_merges_are_those_of_the_list() {
        let seed = 11;
        println!("seed {seed}");
        let state = &mut { seed };
        for _ in 0..60 {
            let vocabulary = vocabulary(state);
            let names: Vec<Cow<'_, str>> =
                (0..vocabulary.tokens.len()).map(|id| name(&vocabulary, id)).collect();
            let ids = ids_by_name(names.iter().map(|name| &**name));
            let listed = assemble(&vocabulary, ids, implied_merges(&vocabulary, &names).unwrap()).unwrap();
            let (inner, implied) = build(&vocabulary).unwrap();
            let implied = implied.expect("names are unique, and there are all bytes");
            for _ in 0..200 {
                let length = random(state) % 40;
                let others = [&LETTERS[..], &["z", "\u{1f600}"]].concat();
                let text = text(state, &others, length);
                let expected = listed.get_model().tokenize(&text).unwrap();
                assert_eq!(implied.tokenize(inner.get_model(), &text), expected, "{text}");
            }
        }
    }

    #[test]
    fn vocabularies_that_are_not_plain_take_the_list() {
        let plain = vocabulary(&mut 5);
        let taken = |vocabulary: &GgufVocabulary| build(vocabulary).unwrap().1.is_some();
        assert!(taken(&plain));
        let mut twice = plain.clone();
        twice.tokens[260] = twice.tokens[259].clone();
        let mut no_byte = plain.clone();
        no_byte.tokens[1] = "no byte".into();
        let mut spelt_byte = plain.clone();
        spelt_byte.token_types[1] = 1;
        for (vocabulary, what) in
            [(twice, "a name twice"), (no_byte, "a byte missing"), (spelt_byte, "a byte as text")]
        {
            assert!(!taken(&vocabulary), "{what}");
        }
        let unscored = GgufVocabulary { scores: Vec::new(), ..plain };
        assert!(build(&unscored).is_err());
    }
}
