//! The folder models are kept in: one folder a model, files under the names of the catalogue.
//!
//! A file in its place is complete: it got there by rename after its hash was checked. So whether a
//! model is installed is a question of names and sizes; `verify` reads the bytes again for those who
//! do not trust the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::partial::{hash_file, part_path};
use super::report::Report;
use super::{CatalogueError, FileEntry, ModelEntry};

/// Where models lie.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// How much of a model is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    Complete,
    /// Some bytes are here; `janus pull` goes on from them.
    Partly {
        bytes: u64,
    },
    Missing,
}

/// Held by whoever changes a model's folder; freed when dropped, or when its process ends.
pub struct ModelLock {
    _file: File,
}

impl Store {
    pub fn new(root: impl Into<PathBuf>) -> Store {
        Store { root: root.into() }
    }

    /// `explicit`, else `$JANUS_HOME/models`, `$XDG_DATA_HOME/janus/models`, `~/.local/share/janus/models`.
    pub fn locate(explicit: Option<&Path>) -> Result<Store, CatalogueError> {
        Self::locate_with(explicit, |name| std::env::var_os(name).map(PathBuf::from))
    }

    fn locate_with(
        explicit: Option<&Path>,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Store, CatalogueError> {
        let variable = |name| variable(name).filter(|value| !value.as_os_str().is_empty());
        let root = explicit
            .map(Path::to_owned)
            .or_else(|| Some(variable("JANUS_HOME")?.join("models")))
            .or_else(|| Some(variable("XDG_DATA_HOME")?.join("janus/models")))
            .or_else(|| Some(variable("HOME")?.join(".local/share/janus/models")));
        Ok(Store::new(root.ok_or(CatalogueError::NoHome)?))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The model's folder.
    pub fn folder(&self, model: &ModelEntry) -> PathBuf {
        self.root.join(&model.name)
    }

    pub fn file(&self, model: &ModelEntry, file: &FileEntry) -> PathBuf {
        self.folder(model).join(&file.path)
    }

    /// What the engine opens: the GGUF file, or the folder around a safetensors file.
    pub fn load_path(&self, model: &ModelEntry) -> PathBuf {
        match model.files.iter().find(|file| file.path.ends_with(".gguf")) {
            Some(gguf) => self.file(model, gguf),
            None => self.folder(model),
        }
    }

    /// Whether this file is in its place.
    pub fn has(&self, model: &ModelEntry, file: &FileEntry) -> bool {
        fs::metadata(self.file(model, file)).is_ok_and(|metadata| metadata.len() == file.bytes)
    }

    pub fn installed(&self, model: &ModelEntry) -> Installed {
        if model.files.iter().all(|file| self.has(model, file)) {
            return Installed::Complete;
        }
        match model.files.iter().map(|file| self.bytes_here(model, file)).sum() {
            0 => Installed::Missing,
            bytes => Installed::Partly { bytes },
        }
    }

    fn bytes_here(&self, model: &ModelEntry, file: &FileEntry) -> u64 {
        let place = self.file(model, file);
        let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        if self.has(model, file) { file.bytes } else { length(&part_path(&place)).min(file.bytes) }
    }

    /// Reads every byte again and compares hashes.
    ///
    /// # Errors
    /// [`CatalogueError::Damaged`] naming the first file that differs.
    pub fn verify(&self, model: &ModelEntry, report: &dyn Report) -> Result<(), CatalogueError> {
        report.start(&format!("checking {}", model.name), model.bytes(), 0);
        let verified = self.check(model, &|bytes| report.at(bytes));
        report.end();
        verified
    }

    /// [`Store::verify`] that tells `progress` how many bytes of the model were read.
    pub fn check(&self, model: &ModelEntry, progress: &dyn Fn(u64)) -> Result<(), CatalogueError> {
        if self.installed(model) != Installed::Complete {
            return Err(CatalogueError::NotInstalled { name: model.name.clone() });
        }
        let mut before = 0;
        for file in &model.files {
            let path = self.file(model, file);
            let found = hash_file(&path, &|bytes| progress(before + bytes));
            let found = found.map_err(CatalogueError::io("read", &path))?;
            before += file.bytes;
            if found != file.sha256 {
                let reason = format!("is damaged: its SHA-256 is {found}, the catalogue has {}", file.sha256);
                return Err(CatalogueError::Damaged { model: model.name.clone(), path, reason });
            }
        }
        Ok(())
    }

    /// Deletes the model's folder. Returns the bytes freed; 0 when there was nothing.
    pub fn remove(&self, model: &ModelEntry, report: &dyn Report) -> Result<u64, CatalogueError> {
        let _lock = self.lock(model, report)?;
        let folder = self.folder(model);
        let bytes = folder_bytes(&folder);
        for folder in [folder, self.work_folder(model)] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(CatalogueError::io("remove", &folder)(error));
                }
                _ => {}
            }
        }
        Ok(bytes)
    }

    /// Where packages are kept until their files are taken out. Survives an interruption.
    pub fn work_folder(&self, model: &ModelEntry) -> PathBuf {
        self.root.join(format!(".{}.work", model.name))
    }

    /// Waits until no other process changes this model.
    pub fn lock(&self, model: &ModelEntry, report: &dyn Report) -> Result<ModelLock, CatalogueError> {
        fs::create_dir_all(&self.root).map_err(CatalogueError::io("create", &self.root))?;
        let path = self.root.join(format!(".{}.lock", model.name));
        let file = File::create(&path).map_err(CatalogueError::io("create", &path))?;
        if file.try_lock().is_err() {
            report.note(&format!("waiting for another janus that is working on {}", model.name));
            file.lock().map_err(CatalogueError::io("lock", &path))?;
        }
        Ok(ModelLock { _file: file })
    }
}

/// Size of all files below; links are not followed.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::super::report::Silent;
    use super::*;

    fn check_place(explicit: Option<&str>, variables: &[(&str, &str)], expected: Option<&str>) {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
        };
        let found = Store::locate_with(explicit.map(Path::new), variable).ok().map(|store| store.root);
        assert_eq!(found, expected.map(PathBuf::from), "{explicit:?} {variables:?}");
    }

    #[test]
    fn places() {
        check_place(Some("/a"), &[("JANUS_HOME", "/j")], Some("/a"));
        check_place(None, &[("JANUS_HOME", "/j"), ("XDG_DATA_HOME", "/x")], Some("/j/models"));
        check_place(None, &[("JANUS_HOME", ""), ("XDG_DATA_HOME", "/x")], Some("/x/janus/models"));
        check_place(None, &[("HOME", "/h")], Some("/h/.local/share/janus/models"));
        check_place(None, &[], None);
    }

    #[test]
    fn a_model_is_installed_when_every_file_is() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::new(home.path());
        let mut model = Catalogue::built_in().find("all-minilm-l6-v2").unwrap().clone();
        model.files.truncate(2);
        for file in &mut model.files {
            // SHA-256 of `abc`.
            file.sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into();
            file.bytes = 3;
        }
        assert_eq!(store.installed(&model), Installed::Missing);
        assert!(matches!(store.verify(&model, &Silent), Err(CatalogueError::NotInstalled { .. })));

        fs::create_dir_all(store.folder(&model)).unwrap();
        fs::write(part_path(&store.file(&model, &model.files[0])), b"ab").unwrap();
        assert_eq!(store.installed(&model), Installed::Partly { bytes: 2 });
        for file in &model.files {
            fs::write(store.file(&model, file), b"abc").unwrap();
        }
        assert_eq!(store.installed(&model), Installed::Complete);
        store.verify(&model, &Silent).unwrap();

        fs::write(store.file(&model, &model.files[1]), b"abd").unwrap();
        assert_eq!(store.installed(&model), Installed::Complete, "sizes are right");
        let error = store.verify(&model, &Silent).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains("janus rm all-minilm-l6-v2"), "{error}");

        assert_eq!(store.remove(&model, &Silent).unwrap(), 8);
        assert_eq!(store.installed(&model), Installed::Missing);
        assert_eq!(store.remove(&model, &Silent).unwrap(), 0);
    }
}
