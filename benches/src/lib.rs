//! What the measurements have in common.

use std::path::Path;

use engine::model::{LoadOptions, LoadedModel, load};
use kernels::Device;

pub type Failure = Box<dyn std::error::Error>;

/// The model at `path` under the name `model`, with its whole context and nothing kept for later starts.
///
/// # Errors
/// What is wrong with its files.
pub fn load_model(path: &str, device: &Device) -> Result<LoadedModel, Failure> {
    let options = LoadOptions {
        path: Path::new(path),
        name: Some("model"),
        context_tokens: None,
        device,
        whole_identity: false,
        packed: None,
        progress: &|_| {},
    };
    Ok(load(&options)?)
}
