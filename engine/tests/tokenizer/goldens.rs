//! Small vocabularies of every kind, with the ids their own libraries give for each text of the corpus.

use std::path::PathBuf;

use engine::tokenizer::{GgufVocabulary, Tokenizer};
use serde_json::Value;

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizer")
}

pub fn golden(name: &str) -> Value {
    let text = std::fs::read_to_string(folder().join(name)).expect(name);
    serde_json::from_str(&text).expect(name)
}

pub fn corpus() -> Vec<String> {
    golden("corpus.json").as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// A vocabulary as the golden files write it: the fields by name.
pub fn vocabulary(value: &Value) -> GgufVocabulary {
    let id = |name: &str| value[name].as_u64().map(|id| u32::try_from(id).unwrap());
    let numbers = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    GgufVocabulary {
        architecture: value["architecture"].as_str().unwrap_or_default().to_owned(),
        model: value["model"].as_str().unwrap().to_owned(),
        tokens: texts(&value["tokens"]),
        merges: texts(&value["merges"]),
        scores: numbers("scores").iter().map(|score| score.as_f64().unwrap() as f32).collect(),
        token_types: numbers("token_types").iter().map(|kind| kind.as_i64().unwrap() as i32).collect(),
        bos_token_id: id("bos_token_id"),
        eos_token_id: id("eos_token_id"),
        unknown_token_id: id("unknown_token_id"),
        cls_token_id: id("cls_token_id"),
        separator_token_id: id("separator_token_id"),
        add_eos_token: value["add_eos_token"].as_bool(),
        add_space_prefix: value["add_space_prefix"].as_bool(),
        ..GgufVocabulary::default()
    }
}

/// Compares every text; `null` rows are texts the reference cannot read.
pub fn check_ids(tokenizer: &Tokenizer, expected: &Value, add_special: bool, what: &str) {
    let corpus = corpus();
    let expected = expected.as_array().unwrap();
    assert_eq!(expected.len(), corpus.len(), "{what}: refresh the goldens");
    for (text, row) in corpus.iter().zip(expected).filter(|(_, row)| !row.is_null()) {
        let found = tokenizer.encode(text, add_special).unwrap();
        assert_eq!(found, ids(row), "{what}: {text:?}");
        assert_eq!(tokenizer.count(text, add_special).unwrap(), found.len());
    }
}

/// Compares decoded text with the reference's, or where there is none with the text itself.
pub fn check_decoded(tokenizer: &Tokenizer, expected: &Value, add_special: bool, what: &str) {
    for (at, text) in corpus().iter().enumerate() {
        let ids = tokenizer.encode(text, add_special).unwrap();
        let decoded = tokenizer.decode(&ids, false);
        match &expected[at] {
            Value::Null if expected.is_array() => {}
            Value::Null => assert_eq!(&decoded, text, "{what}"),
            expected => assert_eq!(decoded, expected.as_str().unwrap(), "{what}: {text:?}"),
        }
    }
}

#[test]
fn byte_level_with_every_way_of_cutting() {
    let golden = golden("byte_level.json");
    for (name, expected) in golden["ids"].as_object().unwrap() {
        let vocabulary = GgufVocabulary { pre: Some(name.clone()), ..vocabulary(&golden["vocabulary"]) };
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        check_ids(&tokenizer, expected, false, name);
        check_decoded(&tokenizer, &Value::Null, false, name);
    }
}

#[test]
fn sentencepiece_bpe() {
    for name in ["sentencepiece_bpe.json", "sentencepiece_gemma.json"] {
        let golden = golden(name);
        let tokenizer = Tokenizer::from_gguf(&vocabulary(&golden["vocabulary"])).unwrap();
        check_ids(&tokenizer, &golden["ids"], false, name);
        check_decoded(&tokenizer, &golden["decoded"], false, name);
        assert_eq!(tokenizer.encode("a", true).unwrap()[0], tokenizer.bos().unwrap());
    }
}

#[test]
fn unigram() {
    let golden = golden("unigram.json");
    let precompiled_charsmap = base64(golden["charsmap_base64"].as_str().unwrap());
    let vocabulary = GgufVocabulary { precompiled_charsmap, ..vocabulary(&golden["vocabulary"]) };
    let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    check_ids(&tokenizer, &golden["ids"], true, "unigram");
    check_decoded(&tokenizer, &golden["decoded"], true, "unigram");
}

#[test]
fn word_piece() {
    for name in ["word_piece.json", "word_piece_cased.json"] {
        let golden = golden(name);
        let tokenizer = Tokenizer::from_gguf(&vocabulary(&golden["vocabulary"])).unwrap();
        check_ids(&tokenizer, &golden["ids"], true, name);
        check_decoded(&tokenizer, &golden["decoded"], true, name);
    }
}

#[test]
fn a_tokenizer_file_without_its_padding_and_truncation() {
    let golden = golden("word_piece.json");
    let tokenizer = Tokenizer::from_folder(&folder().join("word_piece")).unwrap();
    check_ids(&tokenizer, &golden["ids"], true, "word_piece/tokenizer.json");
    check_decoded(&tokenizer, &golden["decoded"], true, "word_piece/tokenizer.json");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(2), Some(3)));
    assert_eq!(tokenizer.vocabulary_size(), golden["vocabulary"]["tokens"].as_array().unwrap().len());
}

#[test]
fn tokenizer_files_of_the_other_kinds() {
    let check = |name: &str, expected: &Value, decoded: &Value, roles: (Option<u32>, Option<u32>, &[u32])| {
        let tokenizer = Tokenizer::from_folder(&folder().join(name)).unwrap();
        check_ids(&tokenizer, expected, false, name);
        check_decoded(&tokenizer, decoded, false, name);
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.end_tokens()), roles, "{name}");
    };
    let (byte_level, unigram) = (golden("byte_level.json"), golden("unigram.json"));
    let sentencepiece = golden("sentencepiece_bpe.json");
    check("byte_level", &byte_level["ids"]["qwen2"], &Value::Null, (None, Some(2), &[2, 0]));
    check("sentencepiece_bpe", &sentencepiece["ids"], &sentencepiece["decoded"], (Some(1), Some(2), &[2]));
    check("unigram", &unigram["ids"], &unigram["decoded"], (None, Some(2), &[2]));
}

/// Six bits a character, most significant first.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter_map(|byte| ALPHABET.iter().position(|known| *known == byte)) {
        bits = bits << 6 | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}
