//! GGUF v2 and v3, little-endian: typed metadata and tensors over a memory map.
//!
//! [`directory`] parses and checks the whole header once; [`value`] is what metadata can hold;
//! [`cursor`] reads bytes without ever leaving the file. Layout: header (magic, version, counts),
//! key-value pairs, tensor descriptions, padding to `general.alignment`, tensor data.

pub mod cursor;
pub mod directory;
pub mod value;

use std::path::Path;

use kernels::Mapping;

use super::{TensorEntry, WeightTensor, bad_file};
use crate::EngineError;
pub use directory::Directory;
pub use value::{FromValue, Value};

/// The first four bytes of every GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// An opened GGUF file.
pub struct Gguf {
    mapping: Mapping,
    directory: Directory,
}

impl Gguf {
    /// Maps and checks the file at `path`.
    pub fn open(path: &Path) -> Result<Gguf, EngineError> {
        Gguf::from_mapping(Mapping::open(path)?)
    }

    /// Checks an already mapped file.
    pub fn from_mapping(mapping: Mapping) -> Result<Gguf, EngineError> {
        let directory = Directory::parse(&mapping).map_err(|reason| bad_file(mapping.path(), reason))?;
        let gguf = Gguf { mapping, directory };
        match gguf.get::<u32>("split.count")? {
            Some(parts) if parts > 1 => Err(EngineError::Unsupported {
                path: gguf.path().to_owned(),
                reason: format!("is one of {parts} parts; merge them with `llama-gguf-split --merge`"),
            }),
            _ => Ok(gguf),
        }
    }

    /// All of the file.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The metadata value of `key` as `T`: u32, u64, usize, i32, f32, bool, `&str`, or a `Vec` of u32,
    /// i32, f32 or `&str`. `None` when the file does not have the key.
    ///
    /// # Errors
    /// `BadFile` when the value is of another type or out of `T`'s range.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, EngineError> {
        let Some(value) = self.directory.metadata.get(key) else { return Ok(None) };
        match T::from_value(value, &self.mapping) {
            Some(value) => Ok(Some(value)),
            None => {
                let reason =
                    format!("metadata `{key}` is {} where {} is expected", value.describe(), T::expected());
                Err(bad_file(self.path(), reason))
            }
        }
    }

    /// Like [`Gguf::get`] for a key that must be there.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, EngineError> {
        self.get(key)?.ok_or_else(|| bad_file(self.path(), format!("metadata `{key}` is missing")))
    }

    /// `general.architecture`, the prefix of the architecture's own keys.
    pub fn architecture(&self) -> Result<&str, EngineError> {
        self.require("general.architecture")
    }

    /// The value of `key`, for callers that look at its type first.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.directory.metadata.get(key)
    }

    /// All keys and values, sorted by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.directory.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Every tensor, in the order of the file's directory.
    pub fn entries(&self) -> &[TensorEntry] {
        &self.directory.tensors
    }

    /// The tensor called `name`; see [`super::ModelFiles::tensor`].
    pub fn tensor(&self, name: &str) -> Result<Option<WeightTensor>, EngineError> {
        let Some(index) = self.directory.by_name.get(name) else { return Ok(None) };
        self.directory.tensors[*index].load(&self.mapping).map(Some)
    }

    /// GGUF version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.directory.version
    }

    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> usize {
        self.mapping.len()
    }
}
