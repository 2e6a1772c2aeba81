//! Sound files made by others: the directories of real models, and the small seeds of `fuzz/`.

use std::path::Path;

use engine::files::ModelFiles;
use kernels::Format;

use crate::real_models::{SMOLLM2, real_model};

#[test]
fn smollm2_gguf() {
    let Some(path) = real_model(SMOLLM2) else { return };
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
    let Some(path) = real_model("all-minilm-l6-v2") else { return };
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

fn seed(path: &str) -> ModelFiles {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    ModelFiles::open(&seeds.join(path)).unwrap()
}

/// What `fuzz/seeds/make_seeds.py` puts into every float tensor: -1 to 1 in equal steps.
fn ramp(values: usize) -> Vec<f32> {
    (0..values).map(|index| 2.0 * index as f32 / (values - 1) as f32 - 1.0).collect()
}

fn check_values(files: &ModelFiles, name: &str, expected: &[f32], tolerance: f32) {
    let found = files.require_tensor(name).unwrap().to_f32();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{name}: {found} instead of {expected}");
    }
}

#[test]
fn gguf_of_the_reference_writer() {
    let files = seed("gguf/tiny.gguf");
    let ModelFiles::Gguf(gguf) = &files else { panic!("opened as a folder") };
    assert_eq!(gguf.require::<u32>("general.alignment").unwrap(), 64);
    assert_eq!(gguf.require::<Vec<&str>>("tokenizer.ggml.tokens").unwrap(), ["a", "b", "é", "中"]);
    assert_eq!(gguf.require::<Vec<f32>>("tokenizer.ggml.scores").unwrap(), [0.0, -1.0, -2.5, 0.0]);
    check_values(&files, "output_norm.weight", &ramp(128)[..64], 1e-6);
    check_values(&files, "token_embd.weight", &ramp(128), 1e-3);
    // Half a step of 8 and of 4 bits over each block's range.
    check_values(&files, "blk.0.Q8_0.weight", &ramp(128), 0.5 / 127.0 + 1e-3);
    check_values(&files, "blk.0.Q4_1.weight", &ramp(128), 0.5 * 0.5 / 15.0 + 1e-3);
}

#[test]
fn safetensors_of_the_reference_writer() {
    let files = seed("safetensors/tiny.safetensors");
    assert_eq!(files.require_tensor("weight").unwrap().shape, [2, 3]);
    check_values(&files, "weight", &ramp(6), 1e-6);
    check_values(&files, "half", &ramp(6), 1e-3);
}
