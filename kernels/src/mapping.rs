//! Read-only memory maps of weight files, shared by reference count.

use std::fs::{File, Metadata};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::KernelError;
use crate::memory::SharedBytes;

/// A whole file, mapped read-only. Cloning shares the map; the last clone unmaps it.
#[derive(Clone)]
pub struct Mapping {
    inner: Arc<Inner>,
}

struct Inner {
    map: memmap2::Mmap,
    path: PathBuf,
    metadata: Option<Metadata>,
}

impl Mapping {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> Result<Mapping, KernelError> {
        let file = File::open(path)
            .map_err(|source| KernelError::Map { path: path.display().to_string(), source })?;
        Mapping::of_file(&file, path)
    }

    /// Maps an opened file; `path` is for messages.
    pub fn of_file(file: &File, path: &Path) -> Result<Mapping, KernelError> {
        let failed = |source| KernelError::Map { path: path.display().to_string(), source };
        // SAFETY: the map is read-only. Another process that truncates the file while it
        // is mapped raises SIGBUS, as in every program that maps its inputs; the model store only
        // ever replaces files by rename, which leaves the mapped inode whole.
        let map = unsafe { memmap2::Mmap::map(file) }.map_err(failed)?;
        let metadata = file.metadata().ok();
        Ok(Mapping { inner: Arc::new(Inner { map, path: path.to_owned(), metadata }) })
    }

    /// Where the file was when it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// What the system said of the file that was mapped, whatever has its path by now; `None` where it said
    /// nothing.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.inner.metadata.as_ref()
    }

    /// Asks for huge pages, where the system has them for files: for what is read as a whole, again and
    /// again.
    pub fn advise_huge_pages(&self) {
        // A system without them refuses the advice, which changes nothing but speed.
        #[cfg(target_os = "linux")]
        let _ = self.inner.map.advise(memmap2::Advice::HugePage);
    }

    /// A part of the file that keeps the map alive; `None` when `range` leaves the file.
    pub fn slice(&self, range: Range<usize>) -> Option<MappedBytes> {
        self.inner.map.get(range.clone())?;
        Some(MappedBytes { mapping: self.clone(), range })
    }
}

impl Deref for Mapping {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.inner.map
    }
}

/// Bytes of a [`Mapping`]; derefs to `[u8]`.
#[derive(Clone)]
pub struct MappedBytes {
    mapping: Mapping,
    range: Range<usize>,
}

impl MappedBytes {
    /// The same bytes, as packed weights are held.
    pub(crate) fn share(self) -> SharedBytes {
        let bytes: *const [u8] = &*self;
        // SAFETY: the map holds the bytes and is read-only; see `Mapping::of_file` for its file.
        unsafe { SharedBytes::new(self.mapping.inner, bytes) }
    }

    /// Tells the system that these bytes are not needed for now, so that weights which were packed do not
    /// stay resident twice. They can still be read; the file is then asked again.
    pub fn release(&self) {
        let page = page_bytes();
        let start = self.range.start.next_multiple_of(page);
        let end = self.range.end / page * page;
        if start < end {
            // Advice: a failure changes nothing but memory use.
            // SAFETY: a shared, read-only file map has no private changes that could be dropped; a later
            // read faults the same bytes in again.
            let _ = unsafe {
                self.mapping.inner.map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    start,
                    end - start,
                )
            };
        }
    }
}

/// Bytes of a page: 4 KiB on most machines, up to 64 KiB on aarch64.
fn page_bytes() -> usize {
    // SAFETY: sysconf only returns a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

impl Deref for MappedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.mapping.inner.map[self.range.clone()]
    }
}

// On aarch64 these run in an emulator, whose own memory is what the system describes.
#[cfg(test)]
#[cfg(all(target_os = "linux", not(target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// KiB of the map that holds `address` that are in memory, from `/proc/self/smaps`.
    fn resident_kib(address: usize) -> usize {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut holds = false;
        for line in text.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let bounds = range.map(|(from, to)| [from, to].map(|hex| usize::from_str_radix(hex, 16)));
            if let Some([Ok(from), Ok(to)]) = bounds {
                holds = (from..to).contains(&address);
            } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| holds) {
                return rss.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("{address:x} is in no map");
    }

    #[test]
    fn released_bytes_leave_memory_and_can_be_read_again() {
        const MIB: usize = 1 << 20;
        let path = std::env::temp_dir().join(format!("janus-mapping-{}", std::process::id()));
        std::fs::write(&path, (0..8 * MIB).map(|place| (place / 4096) as u8).collect::<Vec<_>>()).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let sum = || mapping.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>();
        let (expected, address) = (sum(), mapping.as_ptr() as usize);
        assert_eq!(resident_kib(address), 8 << 10, "all was read");
        // From and to the middle of a page: what is shared with a neighbour stays.
        mapping.slice(2 * MIB + 100..6 * MIB + 100).unwrap().release();
        let left = resident_kib(address);
        assert!((4 << 10..=(4 << 10) + 128).contains(&left), "{left} KiB are left");
        assert_eq!(sum(), expected);
    }
}
