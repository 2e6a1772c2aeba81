//! `janus inspect`: what a model file holds.

use std::path::Path;

use engine::EngineError;

use super::output::print;
use super::{FAILED, UNUSABLE};

pub fn run(path: &Path, json: bool) -> anyhow::Result<u8> {
    match engine::inspect::inspect(path) {
        Ok(inspection) if json => print(&format!("{}\n", serde_json::to_string_pretty(&inspection)?)),
        Ok(inspection) => print(&format!("{inspection}")),
        Err(error) => {
            eprintln!("error: {error}");
            Ok(code(&error))
        }
    }
}

/// A script can tell a bad file from a bad path.
fn code(error: &EngineError) -> u8 {
    match error {
        EngineError::BadFile { .. } | EngineError::Unsupported { .. } | EngineError::Kernel(_) => UNUSABLE,
        _ => FAILED,
    }
}
