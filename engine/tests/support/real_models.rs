//! Where tests find the real models of the test cache.

use std::path::PathBuf;

/// SmolLM2 135M Instruct, in the test cache.
pub const SMOLLM2: &str = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";

/// A file or folder of the test cache; prints why the test did not run when it is missing, and fails in CI.
pub fn real_model(path: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("JANUS_TEST_MODELS").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/janus-test-models"));
    let file = cache.or_else(home).unwrap_or_default().join(path);
    if file.exists() {
        return Some(file);
    }
    println!("NOT RUN: {} is missing; `cargo xtask test` fetches it", file.display());
    assert!(std::env::var_os("CI").is_none(), "{} is missing in CI", file.display());
    None
}
