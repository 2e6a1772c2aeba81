//! A position in a byte slice; every read is checked against the end.

use std::ops::Range;

/// Why a file was refused, for `EngineError::BadFile`.
pub type Reason = String;

pub struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    /// What ends where `bytes` ends, for messages.
    whole: &'static str,
}

impl<'a> Cursor<'a> {
    /// `whole` names what `bytes` are all of: "the file".
    pub fn new(bytes: &'a [u8], whole: &'static str) -> Cursor<'a> {
        Cursor { bytes, position: 0, whole }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Passes over `length` bytes and returns where they are.
    pub fn skip(&mut self, length: usize) -> Result<Range<usize>, Reason> {
        if length > self.remaining() {
            return Err(self.too_short(&format!("{length} bytes")));
        }
        let start = self.position;
        self.position += length;
        Ok(start..self.position)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let range = self.skip(N)?;
        Ok(self.bytes[range].try_into().expect("the range has N bytes"))
    }

    pub fn u32(&mut self) -> Result<u32, Reason> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Reason> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 64-bit count or length, as far as this machine can address.
    pub fn length(&mut self) -> Result<usize, Reason> {
        let length = self.u64()?;
        usize::try_from(length).map_err(|_| format!("length {length} is larger than any file"))
    }

    /// A count of at most `limit` things named `what`, each at least `bytes_each` bytes of this file:
    /// checked before anyone allocates for them.
    pub fn count(&mut self, what: &str, bytes_each: usize, limit: usize) -> Result<usize, Reason> {
        let count = self.length()?;
        if count > limit {
            return Err(format!("{count} {what} are announced, more than the {limit} allowed"));
        }
        match count.checked_mul(bytes_each) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(self.too_short(&format!("{count} {what}"))),
        }
    }

    fn too_short(&self, announced: &str) -> Reason {
        let (position, left, whole) = (self.position, self.remaining(), self.whole);
        format!("{announced} are announced at byte {position}, but only {left} bytes are left of {whole}")
    }

    /// A length and that many bytes of UTF-8, at most `limit`.
    pub fn text(&mut self, what: &str, limit: usize) -> Result<&'a str, Reason> {
        let range = self.text_range(what, limit)?;
        Ok(std::str::from_utf8(&self.bytes[range]).expect("text_range checks UTF-8"))
    }

    /// Like [`Cursor::text`], returning where the text is.
    pub fn text_range(&mut self, what: &str, limit: usize) -> Result<Range<usize>, Reason> {
        let length = self.length()?;
        if length > limit {
            return Err(format!("{what} of {length} bytes, more than the {limit} allowed"));
        }
        let range = self.skip(length)?;
        match std::str::from_utf8(&self.bytes[range.clone()]) {
            Ok(_) => Ok(range),
            Err(_) => Err(format!("{what} at byte {} is not UTF-8", range.start)),
        }
    }
}
