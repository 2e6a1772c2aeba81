//! The directory at the beginning of a file: which matrix is where.
//!
//! Magic, version, length of the directory, the key the file was written for, then for each matrix its
//! name, place and checksum, and at the end a SHA-256 of all that. Matrices follow, codes and scales of
//! each one after the other, from multiples of 64 bytes on. Numbers are little-endian.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::files::gguf::cursor::{Cursor, Reason};

/// Of this form of file. What the matrices' bytes mean has a version of its own, which the key names.
pub const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"JANUSPKD";
/// Magic, version, length, key, number of matrices.
const FIXED_BYTES: usize = 8 + 4 + 4 + 32 + 4;
const DIGEST_BYTES: usize = 32;
/// Of one matrix, besides its name.
const PLACE_BYTES: usize = 2 + 3 * 8 + 16;
/// No model has so many matrices.
const HEADER_BYTES_MAX: usize = 16 << 20;
/// Where matrices begin.
const ALIGNMENT: u64 = 64;

/// Where a matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub at: usize,
    /// Bytes of codes, and of the scales right behind them.
    pub codes: usize,
    pub scales: usize,
    /// XXH3 of both: it finds damage, at the speed of memory.
    pub checksum: u128,
}

/// A directory that was checked against its file.
#[derive(Debug)]
pub struct Header {
    pub places: HashMap<String, Place>,
}

impl Header {
    /// # Errors
    /// Why this is not a file written for `key`.
    pub fn parse(file: &[u8], key: &[u8; 32]) -> Result<Header, Reason> {
        let mut cursor = Cursor::new(file, "the file");
        if cursor.array::<8>()? != *MAGIC || cursor.u32()? != VERSION {
            return Err("it is not a file of packed weights of this version".into());
        }
        let length = cursor.u32()? as usize;
        let lengths = FIXED_BYTES + DIGEST_BYTES..=HEADER_BYTES_MAX.min(file.len());
        if !lengths.contains(&length) {
            return Err(format!("a directory of {length} bytes"));
        }
        let (content, digest) = file[..length].split_at(length - DIGEST_BYTES);
        if Sha256::digest(content)[..] != *digest {
            return Err("its directory is damaged".into());
        }
        let mut cursor = Cursor::new(content, "the directory");
        cursor.skip(FIXED_BYTES - 4 - key.len())?;
        if cursor.array::<32>()? != *key {
            return Err("it was written for another model".into());
        }
        let mut places = HashMap::new();
        let mut end = length;
        for _ in 0..cursor.u32()? {
            let (name, place) = read_place(&mut cursor, content)?;
            end = end.max(check_place(place, length, file.len())?);
            places.insert(name, place);
        }
        if cursor.remaining() > 0 || end != file.len() {
            return Err(format!("it has {} bytes where its directory says {end}", file.len()));
        }
        Ok(Header { places })
    }
}

fn read_place(cursor: &mut Cursor<'_>, content: &[u8]) -> Result<(String, Place), Reason> {
    let length = u16::from_le_bytes(cursor.array()?);
    let name = cursor.skip(length.into())?;
    let name = std::str::from_utf8(&content[name]).map_err(|_| "a name that is no text")?;
    let (at, codes, scales) = (cursor.length()?, cursor.length()?, cursor.length()?);
    Ok((name.to_owned(), Place { at, codes, scales, checksum: u128::from_le_bytes(cursor.array()?) }))
}

/// Where a matrix ends.
fn check_place(place: Place, header: usize, file: usize) -> Result<usize, Reason> {
    let end = place.at.checked_add(place.codes).and_then(|middle| middle.checked_add(place.scales));
    match end {
        Some(end) if place.at >= header && end <= file => Ok(end),
        _ => Err("a matrix outside of the file".into()),
    }
}

/// Lengths of the directory of a file, and where its matrices go, before their checksums are known.
pub struct Plan {
    header_bytes: u64,
    /// Of each matrix.
    pub starts: Vec<u64>,
}

impl Plan {
    /// For matrices with these names and bytes of codes and scales. `None` when a name is too long, or
    /// there are too many.
    pub fn new<'a>(matrices: impl Iterator<Item = (&'a str, u64)>) -> Option<Plan> {
        let matrices: Vec<(&str, u64)> = matrices.collect();
        let names: usize = matrices.iter().map(|(name, _)| PLACE_BYTES + name.len()).sum();
        let header_bytes = FIXED_BYTES + names + DIGEST_BYTES;
        let named = matrices.iter().all(|(name, _)| u16::try_from(name.len()).is_ok());
        if !named || header_bytes > HEADER_BYTES_MAX {
            return None;
        }
        let mut end = header_bytes as u64;
        let mut place = |bytes: u64| {
            let start = end.next_multiple_of(ALIGNMENT);
            end = start + bytes;
            start
        };
        let starts = matrices.iter().map(|&(_, bytes)| place(bytes)).collect();
        Some(Plan { header_bytes: header_bytes as u64, starts })
    }

    /// The directory, for matrices in the order of [`Plan::new`].
    pub fn header<'a>(&self, key: &[u8; 32], matrices: impl Iterator<Item = (&'a str, Place)>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.header_bytes as usize);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((self.header_bytes as u32).to_le_bytes());
        bytes.extend(key);
        bytes.extend((self.starts.len() as u32).to_le_bytes());
        for (name, place) in matrices {
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
            for number in [place.at, place.codes, place.scales] {
                bytes.extend((number as u64).to_le_bytes());
            }
            bytes.extend(place.checksum.to_le_bytes());
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend(&digest[..]);
        bytes
    }
}
