//! Safetensors files and folders, spoilt one way each.

use std::path::Path;

use engine::EngineError;
use engine::files::ModelFiles;
use serde_json::{Value, json};

use crate::corpus::{check_bytes_refused, check_refused};

/// A file with this header and `data_bytes` zeros.
pub fn file(header: impl ToString, data_bytes: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

pub fn tensor(dtype: &str, shape: impl Into<Value>, start: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape.into(), "data_offsets": [start, end]})
}

/// `a` F32 2x3 and `b` BF16 of 4: 32 bytes.
pub fn sound() -> Vec<u8> {
    let header = json!({
        "__metadata__": {"format": "pt"},
        "a": tensor("F32", vec![2, 3], 0, 24),
        "b": tensor("BF16", vec![4], 24, 32),
    });
    file(header, 32)
}

fn check(case: &str, header: impl ToString, data_bytes: usize, expected: &str) {
    check_bytes_refused(case, "safetensors", &file(header, data_bytes), expected);
}

#[test]
fn sound_file_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, sound()).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    assert_eq!(files.tensor_names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(files.require_tensor("a").unwrap().shape, [2, 3]);
    assert_eq!(files.require_tensor("b").unwrap().bytes.len(), 8);
    let missing = files.require_tensor("c").err().expect("there is no c");
    assert!(missing.to_string().contains("`c` is missing"), "{missing}");
    let ModelFiles::Folder(folder) = files else { panic!("opened as GGUF") };
    let error = folder.config().unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn truncated_anywhere() {
    let bytes = sound();
    for length in 0..bytes.len() {
        check_bytes_refused(&format!("first {length} bytes"), "safetensors", &bytes[..length], "truncated");
    }
    check("longer", json!({"a": tensor("U8", vec![1], 0, 1)}), 2, "1 bytes follow the last tensor");
}

#[test]
fn spoilt_header() {
    for length in [17 << 20, 1 << 40, u64::MAX] {
        let bytes = [&length.to_le_bytes()[..], &[b' '; 64]].concat();
        check_bytes_refused("endless header", "safetensors", &bytes, "not a safetensors file");
    }
    let long = [&65u64.to_le_bytes()[..], &[b' '; 64]].concat();
    check_bytes_refused("header past the end", "safetensors", &long, "truncated");
    check("no JSON", "nonsense", 0, "header");
    check("no map", "[1, 2]", 0, "a map of tensors");
    check("unfinished", "{\"a\":", 0, "header");
    check("nested", "[".repeat(100_000), 0, "header");
    check("nested in a tensor", format!("{{\"a\":{}", "[".repeat(100_000)), 0, "header");
    check("tensor of another kind", "{\"a\":1}", 0, "`a`: invalid type");
    let twice = tensor("U8", vec![1], 0, 1);
    check("duplicate", format!("{{\"a\":{twice},\"a\":{twice}}}"), 1, "`a` occurs twice");
    check("text after the map", "{} {}", 0, "trailing characters");
    check("nested metadata", format!("{{\"__metadata__\":{}", "[".repeat(100_000)), 0, "header");
}

/// Headers of the largest length allowed: whatever fills them, reading costs little.
#[test]
fn huge_headers() {
    let fill = |part: &str| part.repeat((8 << 20) / part.len() - 16);
    check("long shape", format!("{{\"a\":{{\"shape\":[{}", fill("0,")), 0, "header");
    check("long metadata", format!("{{\"__metadata__\":[{}", fill("0,")), 0, "header");
    check("long name", format!("{{\"{}\":0}}", fill("n")), 0, "header");
    check("spaces", fill(" "), 0, "header");
    let mut tensors = "{".to_owned();
    for index in 0..130_000 {
        tensors += &format!("\"{index}\":{{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}},");
    }
    check("many tensors", tensors, 0, "header");
}

#[test]
fn spoilt_tensors() {
    let one = |case: &str, tensor: Value, expected: &str| check(case, json!({"a": tensor}), 32, expected);
    one("type", tensor("Q4_0", vec![32], 0, 32), "header");
    one("shape too small", tensor("F32", vec![7], 0, 32), "invalid shape");
    one("shape too large", tensor("F32", vec![9], 0, 32), "invalid shape");
    one("type too wide", tensor("F64", vec![8], 0, 32), "invalid shape");
    one("negative", tensor("F32", vec![-8], 0, 32), "header");
    one("product overflows", tensor("F32", vec![1u64 << 32; 4], 0, 32), "overflow");
    one("bits overflow", tensor("U8", vec![u64::MAX], 0, u64::MAX), "overflow");
    one("starts late", tensor("F32", vec![1], 28, 32), "invalid offset");
    one("ends early", tensor("F32", vec![1], 32, 28), "invalid offset");
    one("past the end", tensor("F32", vec![9], 0, 36), "truncated");
    one("far past the end", tensor("U8", vec![1u64 << 60], 0, 1 << 60), "truncated");
    one("zero rows", json!({"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]}), "32 bytes follow");
    one("9 dimensions", tensor("F32", vec![1, 1, 1, 1, 1, 1, 1, 1, 8], 0, 32), "9 dimensions");
    one("no shape", json!({"dtype": "F32", "data_offsets": [0, 32]}), "header");
    one("half a byte", tensor("F4", vec![63], 0, 32), "byte boundary");

    let two = |case: &str, b: Value, expected: &str| {
        check(case, json!({"a": tensor("F32", vec![4], 0, 16), "b": b}), 32, expected);
    };
    two("overlap", tensor("F32", vec![5], 12, 32), "invalid offset for tensor `b`");
    two("gap", tensor("F32", vec![3], 20, 32), "invalid offset for tensor `b`");
    two("holds nothing", tensor("F32", vec![0], 16, 16), "16 bytes follow");
    check("holds nothing", json!({"a": tensor("F32", vec![0, 4], 0, 0)}), 0, "holds no values");
    // Sizes that only overflow in sum.
    let eighths: Value = (0..8u64)
        .map(|index| {
            let (start, end) = (index << 60, (index + 1) << 60);
            (index.to_string(), tensor("U8", vec![1u64 << 60], start, end))
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    check("sum overflows", eighths, 32, "truncated");
}

/// A sharded folder: `a` in the first file, `b` in the second.
fn sharded(index: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let shard = |name: &str, tensor_name: &str| {
        let header = json!({tensor_name: tensor("F32", vec![2], 0, 8)});
        std::fs::write(folder.path().join(name), file(header, 8)).unwrap();
    };
    shard("model-00001-of-00002.safetensors", "a");
    shard("model-00002-of-00002.safetensors", "b");
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

fn index(second: &str) -> Value {
    json!({"metadata": {"total_size": 16}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": second}})
}

#[test]
fn shards() {
    let folder = sharded(index("model-00002-of-00002.safetensors"));
    let files = ModelFiles::open(folder.path()).unwrap();
    assert_eq!(files.tensor_names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(files.require_tensor("b").unwrap().shape, [2]);
}

#[test]
fn spoilt_shards() {
    let check = |case: &str, second: &str, expected: &str| {
        check_refused(case, sharded(index(second)).path(), expected);
    };
    check("missing", "model-00003-of-00002.safetensors", "is missing");
    check("outside", "../model-00002-of-00002.safetensors", "not a file of this folder");
    check("absolute", "/etc/passwd", "not a file of this folder");
    check("subfolder", "x/model.safetensors", "not a file of this folder");
    check("the folder", ".", "not a file of this folder");
    check("no name", "", "not a file of this folder");
    check("wrong shard", "model-00001-of-00002.safetensors", "`b` is not in");
    check("the index itself", "model.safetensors.index.json", "not a safetensors file");
    check_refused("no map", sharded(json!({"weight_map": 3})).path(), "bad JSON");
    let endless: serde_json::Map<_, _> = (0..=1 << 17).map(|name| (name.to_string(), "f".into())).collect();
    check_refused("endless", sharded(json!({"weight_map": endless})).path(), "at most 131072 tensors");
    check_refused("no weight_map", sharded(json!({})).path(), "bad JSON");
}

#[test]
fn spoilt_configuration() {
    let check = |case: &str, config: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), sound()).unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        check_refused(case, folder.path(), expected);
    };
    check("empty", "", "config.json: bad JSON");
    check("unfinished", "{\"hidden_size\":", "bad JSON");
    check("nested", &"[".repeat(1 << 20), "bad JSON");
    check("long", &" ".repeat((4 << 20) + 1), "longer than the 4194304 bytes");
}

#[test]
fn paths_that_are_no_model() {
    let check = |path: &Path, expected: &str| {
        let error = ModelFiles::open(path).err().expect("not a model");
        assert!(error.to_string().contains(expected), "{error} does not say {expected:?}");
        assert!(!matches!(error, EngineError::BadFile { .. }), "{error} is not about damage");
    };
    let folder = tempfile::tempdir().unwrap();
    check(folder.path(), "neither model.safetensors nor a GGUF file");
    check(&folder.path().join("absent"), "No such file");
    check(Path::new("/dev/zero"), "neither a file nor a folder");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "hello").unwrap();
    check(&text, "neither a GGUF file nor");
    for name in ["one.gguf", "two.gguf"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    check(folder.path(), "2 GGUF files; name one");
}
