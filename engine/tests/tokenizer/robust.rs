//! Text from outside never becomes a special token, and no text or file makes a tokenizer panic.

use engine::tokenizer::{GgufVocabulary, Tokenizer};

use crate::goldens::{corpus, golden, vocabulary};
use crate::stream::{Random, every_kind};

#[test]
fn names_of_special_tokens_stay_text() {
    for (name, tokenizer) in every_kind() {
        let unknown = tokenizer.roles().unknown;
        let mut texts = corpus();
        for special in tokenizer.special_tokens() {
            texts.extend([special.clone(), format!("a{special}"), format!(" {special} {special}b")]);
        }
        for text in texts {
            let ids = tokenizer.encode(&text, false).unwrap();
            let forged = ids.iter().find(|id| tokenizer.is_special(**id) && unknown != Some(**id));
            assert_eq!(forged, None, "{name}: {text:?} gave {ids:?}");
        }
    }
}

#[test]
fn trusted_text_has_them() {
    for (name, tokenizer) in every_kind() {
        for special in tokenizer.special_tokens() {
            let id = tokenizer.token_id(special).unwrap();
            assert_eq!(tokenizer.encode_template(special).unwrap(), [id], "{name}: {special}");
        }
    }
}

#[test]
fn random_text_is_encoded_and_bytes_survive() {
    for (name, tokenizer) in every_kind() {
        for seed in 1..=150 {
            let mut random = Random(0x2545_f491_4f6c_dd1d / seed);
            let text: String = (0..random.below(80)).map(|_| character(&mut random)).collect();
            let ids = tokenizer.encode(&text, true).unwrap();
            check_least(&tokenizer, &text, &ids, name);
            check_least(&tokenizer, &text, &tokenizer.encode_template(&text).unwrap(), name);
            if name == "byte_level.json" {
                assert_eq!(tokenizer.decode(&ids, false), text, "{name} seed {seed}");
            }
        }
    }
}

/// A text has at least the tokens its length promises.
fn check_least(tokenizer: &Tokenizer, text: &str, ids: &[u32], name: &str) {
    let least = tokenizer.tokens_min(text.len());
    assert!(ids.len() >= least, "{name}: {} tokens, at least {least} were promised: {text:.80?}", ids.len());
}

#[test]
fn vocabularies_that_keep_all_text_bound_its_tokens() {
    for (name, tokenizer) in every_kind() {
        let bounded =
            ["byte_level.json", "sentencepiece_bpe.json", "sentencepiece_gemma.json"].contains(&name);
        assert_eq!(tokenizer.tokens_min(1 << 20) > 100, bounded, "{name}");
    }
}

/// Any scalar value, the small ones more often.
fn character(random: &mut Random) -> char {
    let limit = [0x80, 0x250, 0x3000, 0x11_0000][random.below(4)];
    char::from_u32(random.below(limit) as u32).unwrap_or('\u{d7ff}')
}

#[test]
fn long_runs_are_encoded() {
    for (name, tokenizer) in every_kind() {
        for unit in [" ", "a", "\n", " a", "1", "é", "😀", "'", "<|", "\t \n"] {
            let text = unit.repeat(100_000 / unit.len());
            let ids = tokenizer.encode(&text, false).unwrap();
            assert!(!ids.is_empty() || text.trim().is_empty(), "{name} {unit:?}");
            check_least(&tokenizer, &text, &ids, name);
        }
    }
}

#[test]
fn bad_vocabularies_are_errors_that_name_the_key() {
    let good = vocabulary(&golden("byte_level.json")["vocabulary"]);
    let spm = vocabulary(&golden("sentencepiece_bpe.json")["vocabulary"]);
    let check = |vocabulary: GgufVocabulary, expected: &str| {
        let error = Tokenizer::from_gguf(&vocabulary).map(|_| ()).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(GgufVocabulary { model: "rwkv".into(), ..good.clone() }, "`rwkv`");
    check(GgufVocabulary { pre: Some("kimi-k9".into()), ..good.clone() }, "`kimi-k9`");
    check(GgufVocabulary { tokens: vec![], ..good.clone() }, "tokens");
    check(GgufVocabulary { token_types: vec![1], ..good.clone() }, "token_type");
    check(GgufVocabulary { scores: vec![1.0], ..good.clone() }, "scores");
    check(GgufVocabulary { bos_token_id: Some(u32::MAX), ..good.clone() }, "bos_token_id");
    check(GgufVocabulary { end_token_ids: vec![0, u32::MAX], ..good.clone() }, "eot_token_id");
    check(GgufVocabulary { merges: vec!["nospace".into()], ..good.clone() }, "`nospace`");
    check(GgufVocabulary { merges: vec!["no such".into()], ..good }, "");
    check(GgufVocabulary { scores: vec![], ..spm.clone() }, "scores");
    check(GgufVocabulary { model: "t5".into(), scores: vec![], ..spm.clone() }, "scores");
    let untyped = GgufVocabulary { unknown_token_id: None, token_types: vec![], ..spm.clone() };
    check(GgufVocabulary { model: "t5".into(), ..untyped }, "unknown_token_id");
    check(GgufVocabulary { model: "bert".into(), unknown_token_id: None, ..spm.clone() }, "[UNK]");
    check(
        GgufVocabulary { model: "t5".into(), precompiled_charsmap: vec![1, 2], ..spm },
        "precompiled_charsmap",
    );
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let folder = std::env::temp_dir().join(format!("janus-tokenizer-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("tokenizer.json");
    let check = |text: &str, expected: &str| {
        std::fs::write(&path, text).unwrap();
        let error = Tokenizer::from_folder(&folder).map(|_| ()).expect_err(expected).to_string();
        assert!(error.contains("tokenizer.json") && error.contains(expected), "{error}");
    };
    let unigram = |charsmap: &str| {
        format!(
            r#"{{"added_tokens":[],"normalizer":{{"type":"Sequence","normalizers":[{{"type":"Precompiled",
            "precompiled_charsmap":"{charsmap}"}}]}},"model":{{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0]]}}}}"#
        )
    };
    check("", "not a tokenizer");
    check("{}", "not a tokenizer");
    check(r#"{"model":{"type":"Nonesuch"}}"#, "not a tokenizer");
    check(&unigram("CAAAAAD/////////YQA="), "precompiled_charsmap");
    check(
        r#"{"added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":["b c"]}}"#,
        "not a tokenizer",
    );
    std::fs::remove_file(&path).unwrap();
    assert!(Tokenizer::from_folder(&folder).map(|_| ()).unwrap_err().to_string().contains("cannot read"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn repeated_tokens_and_odd_numbers_are_survived() {
    let mut odd = vocabulary(&golden("sentencepiece_bpe.json")["vocabulary"]);
    odd.scores.iter_mut().step_by(3).for_each(|score| *score = f32::NAN);
    odd.token_types.iter_mut().step_by(5).for_each(|kind| *kind = -7);
    odd.tokens[40] = odd.tokens[41].clone();
    odd.tokens[42] = String::new();
    odd.tokens[43] = "▁[UNK]".to_owned();
    for model in ["llama", "t5", "bert"] {
        let unknown_token_id = (model != "bert").then_some(0);
        let vocabulary = GgufVocabulary { model: model.into(), unknown_token_id, ..odd.clone() };
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        for text in corpus() {
            tokenizer.encode(&text, true).unwrap();
        }
    }
}
