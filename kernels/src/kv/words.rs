//! Words that begin on a cache line, so that no register's load crosses one.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// A fixed number of 32-bit words. Zeros come untouched from the system, which an allocation with an
/// alignment of its own would not.
#[derive(Default)]
pub(crate) struct AlignedWords {
    words: Vec<u32>,
    start: usize,
    length: usize,
}

impl AlignedWords {
    pub fn zeroed(length: usize) -> AlignedWords {
        let words = vec![0; length + LINE_BYTES / size_of::<u32>()];
        let start = words.as_ptr().addr().wrapping_neg() % LINE_BYTES / size_of::<u32>();
        AlignedWords { words, start, length }
    }

    /// The same for what is large and streamed through, in pages of 2 MiB where the system has them.
    pub fn zeroed_in_huge_pages(length: usize) -> AlignedWords {
        let mut words = AlignedWords::zeroed(length);
        crate::host::ask_for_huge_pages(&mut words.words);
        words
    }

    /// Makes room for `length` words; contents are lost when it grows.
    pub fn reserve(&mut self, length: usize) {
        if self.length < length {
            *self = AlignedWords::zeroed(length);
        }
    }
}

impl Deref for AlignedWords {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.words[self.start..][..self.length]
    }
}

impl DerefMut for AlignedWords {
    fn deref_mut(&mut self) -> &mut [u32] {
        &mut self.words[self.start..][..self.length]
    }
}
