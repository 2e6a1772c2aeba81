//! Prompts as transformers renders and tokenises them.

use std::path::PathBuf;

use engine::EngineError;
use engine::files::ModelFiles;
use engine::prompt::{ChatTemplate, RenderOptions};
use engine::tokenizer::{GgufVocabulary, Tokenizer};
use serde_json::Value;

use crate::real_models::{SMOLLM2, real_model};

pub fn golden() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tokenizer/prompts.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A byte-level vocabulary without merges, and these special tokens after the 256 bytes.
pub fn tokenizer(specials: &[&str], bos: Option<&str>, eos: Option<&str>) -> Tokenizer {
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let (itself, moved): (Vec<u32>, Vec<u32>) = (0..256).partition(printable);
    let alphabet = itself.iter().copied().chain((0x100..).take(moved.len()));
    let mut tokens: Vec<String> = alphabet.map(|code| char::from_u32(code).unwrap().to_string()).collect();
    tokens.extend(specials.iter().map(|token| (*token).to_owned()));
    let id = |name: Option<&str>| tokens.iter().position(|token| Some(token.as_str()) == name);
    let vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        token_types: (0..tokens.len()).map(|id| if id < 256 { 1 } else { 3 }).collect(),
        bos_token_id: id(bos).map(|id| id as u32),
        eos_token_id: id(eos).map(|id| id as u32),
        tokens,
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf(&vocabulary).unwrap()
}

pub fn options(value: &Value) -> RenderOptions {
    let mut variables = value.as_object().cloned().unwrap_or_default();
    let add_generation_prompt = variables.remove("add_generation_prompt") != Some(Value::Bool(false));
    RenderOptions { add_generation_prompt, variables, ..RenderOptions::default() }
}

fn check_case(template: &ChatTemplate, case: &Value, what: &str) {
    let messages = case["messages"].as_array().unwrap();
    let found = template.render(messages, &options(&case["options"]));
    match (case.get("text"), found) {
        (Some(text), found) => assert_eq!(found.unwrap().text(), text.as_str().unwrap(), "{what}: {case}"),
        (None, Err(EngineError::Template(message))) => {
            // Of refusals the words count; other errors are worded by the library.
            if let Some(expected) = case["error"].as_str() {
                assert_eq!(message, expected, "{what}");
            }
        }
        (None, other) => panic!("{what}: {case} gave {other:?}"),
    }
}

#[test]
fn templates_of_well_known_families() {
    for row in golden()["templates"].as_array().unwrap() {
        let (bos, eos) = (row["tokens"]["bos_token"].as_str(), row["tokens"]["eos_token"].as_str());
        let specials: Vec<&str> = bos.into_iter().chain(eos).collect();
        let template = ChatTemplate::new(row["template"].as_str().unwrap(), &tokenizer(&specials, bos, eos));
        let template = template.unwrap();
        for case in row["cases"].as_array().unwrap() {
            check_case(&template, case, row["name"].as_str().unwrap());
        }
    }
}

#[test]
fn smollm2_s_own_template() {
    let Some(path) = real_model(SMOLLM2) else { return };
    let files = ModelFiles::open(&path).unwrap();
    let tokenizer = Tokenizer::of_model(&files).unwrap();
    let template = ChatTemplate::of_model(&files, &tokenizer).unwrap().expect("the file has a template");
    for case in golden()["smollm2"].as_array().unwrap() {
        check_case(&template, case, "smollm2");
        let messages = case["messages"].as_array().unwrap();
        let found = template.prompt_tokens(&tokenizer, messages, &options(&case["options"])).unwrap();
        let expected: Vec<u64> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert_eq!(found.iter().map(|id| u64::from(*id)).collect::<Vec<_>>(), expected, "{case}");
    }
}
