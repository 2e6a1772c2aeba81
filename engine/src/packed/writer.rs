//! Writes a model's packed weights from the memory they are used in, a little at a time, on a thread that
//! lets all others go first. It holds no memory of the model's: one that is unloaded meanwhile is gone at
//! once, and its file is not written.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::WeakBytes;
use twox_hash::XxHash3_128;

use super::folder::PackedFolder;
use super::header::{Place, Plan};

/// Written at a time: a multiple of the largest pages, in which the system then keeps the file.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes that may wait to get to the disk.
const UNSYNCED_BYTES: u64 = 64 << 20;
/// The first requests come before.
const DELAY: Duration = Duration::from_secs(2);

/// A matrix to write.
pub struct Part {
    pub id: String,
    pub codes: WeakBytes,
    pub scales: WeakBytes,
}

impl Part {
    pub fn bytes(&self) -> u64 {
        self.codes.len() as u64 + self.scales.len() as u64
    }
}

/// How much of a core, and of the memory's bandwidth, writing takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    Full,
    /// A quarter.
    Aside,
}

/// The packed weights of a loaded model, to be written.
pub struct PackedWriter {
    folder: Arc<PackedFolder>,
    key: [u8; 32],
    parts: Vec<Part>,
}

impl PackedWriter {
    pub(super) fn new(folder: Arc<PackedFolder>, key: [u8; 32], parts: Vec<Part>) -> PackedWriter {
        PackedWriter { folder, key, parts }
    }

    /// Writes on a thread of its own, which nobody waits for. A failure is a warning in the log.
    pub fn start(self) {
        let run = move || {
            kernels::host::yield_to_others();
            std::thread::sleep(DELAY);
            let begun = Instant::now();
            match self.write(Pace::Aside) {
                Ok(true) => {
                    let took_ms = begun.elapsed().as_millis() as u64;
                    tracing::info!(took_ms, "packed weights are kept for the next start");
                }
                Ok(false) => {}
                Err(error) => {
                    let path = self.folder.file_path(&self.key);
                    tracing::warn!(path = %path.display(), %error, "cannot keep packed weights; see models.packed_folder");
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("packed writer".to_owned()).spawn(run) {
            tracing::warn!(%error, "cannot keep packed weights");
        }
    }

    /// Writes the file and returns whether it did: not when it is there already, or the model is gone.
    ///
    /// # Errors
    /// As the file system says.
    pub fn write(&self, pace: Pace) -> io::Result<bool> {
        let matrices = self.parts.iter().map(|part| (part.id.as_str(), part.bytes()));
        let Some(plan) = Plan::new(matrices) else { return Ok(false) };
        let turn = self.folder.take_turn()?;
        if self.folder.contains(&self.key) {
            return Ok(false);
        }
        let bytes = plan.starts.last().copied().unwrap_or(0) + self.parts.last().map_or(0, Part::bytes);
        let written = self.folder.write(&turn, &self.key, bytes, |file| self.write_file(file, &plan, pace));
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// `Interrupted` when the model is gone.
    fn write_file(&self, file: &File, plan: &Plan, pace: Pace) -> io::Result<()> {
        let mut output = Chunks { file, chunk: Vec::with_capacity(CHUNK_BYTES), at: 0, unsynced: 0, pace };
        let mut places = Vec::with_capacity(self.parts.len());
        for (part, &start) in self.parts.iter().zip(&plan.starts) {
            output.fill_up_to(start)?;
            let gone = || io::Error::from(io::ErrorKind::Interrupted);
            let codes = part.codes.upgrade().ok_or_else(gone)?;
            let scales = part.scales.upgrade().ok_or_else(gone)?;
            output.add(&codes)?;
            output.add(&scales)?;
            let mut hasher = XxHash3_128::new();
            hasher.write(&codes);
            hasher.write(&scales);
            let checksum = hasher.finish_128();
            places.push(Place { at: start as usize, codes: codes.len(), scales: scales.len(), checksum });
        }
        output.flush()?;
        // Last: whoever reads a file without it takes it for none.
        let named = self.parts.iter().map(|part| part.id.as_str()).zip(places);
        let mut file = file;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&plan.header(&self.key, named))
    }
}

/// Gathers what is written to whole chunks.
struct Chunks<'a> {
    file: &'a File,
    chunk: Vec<u8>,
    /// Where the next byte goes.
    at: u64,
    unsynced: u64,
    pace: Pace,
}

impl Chunks<'_> {
    fn fill_up_to(&mut self, start: u64) -> io::Result<()> {
        while self.at < start {
            let length = (start - self.at).min(CHUNK_BYTES as u64) as usize;
            self.add(&vec![0; length])?;
        }
        Ok(())
    }

    fn add(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            self.at += now.len() as u64;
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let mut file = self.file;
        file.write_all(&self.chunk)?;
        self.unsynced += self.chunk.len() as u64;
        self.chunk.clear();
        if self.unsynced >= UNSYNCED_BYTES {
            self.unsynced = 0;
            // Or the system would write all of it at once, later, in everybody's way.
            file.sync_data()?;
        }
        if self.pace == Pace::Aside {
            std::thread::sleep(3 * begun.elapsed());
        }
        Ok(())
    }
}
