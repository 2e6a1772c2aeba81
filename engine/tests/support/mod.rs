//! Where tests find real models and golden files, and a device to run on.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

mod random;
mod real_models;

use std::path::{Path, PathBuf};

use engine::EngineError;
use engine::model::{LoadOptions, LoadedModel, load};
use kernels::{CpuOptions, Device};
use serde_json::Value;

pub use random::Random;
pub use real_models::{SMOLLM2, real_model};

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
    load(&LoadOptions {
        path,
        name: None,
        context_tokens,
        device: &device,
        whole_identity: false,
        packed: None,
        progress: &|_| {},
    })
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
