//! The two real vocabularies of the test cache, against transformers.

use std::path::PathBuf;

use engine::files::ModelFiles;
use engine::tokenizer::Tokenizer;
use serde_json::Value;

use crate::goldens::{check_decoded, check_ids, golden, ids};

/// A file of the test cache; prints why the test did not run when it is missing, and fails in CI.
pub fn model(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("JANUS_TEST_MODELS").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/janus-test-models"));
    let file = cache.or_else(home).unwrap_or_default().join(path);
    if file.exists() {
        return Some(file);
    }
    println!("NOT RUN: {} does not exist; set JANUS_TEST_MODELS", file.display());
    assert!(std::env::var_os("CI").is_none(), "{} is missing in CI", file.display());
    None
}

pub fn smollm2() -> Option<Tokenizer> {
    let path = model("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")?;
    Some(Tokenizer::of_model(&ModelFiles::open(&path).unwrap()).unwrap())
}

#[test]
fn smollm2_from_gguf() {
    let Some(tokenizer) = smollm2() else { return };
    let golden = golden("smollm2.json");
    check_ids(&tokenizer, &golden["ids"], false, "smollm2");
    check_decoded(&tokenizer, &Value::Null, false, "smollm2");
    for row in golden["template"].as_array().unwrap() {
        let text = row[0].as_str().unwrap();
        let found = tokenizer.encode_template(text).unwrap();
        assert_eq!(found, ids(&row[1]), "{text:?}");
        assert_eq!(tokenizer.decode(&found, true), text);
    }
    assert_eq!(tokenizer.vocabulary_size(), 49_152);
    assert_eq!(tokenizer.token_name(tokenizer.eos().unwrap()).as_deref(), Some("<|im_end|>"));
    assert_eq!(tokenizer.end_tokens(), [2, 0]);
    assert_eq!(tokenizer.token_bytes(49_152), b"");
}

#[test]
fn minilm_from_its_folder() {
    let Some(folder) = model("all-minilm-l6-v2") else { return };
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let golden = golden("minilm.json");
    check_ids(&tokenizer, &golden["ids"], true, "minilm");
    check_decoded(&tokenizer, &golden["decoded"], true, "minilm");
    assert_eq!(tokenizer.encode("", true).unwrap(), [101, 102]);
}
