//! The files of a store: one a page, `MODEL/HASH.kv`, bounded in bytes, the least recently used go
//! first.
//!
//! A file is written under another name, complete, and renamed: a process that is killed leaves whole
//! pages, and fragments that the next one removes. Nothing waits for the disk (no fsync): what a power
//! failure tears is found by its digest, and a cache may lose pages. The exception is removal, which
//! overwrites a file with zeros and waits until they are on the disk before the name goes.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirEntry, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::secret;
use crate::EngineError;
use crate::pages::ChainHash;
use crate::private_file;

const EXTENSION: &str = "kv";
const FRAGMENT: &str = "part";
const LOCK: &str = "lock";
/// What an earlier version left, whose pages had names that prompts could be tried against.
const EARLIER: &str = "key-mark";

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
    /// Opens or creates a folder. What is in it is known once it was scanned.
    ///
    /// # Errors
    /// `Io` when it cannot be read or written; `InvalidParameter` when another process uses it, or others
    /// than this user can.
    pub fn open(path: &Path, bytes_max: u64) -> Result<StoreFolder, EngineError> {
        let io = |source| EngineError::Io { path: path.to_owned(), source };
        private_file::create_folder(path).map_err(io)?;
        claim(path)?;
        let lock = File::options().create(true).append(true).open(path.join(LOCK)).map_err(io)?;
        match lock_soon(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = format!("{} is in use by another process; give each its own", path.display());
                return Err(EngineError::InvalidParameter { parameter: "prefix.store_dir", reason });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        Ok(StoreFolder {
            path: path.to_owned(),
            bytes_max,
            bytes: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            next_use: 0,
            _lock: lock,
        })
    }

    /// Takes in what is there, and removes fragments and what is too much. Where no page can have a name
    /// that is looked for, as they all are older than the names' secret, all are erased.
    pub fn scan(&mut self, is_secret_new: bool) {
        let earlier = self.path.join(EARLIER);
        let is_of_old = is_secret_new || earlier.exists();
        let mut found = scan(&self.path);
        if is_of_old && !found.is_empty() {
            tracing::info!(pages = found.len(), "erasing pages of an earlier version from the prefix store");
        }
        found.sort_by_key(|&(modified, file, _)| (modified, file.hash));
        for (_, file, bytes) in found {
            self.insert(file, bytes);
            if is_of_old {
                self.remove(&file);
            }
        }
        if is_of_old {
            // It may not be there, and is of no use either way.
            let _ = fs::remove_file(earlier);
        }
        self.shrink(0);
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
        create_own_folder(path.parent().expect("files stand in the folder of their model"))?;
        let written = write_fragment(&fragment, parts).and_then(|()| fs::rename(&fragment, &path));
        if let Err(error) = written {
            // Whatever is left of it is erased at the next start at the latest.
            let _ = erase(&fragment);
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
        let opened = private_file::open(&self.file_path(file)).inspect_err(|_| self.forget(file))?;
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

/// Makes sure that the folder is this user's alone. One that holds other things too is not closed to others
/// unasked.
fn claim(path: &Path) -> Result<(), EngineError> {
    let io = |source| EngineError::Io { path: path.to_owned(), source };
    let refuse = |reason: &str| {
        let reason = format!("{} {reason}", path.display());
        Err(EngineError::InvalidParameter { parameter: "prefix.store_dir", reason })
    };
    let metadata = fs::metadata(path).map_err(io)?;
    if !private_file::is_own(&metadata) {
        return refuse("belongs to another user; give a folder in it, which is then made");
    }
    if private_file::is_open_to_others(&metadata, 0o077) {
        if !holds_only_pages(path).map_err(io)? {
            return refuse(
                "is open to other users and holds other things; give a folder of its own, or chmod 700 it",
            );
        }
        private_file::close_to_others(path).map_err(io)?;
    }
    Ok(())
}

fn holds_only_pages(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_str().unwrap_or_default();
        if unhex(name).is_none() && ![LOCK, EARLIER].contains(&name) && !name.starts_with(secret::FILE) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Creates a model's folder; a link in its place is no folder.
fn create_own_folder(path: &Path) -> io::Result<()> {
    private_file::create_folder(path)?;
    if path.symlink_metadata()?.is_dir() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotADirectory, "a link stands in the place of a folder"))
}

/// Writes a file in place of what has its name.
fn write_fragment(path: &Path, parts: [&[u8]; 2]) -> io::Result<()> {
    if let Err(error) = erase(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = private_file::create_new(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

/// Overwrites a file with zeros, waits until they are on the disk, and removes it. What is no file of this
/// user's loses its name only.
fn erase(path: &Path) -> io::Result<()> {
    let is_file = path.symlink_metadata()?.is_file();
    if is_file {
        let mut file = private_file::open_to_overwrite(path)?;
        let length = file.metadata()?.len();
        io::copy(&mut io::repeat(0).take(length), &mut file)?;
        file.sync_data()?;
    }
    fs::remove_file(path)
}

/// The pages in a folder: when they were last used, which, their sizes. Erases fragments; leaves alone what
/// it does not know, and what it cannot read.
fn scan(path: &Path) -> Vec<(SystemTime, FileId, u64)> {
    let mut found = Vec::new();
    for model in entries(path) {
        let name = model.file_name().to_str().and_then(unhex);
        // What a link leads to is not this folder's.
        if let Some(name) = name.filter(|_| model.file_type().is_ok_and(|kind| kind.is_dir())) {
            entries(&model.path()).filter_map(|file| page(name, &file)).for_each(|page| found.push(page));
        }
    }
    found
}

fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = fs::read_dir(folder).inspect_err(|error| {
        tracing::warn!(folder = %folder.display(), %error, "a folder of the prefix store is left out");
    });
    entries.into_iter().flatten().map_while(Result::ok)
}

/// The page that a file of a model is; a fragment is erased.
fn page(model: [u8; 32], file: &DirEntry) -> Option<(SystemTime, FileId, u64)> {
    let path = file.path();
    let hash = unhex(path.file_stem()?.to_str()?)?;
    match path.extension()?.to_str()? {
        EXTENSION => {
            // Of the entry itself: a link is no file.
            let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((metadata.modified().ok()?, FileId { model, hash: ChainHash(hash) }, metadata.len()))
        }
        FRAGMENT => {
            if let Err(error) = erase(&path) {
                tracing::warn!(%error, "cannot remove a fragment from the prefix store");
            }
            None
        }
        _ => None,
    }
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
        let mut folder = StoreFolder::open(path, bytes_max).unwrap();
        folder.scan(false);
        folder
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
    fn what_is_left_of_a_write_is_overwritten() {
        let temporary = tempfile::tempdir().unwrap();
        let mut folder = open(temporary.path(), 100);
        write(&mut folder, 11, 30);
        let fragment = folder.file_path(&file(12)).with_extension(FRAGMENT);
        let witness = |name: &str| {
            let witness = temporary.path().join(name);
            fs::hard_link(&fragment, &witness).unwrap();
            witness
        };
        // Of an earlier write of the same page.
        fs::write(&fragment, "a prompt").unwrap();
        let before = witness("before");
        write(&mut folder, 12, 30);
        assert_eq!(fs::read(before).unwrap(), [0; 8]);
        // Of one that fails at its end: a folder stands where the page should.
        folder.remove(&file(12));
        fs::create_dir(folder.file_path(&file(12))).unwrap();
        assert!(folder.write(file(12), [b"a", b"prompt"]).is_err());
        assert!(!fragment.exists() && folder.pages() == 1);
    }

    #[test]
    fn pages_older_than_the_secret_of_names_are_erased() {
        // Whether the secret is new, whether an earlier version was here.
        for (is_new, earlier) in [(true, false), (false, true)] {
            let temporary = tempfile::tempdir().unwrap();
            let mut folder = open(temporary.path(), 100);
            write(&mut folder, 11, 30);
            let witness = temporary.path().join("witness");
            fs::hard_link(folder.file_path(&file(11)), &witness).unwrap();
            drop(folder);
            if earlier {
                fs::write(temporary.path().join(EARLIER), [1; 32]).unwrap();
            }
            let mut folder = StoreFolder::open(temporary.path(), 100).unwrap();
            folder.scan(is_new);
            assert_eq!((folder.pages(), folder.bytes()), (0, 0));
            assert_eq!(fs::read(&witness).unwrap(), [0; 30]);
            assert!(!temporary.path().join(EARLIER).exists(), "once");
        }
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_overwritten_or_read_through_a_link() {
        use std::os::unix::fs::symlink;
        let (temporary, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&mut open(temporary.path(), 100), 11, 30);
        let victim = elsewhere.path().join(hex(&[9; 32])).with_extension(FRAGMENT);
        fs::write(&victim, "precious").unwrap();
        let model = temporary.path().join(hex(&[1; 32]));
        let named = |byte: u8, extension| model.join(hex(&[byte; 32])).with_extension(extension);
        symlink(&victim, named(9, FRAGMENT)).unwrap();
        symlink(&victim, named(8, EXTENSION)).unwrap();
        symlink(&victim, named(12, FRAGMENT)).unwrap();
        // A whole folder, and a file in the place of one.
        symlink(elsewhere.path(), temporary.path().join(hex(&[7; 32]))).unwrap();
        fs::write(temporary.path().join(hex(&[6; 32])), "file").unwrap();

        let mut folder = open(temporary.path(), 100);
        assert_eq!((folder.pages(), folder.bytes()), (1, 30));
        symlink(&victim, named(12, FRAGMENT)).unwrap();
        write(&mut folder, 12, 30);
        assert_eq!(read(&mut folder, 12).unwrap(), [12; 30]);
        // Where a page was, somebody puts a link.
        fs::remove_file(named(12, EXTENSION)).unwrap();
        symlink(&victim, named(12, EXTENSION)).unwrap();
        assert!(read(&mut folder, 12).is_err());
        folder.remove(&file(11));
        fs::remove_file(named(9, FRAGMENT)).unwrap_err();
        let planted = FileId { model: [7; 32], hash: ChainHash([7; 32]) };
        assert!(folder.write(planted, [b"page", b""]).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_closed_to_others_or_refused() {
        use std::os::unix::fs::PermissionsExt;
        // Its mode, what else is in it, and what becomes of it.
        let rows = [
            (0o700, None, Some(0o700)),
            (0o700, Some("notes.txt"), Some(0o700)),
            (0o755, None, Some(0o700)),
            (0o777, Some("lock"), Some(0o700)),
            (0o755, Some("notes.txt"), None),
            (0o730, Some("notes.txt"), None),
        ];
        for (mode, other, expected) in rows {
            let temporary = tempfile::tempdir().unwrap();
            if let Some(other) = other {
                fs::write(temporary.path().join(other), "").unwrap();
            }
            fs::set_permissions(temporary.path(), PermissionsExt::from_mode(mode)).unwrap();
            let opened = StoreFolder::open(temporary.path(), 100);
            let after = fs::metadata(temporary.path()).unwrap().permissions().mode() & 0o777;
            assert_eq!(after, expected.unwrap_or(mode), "{mode:o} with {other:?}");
            match expected {
                Some(_) => assert!(opened.is_ok(), "{mode:o} with {other:?}"),
                None => {
                    let refusal = opened.unwrap_err().to_string();
                    assert!(refusal.contains("chmod 700"), "{refusal}");
                }
            }
        }
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
