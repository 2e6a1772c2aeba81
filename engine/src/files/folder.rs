//! A model folder as model hubs lay it out: `config.json`, tokenizer files, and safetensors in one file
//! or in shards named by `model.safetensors.index.json`.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use kernels::Mapping;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use super::{TensorEntry, WeightTensor, bad_file, io_error, safetensors};
use crate::EngineError;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Most bytes of a JSON file that is kept as a whole, in memory some twenty times its length.
const JSON_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of a JSON file of which only chosen fields are kept; large vocabularies take 35 MB.
const PARTIAL_JSON_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of an index; those of the largest models take 10 MB.
const INDEX_BYTES_MAX: u64 = 16 << 20;
const INDEX_TENSORS_MAX: usize = 1 << 17;
const SHARDS_MAX: usize = 4096;

/// An opened folder.
pub struct Folder {
    path: PathBuf,
    config: Option<Value>,
    files: Vec<Mapping>,
    tensors: Vec<(FileIndex, TensorEntry)>,
    /// Index into `tensors`.
    by_name: HashMap<String, usize>,
}

type FileIndex = usize;

/// `model.safetensors.index.json`; its `metadata` is of no use here.
#[derive(Deserialize)]
struct Index {
    /// Tensor name to file name.
    #[serde(deserialize_with = "bounded_map")]
    weight_map: HashMap<String, String>,
}

/// Stops at the first entry too many.
fn bounded_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashMap<String, String>, D::Error> {
    struct Bounded;

    impl<'de> Visitor<'de> for Bounded {
        type Value = HashMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a map of at most {INDEX_TENSORS_MAX} tensors to their files")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut entries = HashMap::new();
            while let Some((tensor, file)) = map.next_entry()? {
                if entries.len() == INDEX_TENSORS_MAX {
                    return Err(M::Error::invalid_length(INDEX_TENSORS_MAX + 1, &self));
                }
                entries.insert(tensor, file);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_map(Bounded)
}

impl Folder {
    /// Opens the safetensors files of a folder; `None` when it has none.
    pub fn open(path: &Path) -> Result<Option<Folder>, EngineError> {
        let mut folder = Folder::empty(path)?;
        if let Some(index) = read_json::<Index>(&path.join(INDEX), INDEX_BYTES_MAX)? {
            folder.add_shards(&index)?;
        } else if path.join(WEIGHTS).is_file() {
            folder.add_file(Mapping::open(&path.join(WEIGHTS))?)?;
        } else {
            return Ok(None);
        }
        Ok(Some(folder))
    }

    /// A single safetensors file, with whatever lies beside it.
    pub fn of_file(file: Mapping) -> Result<Folder, EngineError> {
        // `Path::parent` of a bare file name is the empty path.
        let parent = file.path().parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut folder = Folder::empty(parent.unwrap_or(Path::new(".")))?;
        folder.add_file(file)?;
        Ok(folder)
    }

    fn empty(path: &Path) -> Result<Folder, EngineError> {
        Ok(Folder {
            path: path.to_owned(),
            config: read_json(&path.join("config.json"), JSON_BYTES_MAX)?,
            files: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
        })
    }

    fn add_file(&mut self, file: Mapping) -> Result<(), EngineError> {
        let entries = safetensors::parse(&file).map_err(|reason| bad_file(file.path(), reason))?;
        self.files.push(file);
        for entry in entries {
            self.by_name.insert(entry.name.clone(), self.tensors.len());
            self.tensors.push((self.files.len() - 1, entry));
        }
        Ok(())
    }

    /// Opens each file the index names and keeps from it the tensors the index finds there.
    fn add_shards(&mut self, index: &Index) -> Result<(), EngineError> {
        let index_path = self.path.join(INDEX);
        let mut names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > SHARDS_MAX {
            return Err(bad_file(&index_path, format!("names {} files, at most {SHARDS_MAX}", names.len())));
        }
        for name in names {
            let path = self.shard_path(name).map_err(|reason| bad_file(&index_path, reason))?;
            self.add_shard(name, Mapping::open(&path)?, index)?;
        }
        match index.weight_map.iter().find(|(tensor, _)| !self.by_name.contains_key(*tensor)) {
            Some((tensor, file)) => {
                Err(bad_file(&index_path, format!("tensor `{tensor}` is not in {file}, where it should be")))
            }
            None => Ok(()),
        }
    }

    fn add_shard(&mut self, name: &str, file: Mapping, index: &Index) -> Result<(), EngineError> {
        let entries = safetensors::parse(&file).map_err(|reason| bad_file(file.path(), reason))?;
        self.files.push(file);
        for entry in entries {
            if index.weight_map.get(&entry.name).is_some_and(|home| home == name) {
                self.by_name.insert(entry.name.clone(), self.tensors.len());
                self.tensors.push((self.files.len() - 1, entry));
            }
        }
        Ok(())
    }

    /// A shard beside the index: a plain file name that exists.
    fn shard_path(&self, name: &str) -> Result<PathBuf, String> {
        let mut components = Path::new(name).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain {
            return Err(format!("names `{name}`, which is not a file of this folder"));
        }
        let path = self.path.join(name);
        if path.is_file() { Ok(path) } else { Err(format!("names {name}, which is missing")) }
    }

    /// `config.json`.
    ///
    /// # Errors
    /// `Unsupported` when the folder has none: a tensor file alone does not say what model it is.
    pub fn config(&self) -> Result<&Value, EngineError> {
        self.config.as_ref().ok_or_else(|| EngineError::Unsupported {
            path: self.path.clone(),
            reason: "has no config.json, which says what model this is; copy it from the model's source"
                .into(),
        })
    }

    /// The path of a file beside the weights, when it exists.
    pub fn sibling(&self, name: &str) -> Option<PathBuf> {
        Some(self.path.join(name)).filter(|path| path.is_file())
    }

    /// A JSON file beside the weights (`tokenizer_config.json`, `1_Pooling/config.json`); `None` when
    /// it does not exist.
    pub fn json(&self, name: &str) -> Result<Option<Value>, EngineError> {
        read_json(&self.path.join(name), JSON_BYTES_MAX)
    }

    /// The fields of a JSON file that `T` has; `None` when it does not exist.
    pub fn parse_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, EngineError> {
        read_json(&self.path.join(name), PARTIAL_JSON_BYTES_MAX)
    }

    /// Every tensor, in file order.
    pub fn entries(&self) -> impl Iterator<Item = &TensorEntry> {
        self.tensors.iter().map(|(_, entry)| entry)
    }

    /// The tensor called `name`; see [`super::ModelFiles::tensor`].
    pub fn tensor(&self, name: &str) -> Result<Option<WeightTensor>, EngineError> {
        let Some(index) = self.by_name.get(name) else { return Ok(None) };
        let (file, entry) = &self.tensors[*index];
        entry.load(&self.files[*file]).map(Some)
    }

    /// All of its safetensors files.
    pub fn mappings(&self) -> Vec<&Mapping> {
        self.files.iter().collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of all safetensors files together, in bytes.
    pub fn file_bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).sum()
    }
}

/// Parses a JSON file of at most `bytes_max`; `None` when it does not exist.
fn read_json<T: DeserializeOwned>(path: &Path, bytes_max: u64) -> Result<Option<T>, EngineError> {
    if !path.is_file() {
        return Ok(None);
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(|source| io_error(path, source))?;
    if text.len() as u64 > bytes_max {
        return Err(bad_file(path, format!("is longer than the {bytes_max} bytes allowed")));
    }
    let value =
        serde_json::from_slice(&text).map_err(|error| bad_file(path, format!("bad JSON: {error}")))?;
    Ok(Some(value))
}
