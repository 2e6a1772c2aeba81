//! Packed weights on disk: what one process packed, the next one maps.
//!
//! A file has all matrices of one model, and is found by a name made of what its bytes depend on: the
//! version of the layout, what identifies the model's files (lengths, samples of their content), and where
//! and when they were last written. Each matrix is checked against its checksum as it is mapped, so
//! whatever the disk did to a file, weights are those that were packed or are packed again. Who can write
//! to the folder as this user is trusted as with the program itself; files of others are not read.
//!
//! | file | what is in it |
//! |---|---|
//! | `header.rs` | a file's directory, to bytes and back |
//! | `folder.rs` | files, their bound, who may write |
//! | `writer.rs` | from packed memory to a file, beside running work |

mod folder;
mod header;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kernels::{Linear, MappedBytes, Mapping};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_128;

use self::folder::PackedFolder;
use self::header::{Header, Place};
use self::writer::Part;
pub use self::writer::{Pace, PackedWriter};

/// Where, how much, and from what size on.
#[derive(Clone, Debug)]
pub struct PackedOptions {
    pub folder: PathBuf,
    /// All files together; the least recently used go first.
    pub bytes_max: u64,
    /// Models with fewer bytes of packed weights are packed as quickly as they are found.
    pub model_bytes_min: u64,
}

impl PackedOptions {
    /// Below this, packing takes less time than anybody notices.
    pub const MODEL_BYTES_MIN: u64 = 192 << 20;
}

/// A folder of packed weights. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PackedCache {
    folder: Arc<PackedFolder>,
}

impl PackedCache {
    /// Touches nothing yet: a folder that cannot be used is one without files.
    pub fn new(options: PackedOptions) -> PackedCache {
        PackedCache { folder: Arc::new(PackedFolder::new(options)) }
    }

    /// What the folder has of a model: `source` and `layout` are all that its bytes depend on.
    pub(crate) fn open(&self, source: [[u8; 32]; 2], layout: u32) -> PackedModel {
        let key = key(source, layout);
        let found = self.folder.open(&key).map(|(file, path)| PackedFile::read(&file, &path, &key));
        let (found, is_bad) = match found {
            Some(Ok(found)) => (Some(found), false),
            Some(Err(reason)) => {
                self.folder.warn(&key, &reason);
                (None, true)
            }
            None => (None, false),
        };
        PackedModel {
            folder: Arc::clone(&self.folder),
            key,
            found,
            is_bad: AtomicBool::new(is_bad),
            is_incomplete: AtomicBool::new(false),
            parts: Mutex::default(),
        }
    }
}

/// Names what the bytes of a file depend on.
fn key(source: [[u8; 32]; 2], layout: u32) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"packed weights");
    hasher.update(header::VERSION.to_le_bytes());
    hasher.update(layout.to_le_bytes());
    source.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// The packed weights of a model that is being loaded: those that were found, and all of them for who
/// comes next. Shared by the threads that load.
pub struct PackedModel {
    folder: Arc<PackedFolder>,
    key: [u8; 32],
    found: Option<PackedFile>,
    /// There is a file that is not what it should be.
    is_bad: AtomicBool,
    /// Something had to be packed.
    is_incomplete: AtomicBool,
    parts: Mutex<Vec<Part>>,
}

/// A mapped file whose directory was checked.
struct PackedFile {
    mapping: Mapping,
    header: Header,
}

impl PackedFile {
    /// # Errors
    /// Why it is not the file of `key`.
    fn read(file: &File, path: &Path, key: &[u8; 32]) -> Result<PackedFile, String> {
        let mapping = Mapping::of_file(file, path).map_err(|error| error.to_string())?;
        mapping.advise_huge_pages();
        Header::parse(&mapping, key).map(|header| PackedFile { mapping, header })
    }
}

impl PackedModel {
    /// Codes and scales of the matrix called `id`, if they are there and sound.
    pub fn find(&self, id: &str) -> Option<[MappedBytes; 2]> {
        let PackedFile { mapping, header } = self.found.as_ref()?;
        let place = header.places.get(id).copied();
        let found = place.and_then(|place| sound(mapping, place));
        if found.is_none() && !self.is_bad.swap(true, Ordering::Relaxed) {
            self.folder.warn(&self.key, &format!("`{id}` is missing or damaged"));
        }
        found
    }

    /// What [`PackedModel::find`] gave is not what its name says.
    pub fn refuse(&self, id: &str) {
        self.is_bad.store(true, Ordering::Relaxed);
        self.folder.warn(&self.key, &format!("`{id}` has other lengths than it should"));
    }

    /// Notes a matrix of the model, and whether it was found.
    pub fn note(&self, id: String, linear: &Linear, found: bool) {
        if !found {
            self.is_incomplete.store(true, Ordering::Relaxed);
        }
        let [codes, scales] = linear.packed().map(kernels::SharedBytes::downgrade);
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(Part { id, codes, scales });
    }

    /// What writes the model's file, where the next start would be faster by it. A file that is not what it
    /// should be makes room.
    pub fn into_writer(self) -> Option<PackedWriter> {
        let mut parts = self.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !self.is_incomplete.into_inner() {
            return None;
        }
        if self.is_bad.into_inner() {
            self.folder.remove(&self.key);
        }
        // Threads noted them in any order; the file's is always the same.
        parts.sort_by(|a, b| a.id.cmp(&b.id));
        parts.dedup_by(|a, b| a.id == b.id);
        let bytes: u64 = parts.iter().map(Part::bytes).sum();
        let worth_it = self.folder.worth_keeping(bytes);
        worth_it.then(|| PackedWriter::new(self.folder, self.key, parts))
    }
}

/// Codes and scales, if they are what was written.
fn sound(mapping: &Mapping, Place { at, codes, scales, checksum }: Place) -> Option<[MappedBytes; 2]> {
    let middle = at.checked_add(codes)?;
    let end = middle.checked_add(scales)?;
    // Of both in one go, as they lie.
    if XxHash3_128::oneshot(mapping.get(at..end)?) != checksum {
        return None;
    }
    Some([mapping.slice(at..middle)?, mapping.slice(middle..end)?])
}
