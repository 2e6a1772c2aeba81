//! A file that is on this machine already: copied, so that the store owns what it serves.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::super::partial::Partial;
use super::super::report::Report;
use super::super::size;
use super::super::{FileEntry, ModelEntry};
use super::SourceError;

const BUFFER_BYTES: usize = 256 * 1024;

/// Where `file` lies below `from`: `from` itself for a model of one file, or in that folder.
pub fn place(from: &Path, model: &ModelEntry, file: &FileEntry) -> PathBuf {
    if model.files.len() == 1 && from.is_file() { from.to_owned() } else { from.join(&file.path) }
}

/// Appends what is missing of `part` from the file at `path`.
pub fn fetch(path: &Path, part: &mut Partial<'_>, report: &dyn Report) -> Result<(), SourceError> {
    let refused = |error: std::io::Error| SourceError::Refused(error.to_string());
    let mut file = File::open(path).map_err(refused)?;
    let length = file.metadata().map_err(refused)?.len();
    if length != part.entry().bytes {
        let (found, wanted) = (size(length), size(part.entry().bytes));
        return Err(SourceError::Refused(format!("has another size ({found}, not {wanted})")));
    }
    file.seek(SeekFrom::Start(part.bytes())).map_err(refused)?;
    report.start(&part.entry().path, part.entry().bytes, part.bytes());
    let copied = copy(file, part, report);
    report.end();
    copied
}

/// Appends from `reader` until `part` is complete or the reader ends.
pub fn copy(mut reader: impl Read, part: &mut Partial<'_>, report: &dyn Report) -> Result<(), SourceError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) if part.append(&buffer[..read])? => report.at(part.bytes()),
            Ok(_) => return Err(SourceError::Refused("holds more than the file may".into())),
            Err(error) => return Err(SourceError::Refused(error.to_string())),
        }
    }
}
