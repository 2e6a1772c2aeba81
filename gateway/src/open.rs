//! From what a user types for a model (a name, a path, `NAME=PATH`) to a loaded model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use engine::PackedCache;
use engine::model::{LoadOptions, LoadedModel};
use kernels::{CpuOptions, Device};

use crate::catalogue::report::{Report, for_stderr};
use crate::catalogue::{self, Catalogue, ModelEntry, PullOptions, Store};
use crate::loader::LoadError;

/// A model to load.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name requests use; `None` takes the file's own.
    pub name: Option<String>,
    pub path: PathBuf,
    /// What the catalogue pins, for a model of it.
    pub entry: Option<ModelEntry>,
}

/// Where models come from and how they are loaded.
pub struct Opener {
    pub catalogue: Catalogue,
    pub store: Store,
    /// Check the catalogue's models against their SHA-256 as they are loaded.
    pub verify: bool,
    /// Cap on the context; `None` takes each model's own.
    pub context_tokens: Option<usize>,
    pub device: Device,
    /// Pages of prompts outlive the process, which has to find them again for the same model only.
    pub keeps_pages: bool,
    /// Where packed weights are kept from start to start.
    pub packed: Option<PackedCache>,
    pub report: Box<dyn Report>,
    /// By served name: the model that guesses for it.
    pub drafts: BTreeMap<String, Source>,
}

impl Opener {
    pub fn new(folder: Option<&Path>, threads: Option<usize>) -> anyhow::Result<Opener> {
        let device = Device::cpu(CpuOptions { threads, isa: None }).map_err(anyhow::Error::msg)?;
        Ok(Opener {
            catalogue: Catalogue::built_in(),
            store: Store::locate(folder)?,
            verify: true,
            context_tokens: None,
            device,
            keeps_pages: false,
            packed: None,
            report: for_stderr(),
            drafts: BTreeMap::new(),
        })
    }

    /// Finds the model, fetching it first when it is one of the catalogue that is not there.
    pub fn locate(&self, wanted: &str) -> anyhow::Result<Source> {
        let (name, place) = parse(wanted);
        let path = PathBuf::from(place);
        let known = match self.catalogue.find(place) {
            Ok(model) => model,
            Err(_) if path.exists() => return Ok(Source { name, path, entry: None }),
            Err(_) if looks_like_path(wanted) => anyhow::bail!("there is no file or folder {place}"),
            Err(unknown) => return Err(unknown.into()),
        };
        let options = PullOptions { accept_licence: false, from: None };
        catalogue::pull(&self.store, known, &options, &*self.report)?;
        Ok(self.installed(known, name))
    }

    /// A model of the catalogue that is installed, under a name of its own if it has one.
    pub fn installed(&self, model: &ModelEntry, name: Option<String>) -> Source {
        let name = name.or_else(|| Some(model.name.clone()));
        Source { name, path: self.store.load_path(model), entry: Some(model.clone()) }
    }

    /// Loads it, showing how far it has come.
    pub fn load(&self, source: &Source) -> anyhow::Result<LoadedModel> {
        let bytes = source.bytes();
        let label = source.name.clone().unwrap_or_else(|| source.path.display().to_string());
        self.report.start(&format!("loading {label}"), bytes, 0);
        let progress = |part: f32| self.report.at((f64::from(part) * bytes as f64) as u64);
        let loaded = self.open(source, source.name.as_deref(), &self.device, &progress);
        self.report.end();
        Ok(loaded?)
    }

    /// Opens a model for `device`, and the draft model that guesses for it if it has one.
    ///
    /// # Errors
    /// As [`Opener::open_alone`]; `InvalidParameter` for a draft of another vocabulary.
    pub fn open(
        &self,
        source: &Source,
        name: Option<&str>,
        device: &Device,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<LoadedModel, LoadError> {
        let model = self.open_alone(source, name, device, progress)?;
        match self.drafts.get(&model.info.name) {
            Some(draft) => Ok(model.with_draft(self.open_alone(draft, None, device, &|_| {})?)?),
            None => Ok(model),
        }
    }

    /// Packs a model for `device` and checks its files beside, on a thread of their own. `progress` is
    /// told 0.0..=1.0 of both.
    ///
    /// # Errors
    /// Files that are not the ones the catalogue pins, before anything else that may be wrong with them.
    fn open_alone(
        &self,
        source: &Source,
        name: Option<&str>,
        device: &Device,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<LoadedModel, LoadError> {
        let pinned = source.entry.as_ref().filter(|_| self.verify);
        let parts = &Parts::new(pinned.is_some(), progress);
        let (packed, checked) = std::thread::scope(|scope| {
            let check = pinned.map(|entry| {
                let bytes = entry.bytes().max(1) as f32;
                scope.spawn(move || self.store.check(entry, &|done| parts.set(1, done as f32 / bytes)))
            });
            let packed = engine::model::load(&LoadOptions {
                path: &source.path,
                name,
                context_tokens: self.context_tokens,
                device,
                whole_identity: self.keeps_pages,
                packed: self.packed.as_ref(),
                progress: &|done| parts.set(0, done),
            });
            (packed, check.map(|check| check.join()))
        });
        match checked {
            None => {}
            Some(Ok(checked)) => checked?,
            Some(Err(_)) => return Err(LoadError::Crashed),
        }
        Ok(packed?)
    }
}

impl Source {
    /// Size of its files.
    pub fn bytes(&self) -> u64 {
        bytes_at(&self.path)
    }
}

/// Progress of packing and of checking, which run at the same time.
struct Parts<'a> {
    /// In millionths, of either.
    done: [AtomicU32; 2],
    progress: &'a (dyn Fn(f32) + Sync),
}

impl<'a> Parts<'a> {
    /// Without a check its half is done.
    fn new(with_check: bool, progress: &'a (dyn Fn(f32) + Sync)) -> Parts<'a> {
        let checked = if with_check { 0 } else { 1_000_000 };
        Parts { done: [AtomicU32::new(0), AtomicU32::new(checked)], progress }
    }

    fn set(&self, part: usize, done: f32) {
        self.done[part].store((done * 1e6) as u32, Ordering::Relaxed);
        let sum: f32 = self.done.iter().map(|done| done.load(Ordering::Relaxed) as f32 / 1e6).sum();
        (self.progress)(sum / 2.0);
    }
}

/// Size of a file, or of the files directly in a folder.
fn bytes_at(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum(),
        Err(_) => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}

/// `NAME=PLACE`, or a place. A path that exists may hold an equals sign.
fn parse(wanted: &str) -> (Option<String>, &str) {
    match wanted.split_once('=') {
        Some((name, place)) if !name.is_empty() && !name.contains('/') && !Path::new(wanted).exists() => {
            (Some(name.to_owned()), place)
        }
        _ => (None, wanted),
    }
}

/// What clients may be told of a wanted model: its name, or its file's, and never where that lies.
pub fn label(wanted: &str) -> &str {
    match parse(wanted) {
        (Some(_), place) => &wanted[..wanted.len() - place.len() - "=".len()],
        (None, place) => Path::new(place).file_name().and_then(|name| name.to_str()).unwrap_or("a model"),
    }
}

fn looks_like_path(wanted: &str) -> bool {
    wanted.contains(['/', '=']) || wanted.ends_with(".gguf") || wanted.ends_with(".safetensors")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, name: Option<&str>, place: &str) {
        assert_eq!(parse(wanted), (name.map(str::to_owned), place), "{wanted}");
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
    fn labels_tell_no_path() {
        for (wanted, told) in [
            ("smollm2-135m-instruct", "smollm2-135m-instruct"),
            ("chat=/srv/secret/model.gguf", "chat"),
            ("/srv/secret/model.gguf", "model.gguf"),
            ("./folder/", "folder"),
            ("..", "a model"),
            ("/", "a model"),
        ] {
            assert_eq!(label(wanted), told);
        }
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
