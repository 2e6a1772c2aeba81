//! A file on its way: written beside its place as `NAME.part`, hashed as it grows, moved into its place
//! only when size and SHA-256 are right. Whatever interrupts it, the next run goes on from its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::size;
use super::{CatalogueError, FileEntry};

const BUFFER_BYTES: usize = 256 * 1024;

/// The `.part` file, open at its end.
pub struct Partial<'a> {
    file: File,
    path: PathBuf,
    target: PathBuf,
    entry: &'a FileEntry,
    hasher: Sha256,
    bytes: u64,
}

/// Why the bytes are not the ones the catalogue pins.
#[derive(Debug, PartialEq, Eq)]
pub enum Mismatch {
    Short { bytes: u64, expected: u64 },
    Hash { found: String },
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mismatch::Short { bytes, expected } => {
                write!(formatter, "ended after {} of {}", size(*bytes), size(*expected))
            }
            Mismatch::Hash { found } => write!(formatter, "has other contents (SHA-256 {found})"),
        }
    }
}

impl<'a> Partial<'a> {
    /// Opens or creates `target.part` and hashes what it holds already.
    pub fn open(target: &Path, entry: &'a FileEntry) -> Result<Partial<'a>, CatalogueError> {
        let path = part_path(target);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(CatalogueError::io("create", folder))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(CatalogueError::io("write", &path))?;
        let mut partial =
            Partial { file, path, target: target.to_owned(), entry, hasher: Sha256::new(), bytes: 0 };
        partial.rewind(entry.bytes)?;
        Ok(partial)
    }

    /// Bytes already here.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes still to come.
    pub fn missing(&self) -> u64 {
        self.entry.bytes - self.bytes
    }

    pub fn entry(&self) -> &'a FileEntry {
        self.entry
    }

    /// Cuts the file to at most `bytes` and hashes what is left.
    pub fn rewind(&mut self, bytes: u64) -> Result<(), CatalogueError> {
        let failed = CatalogueError::io("read", &self.path);
        (self.hasher, self.bytes) = self.cut(bytes).map_err(failed)?;
        Ok(())
    }

    fn cut(&mut self, bytes: u64) -> io::Result<(Sha256, u64)> {
        let length = self.file.metadata()?.len();
        // Longer than it can be: not our download.
        let keep = if length > self.entry.bytes { 0 } else { length.min(bytes) };
        self.file.set_len(keep)?;
        self.file.seek(SeekFrom::Start(0))?;
        let hasher = hash(&mut self.file)?;
        Ok((hasher, keep))
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// `Ok(false)` and nothing written when they are more than the file may hold.
    pub fn append(&mut self, bytes: &[u8]) -> Result<bool, CatalogueError> {
        if bytes.len() as u64 > self.missing() {
            return Ok(false);
        }
        self.file.write_all(bytes).map_err(|error| self.write_failed(error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(true)
    }

    fn write_failed(&self, source: io::Error) -> CatalogueError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                CatalogueError::DiskFull { path: self.path.clone(), needed: size(self.missing()) }
            }
            _ => CatalogueError::Io { action: "write", path: self.path.clone(), source },
        }
    }

    /// Checks size and hash and moves the file into its place. Wrong contents are deleted, a short file
    /// stays for the next attempt.
    pub fn finish(self) -> Result<Result<(), Mismatch>, CatalogueError> {
        if self.missing() > 0 {
            return Ok(Err(Mismatch::Short { bytes: self.bytes, expected: self.entry.bytes }));
        }
        let found = hex(self.hasher);
        if found != self.entry.sha256 {
            fs::remove_file(&self.path).map_err(CatalogueError::io("remove", &self.path))?;
            return Ok(Err(Mismatch::Hash { found }));
        }
        self.file.sync_all().map_err(CatalogueError::io("write", &self.path))?;
        fs::rename(&self.path, &self.target).map_err(CatalogueError::io("create", &self.target))?;
        sync_folder(&self.target);
        Ok(Ok(()))
    }
}

/// Makes the rename durable where the file system can; the file is complete either way.
fn sync_folder(target: &Path) {
    if let Some(folder) = target.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

/// Where `target` lies while it is not complete.
pub fn part_path(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    target.with_file_name(name)
}

/// SHA-256 of a whole file, in hexadecimal; `progress` is told the bytes read so far.
pub fn hash_file(path: &Path, progress: &dyn Fn(u64)) -> io::Result<String> {
    let mut done = 0;
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hasher)),
            read => {
                hasher.update(&buffer[..read]);
                done += read as u64;
                progress(done);
            }
        }
    }
}

fn hash(file: &mut File) -> io::Result<Sha256> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher),
            read => hasher.update(&buffer[..read]),
        }
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc` (FIPS 180-2, appendix B.1).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn entry() -> FileEntry {
        FileEntry { path: "f".into(), bytes: 3, sha256: ABC.into(), pip: Vec::new() }
    }

    /// `before` lies in the part file; `written` is appended; then it is finished.
    fn check(before: &[u8], written: &[u8], expected: Result<(), Mismatch>) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/f");
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(part_path(&target), before).unwrap();
        let entry = entry();
        let mut partial = Partial::open(&target, &entry).unwrap();
        assert!(partial.append(written).unwrap());
        let complete = expected.is_ok();
        let short = matches!(expected, Err(Mismatch::Short { .. }));
        assert_eq!(partial.finish().unwrap(), expected, "{before:?} + {written:?}");
        assert_eq!(target.exists(), complete);
        assert_eq!(part_path(&target).exists(), short, "only an unfinished file stays");
    }

    #[test]
    fn only_the_pinned_bytes_get_into_place() {
        check(b"", b"abc", Ok(()));
        check(b"ab", b"c", Ok(()));
        check(b"abc", b"", Ok(()));
        check(b"too long", b"abc", Ok(()));
        check(b"", b"ab", Err(Mismatch::Short { bytes: 2, expected: 3 }));
        // Known digest of three zero bytes.
        let zeros = "709e80c88487a2411e1ee4dfb9f22a861492d20c4765150c0c794abd70f8147c".to_owned();
        check(b"\0", b"\0\0", Err(Mismatch::Hash { found: zeros }));
    }

    #[test]
    fn more_bytes_than_pinned_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, entry) = (folder.path().join("f"), entry());
        let mut partial = Partial::open(&target, &entry).unwrap();
        assert!(!partial.append(b"abcd").unwrap());
        assert_eq!(partial.bytes(), 0);
        assert!(partial.append(b"abc").unwrap());
        partial.rewind(1).unwrap();
        assert_eq!((partial.bytes(), partial.missing()), (1, 2));
        assert!(partial.append(b"bc").unwrap());
        assert_eq!(partial.finish().unwrap(), Ok(()));
    }

    #[test]
    fn a_full_disk_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (target, entry) = (folder.path().join("f"), entry());
        // Linux's device that is always full stands in for the disk.
        std::os::unix::fs::symlink("/dev/full", part_path(&target)).unwrap();
        let file = OpenOptions::new().write(true).open(part_path(&target)).unwrap();
        let path = part_path(&target);
        let mut partial = Partial { file, path, target, entry: &entry, hasher: Sha256::new(), bytes: 0 };
        let error = partial.append(b"abc").unwrap_err().to_string();
        assert!(error.starts_with("the disk is full") && error.contains("3 B"), "{error}");
    }
}
