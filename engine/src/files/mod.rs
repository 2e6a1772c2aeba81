//! Model files: GGUF, safetensors and the folder around them, behind one [`ModelFiles`].
//!
//! Files are mapped, never read whole; opening checks every offset, count and product against the
//! file's length before anything is allocated for it, so a tensor handed out later is known to lie
//! inside its file. What the metadata means is the model code's business.
//!
//! | file | what is in it |
//! |---|---|
//! | [`gguf`] | GGUF v2 and v3: typed metadata and tensor directory |
//! | [`safetensors`] | one safetensors file's tensor directory |
//! | [`folder`] | `config.json`, its sibling files and one or many safetensors files |
//! | [`tensor_type`] | every element type that occurs, by number, name and block size |

pub mod folder;
pub mod gguf;
pub mod safetensors;
pub mod tensor_type;

use std::fs;
use std::path::Path;

use kernels::{Format, KernelError, MappedBytes, Mapping, WeightView};

use crate::EngineError;
pub use folder::Folder;
pub use gguf::Gguf;
pub use tensor_type::TensorType;

/// One tensor of a model file. `shape` is outermost first (rows, columns), whatever the file's order.
pub struct WeightTensor {
    pub name: String,
    pub format: Format,
    pub shape: Vec<usize>,
    pub bytes: MappedBytes,
}

impl WeightTensor {
    /// Product of all dimensions but the innermost; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The innermost dimension; 1 for a scalar.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The tensor as a `rows` x `columns` matrix.
    pub fn view(&self) -> Result<WeightView<'_>, KernelError> {
        WeightView::new(self.format, self.rows(), self.columns(), &self.bytes)
    }

    /// All values, dequantised.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows() * self.columns()];
        kernels::quant::dequantize(self.format, &self.bytes, &mut values);
        values
    }
}

/// What a file's directory says of one tensor: checked, but not necessarily of a type with a kernel.
#[derive(Clone, Debug)]
pub struct TensorEntry {
    pub name: String,
    pub kind: &'static TensorType,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Bytes of its file.
    pub range: std::ops::Range<usize>,
}

impl TensorEntry {
    /// Number of values; opening has checked that the product does not overflow.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor's bytes, or `Unsupported` when no kernel computes with its type.
    fn load(&self, mapping: &Mapping) -> Result<WeightTensor, EngineError> {
        let Some(format) = self.kind.format else {
            return Err(EngineError::Unsupported {
                path: mapping.path().to_owned(),
                reason: format!(
                    "tensor `{}` has type {}, which has no kernel; use a file in Q4_K_M, Q8_0 or F16",
                    self.name, self.kind.name
                ),
            });
        };
        let bytes = mapping.slice(self.range.clone()).expect("the directory was checked against the file");
        Ok(WeightTensor { name: self.name.clone(), format, shape: self.shape.clone(), bytes })
    }
}

/// An opened model: metadata and tensors, every offset already checked.
pub enum ModelFiles {
    Gguf(Gguf),
    Folder(Folder),
}

impl ModelFiles {
    /// A GGUF file, a safetensors file with `config.json` beside it, or a folder that holds one.
    ///
    /// # Errors
    /// `Io` when the path cannot be read, `BadFile` when a file is damaged, `Unsupported` when it is
    /// of another kind.
    pub fn open(path: &Path) -> Result<ModelFiles, EngineError> {
        let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
        if metadata.is_dir() {
            return open_folder(path);
        }
        if !metadata.is_file() {
            return unsupported(path, "is neither a file nor a folder");
        }
        open_file(path)
    }

    /// Every tensor, in file order.
    pub fn entries(&self) -> Box<dyn Iterator<Item = &TensorEntry> + '_> {
        match self {
            ModelFiles::Gguf(gguf) => Box::new(gguf.entries().iter()),
            ModelFiles::Folder(folder) => Box::new(folder.entries()),
        }
    }

    /// Names of all tensors, in file order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.entries().map(|entry| entry.name.as_str())
    }

    /// The tensor called `name`; `None` when the model has none of that name.
    ///
    /// # Errors
    /// `Unsupported` when its type has no kernel.
    pub fn tensor(&self, name: &str) -> Result<Option<WeightTensor>, EngineError> {
        match self {
            ModelFiles::Gguf(gguf) => gguf.tensor(name),
            ModelFiles::Folder(folder) => folder.tensor(name),
        }
    }

    /// The tensor called `name`, which the model cannot do without.
    ///
    /// # Errors
    /// `BadFile` when it is missing, `Unsupported` when its type has no kernel.
    pub fn require_tensor(&self, name: &str) -> Result<WeightTensor, EngineError> {
        let missing = || bad_file(self.path(), format!("tensor `{name}` is missing"));
        self.tensor(name)?.ok_or_else(missing)
    }

    /// Every file that has tensors.
    pub fn mappings(&self) -> Vec<&Mapping> {
        match self {
            ModelFiles::Gguf(gguf) => vec![gguf.mapping()],
            ModelFiles::Folder(folder) => folder.mappings(),
        }
    }

    /// The GGUF file, or the folder.
    pub fn path(&self) -> &Path {
        match self {
            ModelFiles::Gguf(gguf) => gguf.path(),
            ModelFiles::Folder(folder) => folder.path(),
        }
    }
}

fn open_file(path: &Path) -> Result<ModelFiles, EngineError> {
    let mapping = Mapping::open(path)?;
    if mapping.starts_with(gguf::MAGIC) {
        return Ok(ModelFiles::Gguf(Gguf::from_mapping(mapping)?));
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Err(bad_file(path, "does not start with the GGUF magic: not a GGUF file")),
        Some("safetensors") => Ok(ModelFiles::Folder(Folder::of_file(mapping)?)),
        _ => unsupported(path, "is neither a GGUF file nor named *.safetensors"),
    }
}

/// A folder with safetensors files, or else with exactly one GGUF file.
fn open_folder(path: &Path) -> Result<ModelFiles, EngineError> {
    if let Some(folder) = Folder::open(path)? {
        return Ok(ModelFiles::Folder(folder));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|source| io_error(path, source))? {
        let file = entry.map_err(|source| io_error(path, source))?.path();
        if file.extension().is_some_and(|extension| extension == "gguf") {
            names.push(file);
        }
    }
    match names.as_slice() {
        [file] => open_file(file),
        [] => unsupported(path, "holds neither model.safetensors nor a GGUF file"),
        _ => unsupported(path, &format!("holds {} GGUF files; name one of them", names.len())),
    }
}

pub(crate) fn bad_file(path: &Path, reason: impl Into<String>) -> EngineError {
    EngineError::BadFile { path: path.to_owned(), reason: reason.into() }
}

fn io_error(path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Io { path: path.to_owned(), source }
}

fn unsupported<T>(path: &Path, reason: &str) -> Result<T, EngineError> {
    Err(EngineError::Unsupported { path: path.to_owned(), reason: reason.into() })
}
