//! Which pages of a model's KV cache hold what, as bare numbers; the cache itself is
//! `kernels::KvCache`.
//!
//! A page is in one of four states:
//!
//! * *owned*: sequences read it, and one may still be filling it. A full page can be *sealed* under its
//!   name ([`ChainHash`]); from then on it never changes, and any number of sequences may own it.
//! * *cached*: sealed, and owned by nobody. Whoever comes with the same tokens, and may share them, takes
//!   it over as it is. When nothing else is free, the one unused for longest goes.
//! * *dirty*: free, but it still holds its last owner's keys and values. [`PagePool::scrub`] names a few
//!   of those each step, so that freeing many pages at once does not stall the next step.
//! * *clean*: free, and zero.
//!
//! A page is zeroed before it is filled again, whoever fills it: [`PagePool::allocate`] names what it
//! hands out when it is not clean.
//!
//! | file | what is in it |
//! |---|---|
//! | `chain.rs` | names of pages |
//! | `lru.rs` | the order in which cached pages were used |
//! | `store/` | pages on disk |

mod chain;
mod lru;
pub mod store;

use std::collections::{HashMap, VecDeque};

pub use self::chain::{Chain, ChainHash, PrefixScope};
use self::lru::LruList;

/// Shared pages remembered until they are asked for.
const HOT_PAGES_MAX: usize = 4096;

/// The pages of one cache. All operations on a page are O(1).
#[derive(Debug)]
pub struct PagePool {
    clean: Vec<u32>,
    dirty: Vec<u32>,
    cached: LruList,
    /// By page.
    slots: Vec<Slot>,
    /// Sealed pages, owned or cached.
    sealed: HashMap<ChainHash, u32>,
    owned: usize,
    evictions: u64,
    /// Pages given up since they were last asked for.
    evicted: Vec<NamedPage>,
    /// Pages that somebody shared for the first time.
    hot: VecDeque<NamedPage>,
}

/// A sealed page, its name, and the root of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedPage {
    pub page: u32,
    pub hash: ChainHash,
    pub root: ChainHash,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Sequences that own it.
    owners: u32,
    /// Once it is sealed.
    name: Option<Name>,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    hash: ChainHash,
    root: ChainHash,
    /// Somebody has shared it.
    is_hot: bool,
}

impl PagePool {
    /// `pages` clean pages. Low numbers go out first, so memory is touched only as it is needed.
    pub fn new(pages: usize) -> PagePool {
        let count = u32::try_from(pages).expect("a cache has fewer than 2^32 pages");
        PagePool {
            clean: (0..count).rev().collect(),
            dirty: Vec::with_capacity(pages),
            cached: LruList::new(pages),
            slots: vec![Slot::default(); pages],
            sealed: HashMap::with_capacity(pages),
            owned: 0,
            evictions: 0,
            evicted: Vec::new(),
            hot: VecDeque::new(),
        }
    }

    /// A page to fill; when it does not hold zeros, it is added to `zero`.
    pub fn allocate(&mut self, zero: &mut Vec<u32>) -> Option<u32> {
        let page = match self.clean.pop() {
            Some(page) => page,
            None => {
                let page = self.dirty.pop().or_else(|| self.evict())?;
                zero.push(page);
                page
            }
        };
        self.slots[page as usize].owners = 1;
        self.owned += 1;
        Some(page)
    }

    /// Gives up the cached page that was unused for longest.
    fn evict(&mut self) -> Option<u32> {
        let page = self.cached.pop_oldest()?;
        let Name { hash, root, .. } = self.slots[page as usize].name.take().expect("cached pages are sealed");
        self.sealed.remove(&hash);
        self.evictions += 1;
        self.evicted.push(NamedPage { page, hash, root });
        Some(page)
    }

    /// Gives up all cached pages; they are dirty then.
    pub fn evict_all(&mut self) {
        while let Some(page) = self.evict() {
            self.dirty.push(page);
        }
    }

    /// Free pages that hold zeros.
    pub fn clean(&self) -> impl Iterator<Item = u32> {
        self.clean.iter().copied()
    }

    /// Pages given up since the last call. They still hold what they held, until they are zeroed.
    pub fn take_evicted(&mut self) -> Vec<NamedPage> {
        std::mem::take(&mut self.evicted)
    }

    /// A page that was shared since it was sealed; each is named once.
    pub fn next_hot(&mut self) -> Option<NamedPage> {
        while let Some(page) = self.hot.pop_front() {
            if self.find(&page.hash) == Some(page.page) {
                return Some(page);
            }
        }
        None
    }

    /// All sealed pages, those unused for longest first.
    pub fn named(&self) -> impl Iterator<Item = NamedPage> {
        let owned = (0..).zip(&self.slots).filter(|(_, slot)| slot.owners > 0).map(|(page, _)| page);
        let named = |page: u32| {
            let name = self.slots[page as usize].name?;
            Some(NamedPage { page, hash: name.hash, root: name.root })
        };
        self.cached.iter().chain(owned).filter_map(named)
    }

    /// The page of this name.
    pub fn find(&self, hash: &ChainHash) -> Option<u32> {
        self.sealed.get(hash).copied()
    }

    /// Whether a sequence owns it.
    pub fn is_owned(&self, page: u32) -> bool {
        self.slots[page as usize].owners > 0
    }

    /// One more owner of a sealed page.
    pub fn share(&mut self, page: u32) {
        let slot = &mut self.slots[page as usize];
        let name = slot.name.as_mut().expect("only sealed pages are shared");
        // Who never asks for hot pages has no use for old ones.
        if !std::mem::replace(&mut name.is_hot, true) && self.hot.len() < HOT_PAGES_MAX {
            self.hot.push_back(NamedPage { page, hash: name.hash, root: name.root });
        }
        if slot.owners == 0 {
            self.cached.remove(page);
            self.owned += 1;
        }
        slot.owners += 1;
    }

    /// Names an owned page that is full. Returns the page its owner goes on with: the same, or another
    /// that was sealed under this name before and holds the same.
    pub fn seal(&mut self, NamedPage { page, hash, root }: NamedPage) -> u32 {
        debug_assert!(self.slots[page as usize].name.is_none(), "a page is sealed once");
        match self.find(&hash) {
            Some(first) => {
                self.share(first);
                self.release_page(page);
                first
            }
            None => {
                self.slots[page as usize].name = Some(Name { hash, root, is_hot: false });
                self.sealed.insert(hash, page);
                page
            }
        }
    }

    /// Takes back a sequence's pages, its tail first: the head, which other prompts are likelier to
    /// begin with too, is kept for longest.
    ///
    /// # Panics
    /// When a page is not owned: it would be handed out twice.
    pub fn release(&mut self, pages: &mut Vec<u32>) {
        while let Some(page) = pages.pop() {
            self.release_page(page);
        }
    }

    fn release_page(&mut self, page: u32) {
        let slot = &mut self.slots[page as usize];
        slot.owners = slot.owners.checked_sub(1).unwrap_or_else(|| panic!("page {page} is freed twice"));
        if slot.owners > 0 {
            return;
        }
        self.owned -= 1;
        match slot.name {
            Some(_) => self.cached.push_newest(page),
            None => self.dirty.push(page),
        }
    }

    /// Moves up to `pages_max` dirty pages to the clean ones and names them in `zero`.
    pub fn scrub(&mut self, pages_max: usize, zero: &mut Vec<u32>) {
        let count = pages_max.min(self.dirty.len());
        zero.extend(self.dirty.drain(..count));
        self.clean.extend_from_slice(&zero[zero.len() - count..]);
    }

    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// Pages that can be allocated, cached ones included.
    pub fn free(&self) -> usize {
        self.total() - self.owned
    }

    /// Pages that sequences own.
    pub fn used(&self) -> usize {
        self.owned
    }

    pub fn cached(&self) -> usize {
        self.cached.len()
    }

    /// Free pages not yet zeroed.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Cached pages given up so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Panics unless every page is in exactly one state and has so many owners. Returns those that must
    /// hold zeros.
    #[cfg(test)]
    pub fn check(&self, owners: &[u32]) -> Vec<u32> {
        for (page, (slot, &owners)) in (0..).zip(self.slots.iter().zip(owners)) {
            assert_eq!(slot.owners, owners, "owners of page {page}");
            assert!(slot.name.is_none_or(|name| self.sealed[&name.hash] == page));
        }
        let mut free = [self.clean.as_slice(), &self.dirty].concat();
        assert!(free.iter().all(|&page| self.slots[page as usize].name.is_none()), "a free page is sealed");
        free.extend(self.cached.iter());
        free.sort();
        let unowned: Vec<u32> = (0..).zip(owners).filter(|&(_, &n)| n == 0).map(|(page, _)| page).collect();
        assert_eq!(free, unowned, "pages leaked, or are free twice");
        assert_eq!(self.owned + free.len(), self.total());
        self.clean.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocate(pool: &mut PagePool, count: usize) -> (Vec<u32>, Vec<u32>) {
        let mut zero = Vec::new();
        let pages = (0..count).map_while(|_| pool.allocate(&mut zero)).collect();
        (pages, zero)
    }

    fn hash(byte: u8) -> ChainHash {
        ChainHash([byte; 32])
    }

    fn named(page: u32, name: u8) -> NamedPage {
        NamedPage { page, hash: hash(name), root: hash(0) }
    }

    /// Clean, dirty, cached, owned.
    fn counts(pool: &PagePool) -> [usize; 4] {
        [pool.clean.len(), pool.dirty(), pool.cached(), pool.used()]
    }

    #[test]
    fn hands_out_every_page_once_and_then_none() {
        let mut pool = PagePool::new(5);
        assert_eq!(allocate(&mut pool, 9), (vec![0, 1, 2, 3, 4], vec![]));
        assert_eq!((pool.total(), pool.free(), pool.used()), (5, 0, 5));
    }

    #[test]
    fn names_dirty_pages_exactly_once_before_they_are_reused() {
        let mut pool = PagePool::new(4);
        let (mut pages, _) = allocate(&mut pool, 3);
        pool.release(&mut pages);
        assert_eq!((pool.free(), pool.dirty()), (4, 3));
        let mut scrubbed = Vec::new();
        pool.scrub(2, &mut scrubbed);
        assert_eq!(scrubbed, [2, 1], "tail first");
        let (again, zero) = allocate(&mut pool, 4);
        assert_eq!(again.len(), 4);
        assert_eq!(zero, [0], "the page nobody scrubbed");
    }

    #[test]
    fn scrubs_no_more_than_there_is() {
        let mut pool = PagePool::new(2);
        let (mut pages, mut zero) = allocate(&mut pool, 1);
        pool.release(&mut pages);
        pool.scrub(10, &mut zero);
        pool.scrub(10, &mut zero);
        assert_eq!(zero, [0]);
        assert_eq!((pool.dirty(), pool.free()), (0, 2));
    }

    #[test]
    #[should_panic(expected = "page 1 is freed twice")]
    fn refuses_a_double_free() {
        let mut pool = PagePool::new(2);
        let (pages, _) = allocate(&mut pool, 2);
        pool.release(&mut pages.clone());
        pool.release(&mut pages.clone());
    }

    #[test]
    fn sealed_pages_stay_until_room_is_needed_and_the_head_stays_longest() {
        let mut pool = PagePool::new(4);
        let (mut pages, _) = allocate(&mut pool, 4);
        for (page, name) in [(0, 10), (1, 11), (2, 12)] {
            assert_eq!(pool.seal(named(page, name)), page);
        }
        pool.release(&mut pages);
        assert_eq!(counts(&pool), [0, 1, 3, 0], "the last one was not full");
        // The dirty page first, then the tail of what is cached.
        let (taken, zero) = allocate(&mut pool, 2);
        assert_eq!((taken, zero), (vec![3, 2], vec![3, 2]));
        assert_eq!(pool.evictions(), 1);
        assert_eq!(pool.take_evicted(), [named(2, 12)]);
        assert_eq!(pool.take_evicted(), []);
        let found = [10, 11, 12].map(|name| pool.find(&hash(name)));
        assert_eq!(found, [Some(0), Some(1), None]);
        assert_eq!(counts(&pool), [0, 0, 2, 2]);
    }

    #[test]
    fn all_that_is_cached_can_go_at_once() {
        let mut pool = PagePool::new(4);
        let (mut pages, _) = allocate(&mut pool, 3);
        for (page, name) in [(0, 10), (1, 11)] {
            pool.seal(named(page, name));
        }
        pool.share(0);
        pool.release(&mut pages);
        pool.evict_all();
        assert_eq!(counts(&pool), [1, 2, 0, 1], "who owns a page keeps it");
        assert_eq!(pool.take_evicted(), [named(1, 11)]);
        assert_eq!((pool.find(&hash(10)), pool.find(&hash(11))), (Some(0), None));
        pool.scrub(usize::MAX, &mut Vec::new());
        let mut clean: Vec<u32> = pool.clean().collect();
        clean.sort();
        assert_eq!(clean, [1, 2, 3]);
    }

    #[test]
    fn a_shared_page_is_cached_when_its_last_owner_goes() {
        let mut pool = PagePool::new(2);
        let (mut first, _) = allocate(&mut pool, 1);
        pool.seal(named(0, 7));
        pool.share(0);
        let mut second = vec![0];
        pool.release(&mut first);
        assert_eq!(counts(&pool), [1, 0, 0, 1]);
        pool.release(&mut second);
        assert_eq!(counts(&pool), [1, 0, 1, 0]);
        assert_eq!((pool.next_hot(), pool.next_hot()), (Some(named(0, 7)), None), "once");
        // Taken over as it is, and safe from eviction while it is owned.
        pool.share(0);
        let (taken, zero) = allocate(&mut pool, 2);
        assert_eq!((taken, zero), (vec![1], vec![]));
    }

    #[test]
    fn a_page_computed_twice_is_kept_once() {
        let mut pool = PagePool::new(2);
        allocate(&mut pool, 2);
        assert_eq!(pool.seal(named(0, 7)), 0);
        assert_eq!(pool.seal(named(1, 7)), 0, "the second owner goes on with the first page");
        assert_eq!(counts(&pool), [0, 1, 0, 1]);
        pool.release(&mut vec![0]);
        assert!(pool.is_owned(0));
        pool.release(&mut vec![0]);
        assert_eq!(counts(&pool), [0, 1, 1, 0]);
    }
}
