//! From what a user types for a model (a name, a path, `NAME=PATH`) to a loaded model.

use std::path::{Path, PathBuf};

use anyhow::Context;
use engine::model::{LoadOptions, LoadedModel};
use kernels::{CpuOptions, Device};

use crate::catalogue::report::{Report, for_stderr};
use crate::catalogue::{self, Catalogue, PullOptions, Store};

/// A model to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name requests use; `None` takes the file's own.
    pub name: Option<String>,
    pub path: PathBuf,
}

/// Where models come from and how they are loaded.
pub struct Opener {
    pub catalogue: Catalogue,
    pub store: Store,
    /// Check files fetched by name against the catalogue's SHA-256.
    pub verify: bool,
    /// Cap on the context; `None` takes each model's own.
    pub context_tokens: Option<usize>,
    pub device: Device,
    pub report: Box<dyn Report>,
}

impl Opener {
    pub fn new(folder: Option<&Path>, threads: Option<usize>) -> anyhow::Result<Opener> {
        let device = Device::cpu(CpuOptions { threads, isa: None }).map_err(anyhow::Error::msg)?;
        Ok(Opener {
            catalogue: Catalogue::built_in(),
            store: Store::locate(folder)?,
            verify: false,
            context_tokens: None,
            device,
            report: for_stderr(),
        })
    }

    /// Finds the model, fetching it first when it is one of the catalogue that is not there.
    pub fn locate(&self, wanted: &str) -> anyhow::Result<Source> {
        if let Ok(model) = self.catalogue.find(wanted) {
            let options = PullOptions { accept_licence: false, from: None };
            catalogue::pull(&self.store, model, &options, &*self.report)?;
            if self.verify {
                self.store.verify(model, &*self.report)?;
            }
            return Ok(Source { name: Some(model.name.clone()), path: self.store.load_path(model) });
        }
        match parse(wanted) {
            source if source.path.exists() => Ok(source),
            source if looks_like_path(wanted) => {
                anyhow::bail!("there is no file or folder {}", source.path.display())
            }
            _ => Err(self
                .catalogue
                .find(wanted)
                .err()
                .context("a model that was found is returned above")?
                .into()),
        }
    }

    /// Loads it, showing how far it has come.
    pub fn load(&self, source: &Source) -> anyhow::Result<LoadedModel> {
        let bytes = bytes_at(&source.path);
        let label = source.name.clone().unwrap_or_else(|| source.path.display().to_string());
        self.report.start(&format!("loading {label}"), bytes, 0);
        let loaded = engine::model::load(&LoadOptions {
            path: &source.path,
            name: source.name.as_deref(),
            context_tokens: self.context_tokens,
            device: &self.device,
            progress: &|part| self.report.at((f64::from(part) * bytes as f64) as u64),
        });
        self.report.end();
        Ok(loaded?)
    }
}

/// Size of a file, or of the files directly in a folder.
fn bytes_at(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum(),
        Err(_) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}

/// `NAME=PATH`, or a path. A path that exists may hold an equals sign.
fn parse(wanted: &str) -> Source {
    match wanted.split_once('=') {
        Some((name, path)) if !name.is_empty() && !name.contains('/') && !Path::new(wanted).exists() => {
            Source { name: Some(name.to_owned()), path: path.into() }
        }
        _ => Source { name: None, path: wanted.into() },
    }
}

fn looks_like_path(wanted: &str) -> bool {
    wanted.contains(['/', '=']) || wanted.ends_with(".gguf") || wanted.ends_with(".safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, name: Option<&str>, path: &str) {
        assert_eq!(parse(wanted), Source { name: name.map(str::to_owned), path: path.into() }, "{wanted}");
    }

    #[test]
    fn names_and_paths() {
        check("model.gguf", None, "model.gguf");
        check("chat=model.gguf", Some("chat"), "model.gguf");
        check("chat=a=b.gguf", Some("chat"), "a=b.gguf");
        check("./a=b/model.gguf", None, "./a=b/model.gguf");
        check("=x", None, "=x");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let opener = Opener::new(Some(folder.path()), Some(1)).unwrap();
        let rows = [
            ("nonsense", "no model is called `nonsense`"),
            ("./nonsense.gguf", "there is no file or folder ./nonsense.gguf"),
            ("chat=/nonsense", "there is no file or folder /nonsense"),
        ];
        for (wanted, words) in rows {
            let error = opener.locate(wanted).unwrap_err().to_string();
            assert!(error.contains(words), "{wanted}: {error}");
        }
    }
}
