//! The directories of real model files, as other tools read them.

use std::path::PathBuf;

use engine::files::ModelFiles;
use kernels::Format;

/// A model of the test cache; prints why the test did not run when it is missing, and fails in CI.
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

#[test]
fn smollm2_gguf() {
    let Some(path) = model("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let files = ModelFiles::open(&path).unwrap();
    let ModelFiles::Gguf(gguf) = &files else { panic!("opened as a folder") };
    assert_eq!(gguf.architecture().unwrap(), "llama");
    assert_eq!(gguf.require::<u32>("llama.block_count").unwrap(), 30);
    assert_eq!(gguf.require::<f32>("llama.rope.freq_base").unwrap(), 100_000.0);
    assert_eq!(gguf.require::<Vec<&str>>("tokenizer.ggml.tokens").unwrap().len(), 49_152);
    assert_eq!(gguf.require::<Vec<i32>>("tokenizer.ggml.token_type").unwrap().len(), 49_152);
    assert_eq!(gguf.get::<u32>("llama.expert_count").unwrap(), None);
    assert_eq!(files.tensor_names().count(), 272);
    let embedding = files.require_tensor("token_embd.weight").unwrap();
    assert_eq!((embedding.format, embedding.shape.as_slice()), (Format::Q8_0, &[49_152, 576][..]));
    let down = files.require_tensor("blk.0.ffn_down.weight").unwrap();
    assert_eq!((down.format, down.rows(), down.columns()), (Format::Q4_1, 576, 1536));
    assert!(down.to_f32().iter().all(|value| value.abs() < 10.0));
}

#[test]
fn minilm_folder() {
    let Some(path) = model("all-minilm-l6-v2") else { return };
    for path in [path.clone(), path.join("model.safetensors")] {
        let files = ModelFiles::open(&path).unwrap();
        let ModelFiles::Folder(folder) = &files else { panic!("opened as GGUF") };
        assert_eq!(folder.config().unwrap()["hidden_size"], 384);
        assert_eq!(folder.json("1_Pooling/config.json").unwrap().unwrap()["word_embedding_dimension"], 384);
        assert!(folder.sibling("tokenizer.json").is_some());
        let words = files.require_tensor("embeddings.word_embeddings.weight").unwrap();
        assert_eq!((words.format, words.shape.as_slice()), (Format::F32, &[30_522, 384][..]));
        let ids = files.tensor("embeddings.position_ids").err().expect("no kernel computes with I64");
        assert!(ids.to_string().contains("I64"), "{ids}");
    }
}
