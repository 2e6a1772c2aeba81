//! Where tests find real models and golden files, and a device to run on.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};

use engine::EngineError;
use engine::model::{LoadOptions, LoadedModel, load};
use kernels::{CpuOptions, Device};
use serde_json::Value;

/// A model of the test cache; prints why the test did not run when it is missing, and fails in CI.
pub fn real_model(path: &str) -> Option<PathBuf> {
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

pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

pub fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Loads with all of this machine's cores.
pub fn try_load(path: &Path, context_tokens: Option<usize>) -> Result<LoadedModel, EngineError> {
    let device = Device::cpu(CpuOptions::default()).unwrap();
    load(&LoadOptions { path, name: None, context_tokens, device: &device, progress: &|_| {} })
}

pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
