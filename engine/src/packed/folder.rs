//! The files of a folder, one a model, `KEY.packed`: opened only if they are this user's own, bounded in
//! bytes, the least recently used go first. Any number of processes share a folder; one at a time writes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::PackedOptions;
use crate::private_file;

const EXTENSION: &str = "packed";
const FRAGMENT: &str = "part";

#[derive(Debug)]
pub struct PackedFolder {
    options: PackedOptions,
}

/// Held by the process that writes.
pub struct Turn {
    _lock: File,
}

impl PackedFolder {
    pub fn new(options: PackedOptions) -> PackedFolder {
        PackedFolder { options }
    }

    /// The file of a key, which counts as a use of it.
    pub fn open(&self, key: &[u8; 32]) -> Option<(File, PathBuf)> {
        let path = self.file_path(key);
        let file = File::open(&path).ok()?;
        if !is_private(&file) {
            let path = path.display();
            tracing::warn!(%path, "packed weights of another user, or that others may write, are not read");
            return None;
        }
        // The order of use survives in the files' times; where the system refuses, it is lost.
        let _ = file.set_modified(SystemTime::now());
        Some((file, path))
    }

    /// Whether a model with so many bytes gets a file.
    pub fn worth_keeping(&self, bytes: u64) -> bool {
        bytes >= self.options.model_bytes_min && bytes <= self.options.bytes_max
    }

    pub fn contains(&self, key: &[u8; 32]) -> bool {
        self.file_path(key).exists()
    }

    /// Tells of a file that is not what it should be; its model is packed again.
    pub fn warn(&self, key: &[u8; 32], reason: &str) {
        tracing::warn!(path = %self.file_path(key).display(), reason, "a file of packed weights is not used");
    }

    pub fn remove(&self, key: &[u8; 32]) {
        // It may be gone already, or stay: it is not believed either way.
        let _ = fs::remove_file(self.file_path(key));
    }

    /// Waits until no other process writes, creating the folder if need be.
    ///
    /// # Errors
    /// As the file system says.
    pub fn take_turn(&self) -> io::Result<Turn> {
        private_file::create_folder(&self.options.folder)?;
        let lock = File::options().create(true).append(true).open(self.options.folder.join("lock"))?;
        lock.lock()?;
        Ok(Turn { _lock: lock })
    }

    /// Writes a file under another name, complete, and renames it. `write` is given an empty one. Makes
    /// room for `bytes` first.
    ///
    /// # Errors
    /// As the file system says, or `write`; nothing new is there then.
    pub fn write(
        &self,
        _turn: &Turn,
        key: &[u8; 32],
        bytes: u64,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.shrink(bytes)?;
        let path = self.file_path(key);
        let fragment = path.with_extension(FRAGMENT);
        let written = private_file::create_new(&fragment).and_then(|file| {
            write(&file)?;
            file.sync_all()
        });
        if let Err(error) = written.and_then(|()| fs::rename(&fragment, &path)) {
            // Whatever is left of it is removed by who writes next.
            let _ = fs::remove_file(&fragment);
            return Err(error);
        }
        Ok(())
    }

    /// Removes fragments, whose writers are gone, and the files least recently used, until there is room.
    fn shrink(&self, needed: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.options.folder)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(FRAGMENT) if is_ours(&path) => fs::remove_file(&path)?,
                Some(EXTENSION) if is_ours(&path) => {
                    let metadata = path.metadata()?;
                    files.push((metadata.modified()?, metadata.len(), path));
                }
                _ => {}
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, length, path) in files {
            if bytes.saturating_add(needed) <= self.options.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            bytes -= length;
        }
        Ok(())
    }

    pub fn file_path(&self, key: &[u8; 32]) -> PathBuf {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.options.folder.join(name).with_extension(EXTENSION)
    }
}

/// Whether a file's name is one that this folder gives.
fn is_ours(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A plain file that only this user can have written.
fn is_private(file: &File) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    file.metadata().is_ok_and(|metadata| {
        let open = private_file::is_open_to_others(&metadata, OTHERS_WRITE);
        metadata.is_file() && private_file::is_own(&metadata) && !open
    })
}
