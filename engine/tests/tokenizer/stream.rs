//! The streaming decoder gives the text of the whole, in whole characters, whatever the tokens are.

use std::sync::Arc;

use engine::tokenizer::{GgufVocabulary, StreamDecoder, Tokenizer};

use crate::goldens::{corpus, golden, vocabulary};

/// One tokenizer of each kind.
pub fn every_kind() -> Vec<(&'static str, Arc<Tokenizer>)> {
    let kinds = [
        "byte_level.json",
        "sentencepiece_bpe.json",
        "sentencepiece_gemma.json",
        "unigram.json",
        "word_piece.json",
    ];
    let build = |name: &'static str| {
        let pre = (name == "byte_level.json").then(|| "qwen2".to_owned());
        let vocabulary = GgufVocabulary { pre, ..vocabulary(&golden(name)["vocabulary"]) };
        (name, Arc::new(Tokenizer::from_gguf(&vocabulary).unwrap()))
    };
    kinds.map(build).into()
}

/// A small generator (Marsaglia's xorshift64): the seed alone replays a failure.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn streamed(mut decoder: StreamDecoder, ids: &[u32]) -> (String, usize) {
    let mut text = String::new();
    let mut longest = 0;
    for id in ids {
        let piece = decoder.push(*id);
        longest = longest.max(piece.len());
        text.push_str(&piece);
    }
    text.push_str(&decoder.flush());
    assert_eq!(decoder.flush(), "", "nothing is left after the end");
    (text, longest)
}

#[test]
fn random_tokens_stream_to_their_text() {
    for (name, tokenizer) in every_kind() {
        for seed in 1..=200 {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 / seed);
            // Some ids lie outside the vocabulary: a model's padded logits may pick one.
            let limit = tokenizer.vocabulary_size() + 8;
            let ids: Vec<u32> = (0..random.below(120)).map(|_| random.below(limit) as u32).collect();
            for keep in [false, true] {
                let decoder = StreamDecoder::at_text_start(tokenizer.clone(), keep);
                let (text, _) = streamed(decoder, &ids);
                assert_eq!(text, tokenizer.decode(&ids, keep), "{name} seed {seed} keep {keep}");
            }
        }
    }
}

#[test]
fn bytes_of_tokens_are_the_text() {
    for (name, tokenizer) in every_kind() {
        for text in corpus() {
            let ids = tokenizer.encode(&text, false).unwrap();
            let bytes: Vec<u8> = ids
                .iter()
                .filter(|id| !tokenizer.is_special(**id))
                .flat_map(|id| tokenizer.token_bytes(*id).to_vec())
                .collect();
            let (streamed, _) = streamed(StreamDecoder::new(tokenizer.clone(), false), &ids);
            assert_eq!(streamed, String::from_utf8_lossy(&bytes), "{name}: {text:?}");
        }
    }
}

#[test]
fn no_piece_ends_inside_a_character() {
    let (_, tokenizer) = every_kind().swap_remove(1);
    let ids = tokenizer.encode("🐙\u{200d}🦀", false).unwrap();
    assert!(ids.len() > 8, "spelt in bytes");
    let mut decoder = StreamDecoder::new(tokenizer.clone(), false);
    let pieces: Vec<String> =
        ids.iter().map(|id| decoder.push(*id)).filter(|piece| !piece.is_empty()).collect();
    assert_eq!(pieces, [" ", "🐙", "\u{200d}", "🦀"]);
    let mut cut = StreamDecoder::new(tokenizer, false);
    assert_eq!(ids[..ids.len() - 1].iter().map(|id| cut.push(*id)).collect::<String>(), " 🐙\u{200d}");
    assert_eq!(cut.flush(), "\u{fffd}");
}

#[test]
fn a_prompt_s_continuation_keeps_its_space() {
    let (_, tokenizer) = every_kind().swap_remove(1);
    let ids = tokenizer.encode("the", false).unwrap();
    assert_eq!(streamed(StreamDecoder::new(tokenizer.clone(), false), &ids).0, " the");
    assert_eq!(streamed(StreamDecoder::at_text_start(tokenizer.clone(), false), &ids).0, "the");
    let bos = tokenizer.bos().unwrap();
    assert_eq!(tokenizer.decode(&[&[bos], &ids[..]].concat(), true), "<s> the");
}

#[test]
fn a_decoder_may_change_threads() {
    fn is_send<T: Send + 'static>(_: T) {}
    let (_, tokenizer) = every_kind().swap_remove(0);
    is_send(StreamDecoder::new(tokenizer, true));
}
