//! What `inspect` says of real models, of a bare tensor file and of a file with odd contents.

use engine::EngineError;
use engine::inspect::{Inspection, inspect};
use serde_json::{Value, json};

use crate::draft::{ARRAY, Draft, TEXT, U32, array, text};
use crate::real_models::{SMOLLM2, real_model};

fn check_fields(inspection: &Inspection, expected: Value) {
    let found = serde_json::to_value(inspection).unwrap();
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&found[key], value, "{key}");
    }
}

fn check_display(inspection: &Inspection, expected: &[&str]) {
    let text = inspection.to_string();
    // Columns are padded for people.
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in expected {
        assert!(lines.iter().any(|found| found == line), "no line {line:?} in:\n{text}");
    }
}

#[test]
fn smollm2() {
    let Some(path) = real_model(SMOLLM2) else { return };
    let inspection = inspect(&path).unwrap();
    check_fields(
        &inspection,
        json!({
            "file_format": "GGUF v3",
            "architecture": "llama",
            "license": "apache-2.0",
            "quantization": "Q4_1",
            "parameters": 134_515_008,
            "context_tokens": 8192,
            "layers": 30,
            "hidden_size": 576,
            "feed_forward_size": 1536,
            "heads": 9,
            "kv_heads": 3,
            "vocabulary": {"kind": "BPE (smollm)", "tokens": 49_152},
        }),
    );
    assert!(inspection.description.chat_template.as_deref().unwrap().contains("<|im_start|>"));
    assert_eq!(inspection.types.iter().map(|share| share.tensors).sum::<u64>(), 272);
    check_display(
        &inspection,
        &[
            "parameters 134.5 M",
            "runs here yes",
            "heads 9, 3 for keys and values",
            "vocabulary 49152 tokens, BPE (smollm)",
            "blk.*.attn_norm.weight F32 576 30 of them",
            "token_embd.weight Q8_0 49152 x 576",
        ],
    );
    println!("{inspection}");
}

#[test]
fn minilm() {
    let Some(path) = real_model("all-minilm-l6-v2") else { return };
    let inspection = inspect(&path).unwrap();
    // The model card says it; `janus pull` fetches only what a model needs to run.
    let license = path.join("README.md").exists().then_some("apache-2.0");
    check_fields(
        &inspection,
        json!({
            "file_format": "safetensors",
            "name": null,
            "architecture": "bert",
            "license": license,
            "parameters": 22_713_216,
            "context_tokens": 512,
            "layers": 6,
            "heads": 12,
            "vocabulary": {"kind": "WordPiece", "tokens": 30_522},
            "chat_template": null,
            "refusal": null,
        }),
    );
    check_display(&inspection, &["chat template none", "I64 1 512 4.1 kB (no kernel)"]);
}

fn inspect_draft(draft: &Draft) -> Result<Inspection, EngineError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.gguf"), draft.bytes()).unwrap();
    inspect(folder.path())
}

#[test]
fn odd_contents() {
    let mut draft = Draft::sound();
    draft.key("general.name", TEXT, text("tame\u{1b}[2J"));
    draft.key("llama.attention.head_count", ARRAY, array(U32, 2, [4, 0, 0, 0, 8, 0, 0, 0]));
    draft.key("tokenizer.ggml.model", TEXT, text("gpt2"));
    let inspection = inspect_draft(&draft).unwrap();
    check_fields(&inspection, json!({"layers": 2, "heads": 8, "kv_heads": 8, "context_tokens": null}));
    let expected = ["name tame\u{fffd}[2J", "IQ2_XXS 1 256 66 B (no kernel)", "vocabulary 3 tokens, BPE"];
    check_display(&inspection, &expected);

    draft.set("general.architecture", TEXT, text("mamba"));
    let refusal = inspect_draft(&draft).unwrap().refusal.unwrap();
    assert!(refusal.contains("architecture `mamba` is not supported"), "{refusal}");

    draft.set("general.architecture", TEXT, text("llama"));
    draft.set("llama.block_count", TEXT, text("many"));
    let error = inspect_draft(&draft).unwrap_err();
    assert!(matches!(error, EngineError::BadFile { .. }), "{error}");
}

#[test]
fn tensors_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.safetensors");
    std::fs::write(&path, crate::safetensors::sound()).unwrap();
    let inspection = inspect(&path).unwrap();
    check_fields(&inspection, json!({"architecture": null, "parameters": 10, "vocabulary": null}));
    check_display(&inspection, &["architecture not stated", "licence not stated", "a F32 2 x 3"]);
}
