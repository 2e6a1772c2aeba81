//! Memory of packed weights: zeroed, cut from large anonymous maps, and shared once it is filled.
//!
//! Maps come from the system page by page as they are first written, by whichever thread packs there, and
//! in huge pages where the system gives them: a step reads all weights once, and with small pages it also
//! reads an address translation for each 4 KiB of them.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::{Advice, MmapMut};

use crate::KernelError;

/// Smaller pieces share a map of this size; what is not used of it is never backed by memory.
const SLAB_BYTES: usize = 64 << 20;
/// Where pieces begin: a cache line, and the widest register.
const ALIGNMENT: usize = 64;

/// Hands out pieces of memory; they live as long as anyone holds one of their slab.
#[derive(Default)]
pub struct Arena {
    current: Mutex<Option<Slab>>,
}

struct Slab {
    map: Arc<SlabMap>,
    used: usize,
}

/// A map that only the holders of its pieces write to, each to its own.
struct SlabMap {
    map: MmapMut,
    start: *mut u8,
}

// SAFETY: `start` points into `map`, which moves with it; pieces of it are disjoint, and each is written
// only through a unique reference to the piece.
unsafe impl Send for SlabMap {}
// SAFETY: as above.
unsafe impl Sync for SlabMap {}

impl Arena {
    /// `length` zeroed bytes.
    ///
    /// # Errors
    /// `OutOfMemory` when the system has no room for them.
    pub fn zeroed(&self, length: usize) -> Result<Piece, KernelError> {
        let whole = length.next_multiple_of(ALIGNMENT);
        if whole > SLAB_BYTES / 2 {
            return Ok(Slab::new(whole)?.take(length));
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let slab = match &mut *current {
            Some(slab) if slab.left() >= whole => slab,
            full => full.insert(Slab::new(SLAB_BYTES)?),
        };
        Ok(slab.take(length))
    }
}

impl Slab {
    fn new(length: usize) -> Result<Slab, KernelError> {
        let mut map =
            MmapMut::map_anon(length.max(1)).map_err(|_| KernelError::OutOfMemory { bytes: length })?;
        // A system without huge pages refuses the advice, which changes nothing but speed.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        let start = map.as_mut_ptr();
        Ok(Slab { map: Arc::new(SlabMap { map, start }), used: 0 })
    }

    fn left(&self) -> usize {
        self.map.map.len() - self.used
    }

    fn take(&mut self, length: usize) -> Piece {
        assert!(self.left() >= length, "a slab is asked only for what it has left");
        // SAFETY: `used` lies within the map, checked above.
        let start = unsafe { self.map.start.add(self.used) };
        self.used = (self.used + length.next_multiple_of(ALIGNMENT)).min(self.map.map.len());
        Piece { slab: self.map.clone(), start, length }
    }
}

/// Bytes that begin at a multiple of 64, zero until written.
pub struct Piece {
    slab: Arc<SlabMap>,
    start: *mut u8,
    length: usize,
}

// SAFETY: a piece is plain bytes that nothing else points to; its slab may be dropped on any thread.
unsafe impl Send for Piece {}
// SAFETY: shared references only read.
unsafe impl Sync for Piece {}

impl Deref for Piece {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `length` initialised bytes at `start` belong to this piece alone, and the slab that holds
        // them lives as long as it.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the unique reference to the piece is one to its bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Piece {
    /// The same bytes, which nobody changes any more.
    pub fn freeze(self) -> SharedBytes {
        let bytes: *const [u8] = &*self;
        // SAFETY: the slab holds the bytes, and the only reference that could write them ends here.
        unsafe { SharedBytes::new(self.slab, bytes) }
    }
}

/// Bytes that do not change, shared by reference count: of a filled [`Piece`], or of a mapped file.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn Send + Sync>,
    bytes: *const [u8],
}

// SAFETY: the bytes are only read, and their owner may be dropped on any thread.
unsafe impl Send for SharedBytes {}
// SAFETY: as above.
unsafe impl Sync for SharedBytes {}

impl SharedBytes {
    /// # Safety
    /// `bytes` are initialised, and neither freed nor written as long as `owner` lives.
    pub(crate) unsafe fn new(owner: Arc<dyn Send + Sync>, bytes: *const [u8]) -> SharedBytes {
        SharedBytes { owner, bytes }
    }

    /// Whether they begin where the widest register loads fastest.
    pub(crate) fn is_aligned(&self) -> bool {
        self.bytes.cast::<u8>().addr().is_multiple_of(ALIGNMENT)
    }

    /// A way to the bytes for as long as others keep them.
    pub fn downgrade(&self) -> WeakBytes {
        WeakBytes { owner: Arc::downgrade(&self.owner), bytes: self.bytes }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: what `new` asks for, and `owner` lives.
        unsafe { &*self.bytes }
    }
}

/// [`SharedBytes`] that do not keep their memory alive.
pub struct WeakBytes {
    owner: Weak<dyn Send + Sync>,
    bytes: *const [u8],
}

// SAFETY: as for `SharedBytes`; the pointer is only used once the owner is held.
unsafe impl Send for WeakBytes {}
// SAFETY: as above.
unsafe impl Sync for WeakBytes {}

impl WeakBytes {
    /// The bytes, unless they are gone.
    pub fn upgrade(&self) -> Option<SharedBytes> {
        Some(SharedBytes { owner: self.owner.upgrade()?, bytes: self.bytes })
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_pieces_stay_until_the_last_holder_of_their_slab_is_gone() {
        let arena = Arena::default();
        let mut piece = arena.zeroed(100).unwrap();
        piece.fill(7);
        let shared = piece.freeze();
        let (other, weak) = (shared.clone(), shared.downgrade());
        assert!(shared.is_aligned() && weak.len() == 100);
        drop((arena, shared));
        assert_eq!(*other, [7; 100]);
        assert_eq!(*weak.upgrade().unwrap(), [7; 100]);
        drop(other);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn pieces_are_zeroed_aligned_and_apart() {
        let arena = Arena::default();
        let lengths = [0, 1, 63, 64, 65, 4096, SLAB_BYTES / 2, SLAB_BYTES / 2 - 100, SLAB_BYTES / 2 + 1, 7];
        let mut pieces: Vec<Piece> = Vec::new();
        for (number, length) in (1..).zip(lengths) {
            let mut piece = arena.zeroed(length).unwrap();
            assert_eq!((piece.len(), piece.as_ptr() as usize % ALIGNMENT), (length, 0));
            assert!(piece.iter().all(|&byte| byte == 0), "{length}");
            piece.fill(number);
            pieces.push(piece);
        }
        drop(arena);
        for (number, piece) in (1..).zip(&pieces) {
            assert!(piece.iter().all(|&byte| byte == number), "piece {number}");
        }
    }
}
