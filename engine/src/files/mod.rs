//! Model files: GGUF, safetensors and the folder around them, behind one [`ModelFiles`].

use std::path::Path;

use kernels::{Format, MappedBytes};

use crate::EngineError;

/// One tensor of a model file. `shape` is outermost first (rows, columns), whatever the file's order.
pub struct WeightTensor {
    pub name: String,
    pub format: Format,
    pub shape: Vec<usize>,
    pub bytes: MappedBytes,
}

/// An opened model: metadata and tensors, every offset already checked.
pub enum ModelFiles {
    Gguf(()),
    Folder(()),
}

impl ModelFiles {
    /// A GGUF file, a safetensors file with `config.json` beside it, or a folder that holds one.
    pub fn open(path: &Path) -> Result<ModelFiles, EngineError> {
        Err(EngineError::Unsupported { path: path.to_owned(), reason: "no file format yet".into() })
    }
}
