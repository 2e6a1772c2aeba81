//! The two real vocabularies of the test cache, against transformers.

use engine::files::ModelFiles;
use engine::tokenizer::Tokenizer;
use serde_json::Value;

use crate::goldens::{check_decoded, check_ids, golden, ids};
use crate::real_models::{SMOLLM2, real_model};

pub fn smollm2() -> Option<Tokenizer> {
    let path = real_model(SMOLLM2)?;
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
    let Some(folder) = real_model("all-minilm-l6-v2") else { return };
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let golden = golden("minilm.json");
    check_ids(&tokenizer, &golden["ids"], true, "minilm");
    check_decoded(&tokenizer, &golden["decoded"], true, "minilm");
    assert_eq!(tokenizer.encode("", true).unwrap(), [101, 102]);
}
