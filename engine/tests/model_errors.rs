//! Sound files that do not add up: what their metadata says and what their tensors are. Each row changes
//! one thing in a tiny golden model and names what the error has to say.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{goldens, read_json, try_load};

/// A copy of a golden model that is removed when the test ends.
struct Copy {
    folder: PathBuf,
}

impl Copy {
    fn of(model: &str, test: &str) -> Copy {
        let folder = std::env::temp_dir().join(format!("janus-{}-{test}-{model}", std::process::id()));
        copy_folder(&goldens().join("models").join(model), &folder);
        Copy { folder }
    }

    fn change_json(&self, file: &str, changes: &Value) {
        let path = self.folder.join(file);
        let mut config = read_json(&path);
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Replaces the only occurrence of `old` in a file.
    fn change_bytes(&self, file: &str, old: &[u8], new: &[u8]) {
        assert_eq!(old.len(), new.len());
        let path = self.folder.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let mut places = bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old);
        let (start, _) = places.next().expect("the file has these bytes");
        assert!(places.next().is_none(), "twice");
        bytes[start..start + new.len()].copy_from_slice(new);
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn expect_error(path: &Path, expected: &[&str]) {
    let Err(error) = try_load(path, None) else { panic!("loaded, but not {expected:?}") };
    let text = error.to_string();
    assert!(expected.iter().all(|part| text.contains(part)), "{text}, not {expected:?}");
}

#[test]
fn configurations_that_do_not_fit_their_tensors() {
    let rows = [
        ("llama", json!({"num_hidden_layers": 3}), vec!["model.layers.2.", "missing"]),
        ("llama", json!({"hidden_size": 32, "head_dim": 16}), vec!["token_embd", "[288, 64]", "[288, 32]"]),
        ("llama", json!({"vocab_size": 300}), vec!["[288, 64]", "[300, 64]"]),
        ("llama", json!({"intermediate_size": 97}), vec!["ffn_gate", "[96, 64]", "[97, 64]"]),
        ("llama", json!({"num_key_value_heads": 1}), vec!["attn_k", "[32, 64]", "[16, 64]"]),
        ("llama", json!({"num_attention_heads": 0}), vec!["0 attention heads"]),
        ("llama", json!({"model_type": "mamba"}), vec!["architecture `mamba`", "llama", "gemma3"]),
        ("llama", json!({"model_type": null}), vec!["lacks `model_type`"]),
        ("llama", json!({"model_type": "qwen3"}), vec!["attn_q_norm", "missing"]),
        ("llama", json!({"model_type": "qwen2"}), vec!["attn_q.bias", "missing"]),
        ("qwen2", json!({"tie_word_embeddings": false}), vec!["lm_head.weight", "missing"]),
        ("phi3", json!({"intermediate_size": 48}), vec!["ffn_up", "[192, 64]", "[96, 64]"]),
        ("gemma3", json!({"final_logit_softcapping": 30.0}), vec!["final_logit_softcapping"]),
        ("bert", json!({"max_position_embeddings": 65}), vec!["position table has 64 rows"]),
        ("bert", json!({"is_decoder": true}), vec!["is_decoder"]),
        ("bert", json!({"architectures": ["BertForSequenceClassification"]}), vec!["cannot be served"]),
        ("xlm-roberta", json!({"max_position_embeddings": 2}), vec!["context of 0 tokens"]),
        ("nomic-bert", json!({"prenorm": true}), vec!["prenorm"]),
        ("nomic-bert", json!({"n_inner": null}), vec!["ffn_gate", "[96, 64]", "[256, 64]"]),
    ];
    for (index, (model, changes, expected)) in rows.into_iter().enumerate() {
        let copy = Copy::of(model, &format!("config{index}"));
        copy.change_json("config.json", &changes);
        expect_error(&copy.folder, &expected);
    }
}

#[test]
fn pooling_that_is_not_supported() {
    let modules = |kind: &str| json!([{"idx": 0, "path": "", "type": kind}]);
    let check = |name: &str, file: &str, content: Value, expected: &str| {
        let copy = Copy::of("bert", name);
        std::fs::write(copy.folder.join(file), content.to_string()).unwrap();
        expect_error(&copy.folder, &[expected]);
    };
    check("dense", "modules.json", modules("sentence_transformers.models.Dense"), "models.Dense");
    check("object", "modules.json", json!({}), "no list of modules");
    check("max", "1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}), "max_tokens");
}

#[test]
fn gguf_files_that_do_not_add_up() {
    let name = |key: &str| [&(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
    // A key, its type (4 is u32) and its value.
    let number = |key: &str, value: u32| {
        [name(key), 4u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    };
    let rows = [
        (number("llama.block_count", 2), number("llama.block_count", 3), "`blk.2.attn_q.weight` is missing"),
        (number("llama.block_count", 2), number("llama.block_count", u32::MAX), "4294967295 layers"),
        (
            number("llama.embedding_length", 64),
            number("llama.embedding_length", 128),
            "has shape [288, 64], [288, 128]",
        ),
        (name("llama.attention.head_count_kv"), name("llama.attention.head_count_kw"), "attn_k"),
        (name("llama.block_count"), name("llama.block_counx"), "lacks `block_count`"),
        (name("output_norm.weight"), name("output_norm.weighx"), "`output_norm.weight` is missing"),
        (name("blk.1.ffn_down.weight"), name("blk.1.ffn_down.weighx"), "`blk.1.ffn_down.weight` is missing"),
    ];
    for (index, (old, new, expected)) in rows.into_iter().enumerate() {
        let copy = Copy::of("llama", &format!("gguf{index}"));
        copy.change_bytes("model.gguf", &old, &new);
        expect_error(&copy.folder.join("model.gguf"), &[expected]);
    }
}
