//! The files of a store: one a page, `MODEL/HASH.kv`, bounded in bytes, the least recently used go
//! first.
//!
//! A file is written under another name, complete, and renamed: a process that is killed leaves whole
//! pages, and fragments that the next one removes. Nothing waits for the disk (no fsync): what a power
//! failure tears is found by its digest, and a cache may lose pages. The exception is removal, which
//! overwrites a file with zeros and waits until they are on the disk before the name goes.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::EngineError;
use crate::pages::ChainHash;

const EXTENSION: &str = "kv";
const FRAGMENT: &str = "part";
/// Which key the pages were written under.
const MARK: &str = "key-mark";

/// For the lock of a folder: one second.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A page's file: whose folder, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    pub model: [u8; 32],
    pub hash: ChainHash,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u64,
    /// Place in `by_use`.
    used: u64,
}

/// An opened folder; one process at a time has it.
#[derive(Debug)]
pub struct StoreFolder {
    path: PathBuf,
    bytes_max: u64,
    bytes: u64,
    entries: HashMap<FileId, Entry>,
    /// The least recently used first.
    by_use: BTreeMap<u64, FileId>,
    next_use: u64,
    /// Its lock is held as long as it is open.
    _lock: File,
}

impl StoreFolder {
    /// Opens or creates a folder, removes fragments and what is too much.
    ///
    /// # Errors
    /// `Io` when it cannot be read or written; `InvalidParameter` when another process uses it.
    pub fn open(path: &Path, bytes_max: u64) -> Result<StoreFolder, EngineError> {
        let io = |source| EngineError::Io { path: path.to_owned(), source };
        create_private(path).map_err(io)?;
        let lock = File::options().create(true).append(true).open(path.join("lock")).map_err(io)?;
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = format!("{} is in use by another process; give each its own", path.display());
                return Err(EngineError::InvalidParameter { parameter: "prefix.store_dir", reason });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let mut folder = StoreFolder {
            path: path.to_owned(),
            bytes_max,
            bytes: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            next_use: 0,
            _lock: lock,
        };
        for (file, bytes) in scan(path).map_err(io)? {
            folder.insert(file, bytes);
        }
        folder.shrink(0);
        Ok(folder)
    }

    /// Whether its pages were written under this mark, as they are from now on where it had none.
    ///
    /// # Errors
    /// `Io` when that cannot be read or written.
    pub fn is_marked(&self, mark: &[u8; 32]) -> Result<bool, EngineError> {
        let path = self.path.join(MARK);
        let io = |source| EngineError::Io { path: path.clone(), source };
        match fs::read(&path) {
            Ok(there) => Ok(there == mark),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fragment = path.with_extension(FRAGMENT);
                write_fragment(&fragment, [mark, &[]])
                    .and_then(|()| fs::rename(&fragment, &path))
                    .map_err(io)?;
                Ok(true)
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Pages there are of a model, the least recently used first.
    pub fn pages_of(&self, model: &[u8; 32]) -> Vec<ChainHash> {
        self.by_use.values().filter(|file| file.model == *model).map(|file| file.hash).collect()
    }

    pub fn contains(&self, file: &FileId) -> bool {
        self.entries.contains_key(file)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn pages(&self) -> usize {
        self.entries.len()
    }

    /// Writes a page, after making room for it. Returns the pages removed for that.
    ///
    /// # Errors
    /// As the file system says; the page is not there then.
    pub fn write(&mut self, file: FileId, parts: [&[u8]; 2]) -> io::Result<Vec<FileId>> {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if bytes > self.bytes_max {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "a page is larger than the store"));
        }
        self.forget(&file);
        let removed = self.shrink(bytes);
        let path = self.file_path(&file);
        let fragment = path.with_extension(FRAGMENT);
        create_private(path.parent().expect("files stand in the folder of their model"))?;
        let written = write_fragment(&fragment, parts).and_then(|()| fs::rename(&fragment, &path));
        if let Err(error) = written {
            // Whatever is left of it is removed at the next start at the latest.
            let _ = fs::remove_file(&fragment);
            return Err(error);
        }
        self.insert(file, bytes);
        Ok(removed)
    }

    /// Reads a page's file into `content`, over whatever that held, and counts that as a use.
    ///
    /// # Errors
    /// As the file system says.
    pub fn read(&mut self, file: &FileId, content: &mut Vec<u8>) -> io::Result<()> {
        let Some(&Entry { bytes, .. }) = self.entries.get(file) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        content.clear();
        content.reserve_exact(bytes as usize);
        // Somebody has cleaned up.
        let opened = File::open(self.file_path(file)).inspect_err(|_| self.forget(file))?;
        // One byte more than there should be tells a file that has grown.
        Read::by_ref(&mut &opened).take(bytes + 1).read_to_end(content)?;
        // The order of use survives in the files' times; where the system refuses, it is lost.
        let _ = opened.set_modified(SystemTime::now());
        self.forget(file);
        self.insert(*file, bytes);
        Ok(())
    }

    /// Overwrites and removes a page's file.
    pub fn remove(&mut self, file: &FileId) {
        self.forget(file);
        let path = self.file_path(file);
        // Whoever is killed in the middle leaves a fragment, not a page of zeros.
        let fragment = path.with_extension(FRAGMENT);
        if let Err(error) = fs::rename(&path, &fragment).and_then(|()| erase(&fragment)) {
            tracing::warn!(%error, "cannot remove a page from the prefix store");
        }
    }

    /// Makes room for so many bytes.
    fn shrink(&mut self, needed: u64) -> Vec<FileId> {
        let mut removed = Vec::new();
        while self.bytes.saturating_add(needed) > self.bytes_max {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            self.remove(&oldest);
            removed.push(oldest);
        }
        removed
    }

    fn insert(&mut self, file: FileId, bytes: u64) {
        let used = self.next_use;
        self.next_use += 1;
        self.entries.insert(file, Entry { bytes, used });
        self.by_use.insert(used, file);
        self.bytes += bytes;
    }

    fn forget(&mut self, file: &FileId) {
        if let Some(Entry { bytes, used }) = self.entries.remove(file) {
            self.by_use.remove(&used);
            self.bytes -= bytes;
        }
    }

    fn file_path(&self, file: &FileId) -> PathBuf {
        self.path.join(hex(&file.model)).join(hex(&file.hash.0)).with_extension(EXTENSION)
    }
}

/// Takes the lock, or waits a little for whoever is just about to let go of it: a process that ends, or
/// one forked from this one that has not begun its own program yet.
fn lock_soon(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            result => return result,
        }
    }
    lock.try_lock()
}

/// Creates a folder that only its owner may look into.
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn write_fragment(path: &Path, parts: [&[u8]; 2]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

/// Overwrites a file with zeros, waits until they are on the disk, and removes it.
fn erase(path: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(length), &mut file)?;
    file.sync_data()?;
    fs::remove_file(path)
}

/// The pages in a folder with their sizes, the least recently used first. Erases fragments; leaves
/// alone what it does not know.
fn scan(path: &Path) -> io::Result<Vec<(FileId, u64)>> {
    let mut found = Vec::new();
    for model in fs::read_dir(path)? {
        let model = model?.path();
        let Some(name) = model.file_name().and_then(|name| unhex(name.to_str()?)) else { continue };
        for file in fs::read_dir(&model)? {
            let file = file?;
            let path = file.path();
            let Some(hash) = path.file_stem().and_then(|stem| unhex(stem.to_str()?)) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(EXTENSION) => {
                    let metadata = file.metadata()?;
                    let id = FileId { model: name, hash: ChainHash(hash) };
                    found.push((metadata.modified()?, id, metadata.len()));
                }
                Some(FRAGMENT) => erase(&path)?,
                _ => {}
            }
        }
    }
    found.sort_by_key(|&(modified, file, _)| (modified, file.hash));
    Ok(found.into_iter().map(|(_, file, bytes)| (file, bytes)).collect())
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes that 64 hexadecimal digits stand for.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(byte: u8) -> FileId {
        FileId { model: [byte / 10; 32], hash: ChainHash([byte; 32]) }
    }

    fn open(path: &Path, bytes_max: u64) -> StoreFolder {
        StoreFolder::open(path, bytes_max).unwrap()
    }

    fn write(folder: &mut StoreFolder, byte: u8, length: usize) -> Vec<FileId> {
        folder.write(file(byte), [&[byte], &vec![byte; length - 1]]).unwrap()
    }

    fn read(folder: &mut StoreFolder, byte: u8) -> io::Result<Vec<u8>> {
        let mut content = b"what was there before".to_vec();
        folder.read(&file(byte), &mut content).map(|()| content)
    }

    #[test]
    fn keeps_the_most_recently_used_within_its_bound_across_restarts() {
        let temporary = tempfile::tempdir().unwrap();
        let mut folder = open(temporary.path(), 100);
        for byte in [11, 12, 21] {
            assert_eq!(write(&mut folder, byte, 30), []);
        }
        assert_eq!(read(&mut folder, 11).unwrap(), [11; 30]);
        assert_eq!(write(&mut folder, 22, 40), [file(12)], "used least recently");
        assert_eq!((folder.bytes(), folder.pages()), (100, 3));
        assert!(read(&mut folder, 12).is_err());
        // The same page again takes no more room.
        write(&mut folder, 22, 40);
        assert_eq!(folder.bytes(), 100);
        assert!(folder.write(file(13), [&[0; 60], &[0; 60]]).is_err());

        drop(folder);
        let mut folder = open(temporary.path(), 100);
        assert_eq!((folder.bytes(), folder.pages()), (100, 3));
        assert_eq!(folder.pages_of(&[1; 32]), [ChainHash([11; 32])]);
        assert_eq!(read(&mut folder, 22).unwrap(), [22; 40]);
        drop(folder);
        assert_eq!(open(temporary.path(), 50).bytes(), 40, "a smaller bound counts at once");
    }

    #[test]
    fn one_process_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = open(temporary.path(), 100);
        let error = StoreFolder::open(temporary.path(), 100).unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
        drop(folder);
        open(temporary.path(), 100);
    }

    #[test]
    fn removes_fragments_and_leaves_strangers_alone() {
        let temporary = tempfile::tempdir().unwrap();
        write(&mut open(temporary.path(), 100), 11, 30);
        let model = temporary.path().join(hex(&[1; 32]));
        let fragment = model.join(hex(&[9; 32])).with_extension(FRAGMENT);
        let strangers = [temporary.path().join("notes.txt"), model.join("x.kv"), model.join("y.part")];
        for path in strangers.iter().chain([&fragment]) {
            fs::write(path, "text").unwrap();
        }
        assert_eq!(open(temporary.path(), 100).pages(), 1);
        assert!(!fragment.exists() && strangers.iter().all(|path| path.exists()));
    }

    #[test]
    fn what_is_erased_was_overwritten() {
        let temporary = tempfile::tempdir().unwrap();
        let mut folder = open(temporary.path(), 100);
        write(&mut folder, 11, 30);
        // A second name for the same bytes shows what became of them.
        let witness = temporary.path().join("witness");
        fs::hard_link(folder.file_path(&file(11)), &witness).unwrap();
        folder.remove(&file(11));
        assert_eq!(fs::read(&witness).unwrap(), [0; 30]);
        assert_eq!((folder.bytes(), folder.pages()), (0, 0));
    }
}
