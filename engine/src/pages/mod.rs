//! Which pages of a model's KV cache hold what, as bare numbers; the cache itself is
//! `kernels::KvCache`.
//!
//! A page is in one of four states:
//!
//! * *owned*: sequences read it, and one may still be filling it. A full page can be *sealed* under its
//!   name ([`ChainHash`]); from then on it never changes, and any number of sequences may own it.
//! * *cached*: sealed, and owned by nobody. Whoever comes with the same tokens, and may share them, takes
//!   it over as it is. When nothing else is free, the one unused for longest goes, those that somebody wants
//!   retained last.
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
//! | `hmac.rs` | the keyed hash they are made of |
//! | `lru.rs` | the order in which cached pages were used |
//! | `retained.rs` | cached pages that go last |
//! | `store/` | pages on disk |

mod chain;
mod hmac;
mod lru;
mod retained;
pub mod store;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

pub use self::chain::{Chain, ChainHash, Group, Keep, PrefixScope, model_folder, model_secret};
use self::lru::LruList;
use self::retained::RetainedPages;

/// Shared pages remembered until they are asked for.
const HOT_PAGES_MAX: usize = 4096;

/// The pages of one cache. All operations on a page are O(1), but for one that is retained in place of
/// another.
#[derive(Debug)]
pub struct PagePool {
    clean: Vec<u32>,
    /// In the order in which they were freed.
    dirty: VecDeque<u32>,
    cached: LruList,
    retained: RetainedPages,
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
    /// The latest that was told.
    now: Duration,
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
    keep: Keep,
}

impl Name {
    /// Its page, if that may be written.
    fn to_write(self, page: u32) -> Option<NamedPage> {
        (self.keep != Keep::InMemory).then_some(NamedPage { page, hash: self.hash, root: self.root })
    }
}

impl PagePool {
    /// `pages` clean pages. Low numbers go out first, so memory is touched only as it is needed.
    pub fn new(pages: usize) -> PagePool {
        let count = u32::try_from(pages).expect("a cache has fewer than 2^32 pages");
        PagePool {
            clean: (0..count).rev().collect(),
            dirty: VecDeque::with_capacity(pages),
            cached: LruList::new(pages),
            retained: RetainedPages::new(pages),
            slots: vec![Slot::default(); pages],
            // Twice the room: then it never grows, whatever comes and goes.
            sealed: HashMap::with_capacity(2 * pages),
            owned: 0,
            evictions: 0,
            evicted: Vec::new(),
            hot: VecDeque::new(),
            now: Duration::ZERO,
        }
    }

    /// A page to fill; when it does not hold zeros, it is added to `zero`.
    pub fn allocate(&mut self, zero: &mut Vec<u32>) -> Option<u32> {
        let page = match self.clean.pop() {
            Some(page) => page,
            None => {
                let page = self.dirty.pop_back().or_else(|| self.evict())?;
                zero.push(page);
                page
            }
        };
        self.slots[page as usize].owners = 1;
        self.owned += 1;
        Some(page)
    }

    /// Gives up the cached page that was unused for longest, a retained one only when there is no other.
    fn evict(&mut self) -> Option<u32> {
        let page = self.cached.pop_oldest().or_else(|| self.retained.pop_oldest())?;
        let name = self.slots[page as usize].name.take().expect("cached pages are sealed");
        self.sealed.remove(&name.hash);
        self.evictions += 1;
        self.evicted.extend(name.to_write(page));
        Some(page)
    }

    /// Takes the time, and from what was retained long enough its preference.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        while let Some(page) = self.retained.pop_expired(now) {
            self.cached.push_newest(page);
        }
    }

    /// Says how an owned page is to be kept, if it is sealed. Who asks to retain it has it written at once;
    /// one that is to stay in memory may be written as soon as somebody does not mind.
    pub fn keep(&mut self, page: u32, keep: Keep) {
        let Some(name) = &mut self.slots[page as usize].name else { return };
        match (name.keep, keep) {
            (_, Keep::InMemory) | (Keep::Retained(_), Keep::Usual) => {}
            (_, Keep::Usual) => name.keep = keep,
            (_, Keep::Retained(_)) => {
                name.keep = keep;
                self.mark_hot(page);
            }
        }
    }

    /// Gives up all cached pages; they are dirty then.
    pub fn evict_all(&mut self) {
        while let Some(page) = self.evict() {
            self.dirty.push_back(page);
        }
    }

    /// Free pages that hold zeros.
    pub fn clean(&self) -> impl Iterator<Item = u32> {
        self.clean.iter().copied()
    }

    /// Pages given up since the last call. They still hold what they held, until they are zeroed.
    pub fn drain_evicted(&mut self) -> impl Iterator<Item = NamedPage> {
        self.evicted.drain(..)
    }

    /// A page that was shared since it was sealed; each is named once.
    pub fn next_hot(&mut self) -> Option<NamedPage> {
        while let Some(page) = self.hot.pop_front() {
            let name = self.slots[page.page as usize].name.filter(|name| name.hash == page.hash);
            if let Some(page) = name.and_then(|name| name.to_write(page.page)) {
                return Some(page);
            }
        }
        None
    }

    /// All sealed pages that may be written, those unused for longest first.
    pub fn to_write(&self) -> impl Iterator<Item = NamedPage> {
        let owned = (0..).zip(&self.slots).filter(|(_, slot)| slot.owners > 0).map(|(page, _)| page);
        let pages = self.cached.iter().chain(self.retained.iter()).chain(owned);
        pages.filter_map(|page| self.slots[page as usize].name?.to_write(page))
    }

    fn mark_hot(&mut self, page: u32) {
        let Some(name) = &mut self.slots[page as usize].name else { return };
        // Who never asks for hot pages has no use for old ones.
        if !std::mem::replace(&mut name.is_hot, true) && self.hot.len() < HOT_PAGES_MAX {
            self.hot.push_back(NamedPage { page, hash: name.hash, root: name.root });
        }
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
        self.mark_hot(page);
        let slot = &mut self.slots[page as usize];
        assert!(slot.name.is_some(), "only sealed pages are shared");
        if slot.owners == 0 {
            if !self.retained.remove(page) {
                self.cached.remove(page);
            }
            self.owned += 1;
        }
        slot.owners += 1;
    }

    /// Names an owned page that is full, and says how it is to be kept if it is the first of its name. Returns
    /// the page its owner goes on with: the same, or another that was sealed under this name before and holds
    /// the same.
    pub fn seal(&mut self, NamedPage { page, hash, root }: NamedPage, keep: Keep) -> u32 {
        debug_assert!(self.slots[page as usize].name.is_none(), "a page is sealed once");
        match self.find(&hash) {
            Some(first) => {
                self.share(first);
                self.release_page(page);
                first
            }
            None => {
                self.slots[page as usize].name = Some(Name { hash, root, is_hot: false, keep });
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
        match slot.name.map(|name| name.keep) {
            Some(Keep::Retained(group)) => self.retain(page, group),
            Some(Keep::Usual | Keep::InMemory) => self.cached.push_newest(page),
            None => self.dirty.push_back(page),
        }
    }

    /// Retains a page, in place of others of its tenant where those are too many.
    fn retain(&mut self, page: u32, group: Group) {
        self.retained.push_newest(page, group, self.now);
        while let Some(page) = self.retained.pop_excess(group.tenant) {
            self.cached.push_newest(page);
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

    /// Pages owned by nobody that can still be found, retained ones included.
    pub fn cached(&self) -> usize {
        self.cached.len() + self.retained.len()
    }

    pub fn retained(&self) -> usize {
        self.retained.len()
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
        let mut free: Vec<u32> = self.clean.iter().chain(&self.dirty).copied().collect();
        assert!(free.iter().all(|&page| self.slots[page as usize].name.is_none()), "a free page is sealed");
        free.extend(self.cached.iter().chain(self.retained.iter()));
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
            assert_eq!(pool.seal(named(page, name), Keep::Usual), page);
        }
        pool.release(&mut pages);
        assert_eq!(counts(&pool), [0, 1, 3, 0], "the last one was not full");
        // The dirty page first, then the tail of what is cached.
        let (taken, zero) = allocate(&mut pool, 2);
        assert_eq!((taken, zero), (vec![3, 2], vec![3, 2]));
        assert_eq!(pool.evictions(), 1);
        assert_eq!(pool.drain_evicted().collect::<Vec<_>>(), [named(2, 12)]);
        assert_eq!(pool.drain_evicted().collect::<Vec<_>>(), []);
        let found = [10, 11, 12].map(|name| pool.find(&hash(name)));
        assert_eq!(found, [Some(0), Some(1), None]);
        assert_eq!(counts(&pool), [0, 0, 2, 2]);
    }

    #[test]
    fn all_that_is_cached_can_go_at_once() {
        let mut pool = PagePool::new(4);
        let (mut pages, _) = allocate(&mut pool, 3);
        for (page, name) in [(0, 10), (1, 11)] {
            pool.seal(named(page, name), Keep::Usual);
        }
        pool.share(0);
        pool.release(&mut pages);
        pool.evict_all();
        assert_eq!(counts(&pool), [1, 2, 0, 1], "who owns a page keeps it");
        assert_eq!(pool.drain_evicted().collect::<Vec<_>>(), [named(1, 11)]);
        assert_eq!((pool.find(&hash(10)), pool.find(&hash(11))), (Some(0), None));
        pool.scrub(usize::MAX, &mut Vec::new());
        let mut clean: Vec<u32> = pool.clean().collect();
        clean.sort();
        assert_eq!(clean, [1, 2, 3]);
    }

    /// Seals and lets go of pages kept in one way.
    fn cache(pool: &mut PagePool, pages: std::ops::Range<u32>, keep: Keep) {
        let (mut taken, _) = allocate(pool, pages.len());
        assert_eq!(taken, pages.clone().collect::<Vec<u32>>());
        for page in pages {
            pool.seal(named(page, page as u8), Keep::Usual);
            pool.keep(page, keep);
        }
        pool.release(&mut taken);
    }

    #[test]
    fn what_is_retained_goes_last_and_one_tenant_cannot_have_it_all() {
        let mut pool = PagePool::new(16);
        // Two of these can be retained: half of a quarter.
        cache(&mut pool, 0..4, Keep::Retained(Group::new(hash(100), "key")));
        assert_eq!((pool.retained(), pool.cached()), (2, 4));
        cache(&mut pool, 4..16, Keep::Usual);
        let (taken, _) = allocate(&mut pool, 14);
        assert_eq!(taken[..3], [3, 2, 15], "tail first, and then those used later");
        assert_eq!(pool.find(&hash(0)), Some(0), "its head is there");
        // It is shared and given back like any other.
        pool.share(0);
        assert_eq!(pool.retained(), 1);
        pool.release(&mut vec![0]);
        assert_eq!((pool.retained(), pool.find(&hash(1))), (2, Some(1)));
        // Nothing else is left.
        let (taken, _) = allocate(&mut pool, 2);
        assert_eq!(taken, [1, 0]);
    }

    #[test]
    fn what_is_retained_is_written_at_once_and_what_is_for_memory_never() {
        let mut pool = PagePool::new(8);
        cache(&mut pool, 0..1, Keep::Retained(Group::new(hash(100), "")));
        assert_eq!((pool.next_hot(), pool.next_hot()), (Some(named(0, 0)), None));
        let (mut taken, _) = allocate(&mut pool, 1);
        pool.seal(named(1, 1), Keep::InMemory);
        pool.share(1);
        pool.release(&mut vec![1]);
        pool.keep(1, Keep::InMemory);
        pool.release(&mut taken);
        assert_eq!(pool.next_hot(), None);
        assert_eq!(pool.to_write().collect::<Vec<_>>(), [named(0, 0)]);
        pool.evict_all();
        assert_eq!(pool.drain_evicted().collect::<Vec<_>>(), [named(0, 0)]);
        // A day later it is like all others.
        cache(&mut pool, 2..3, Keep::Retained(Group::new(hash(100), "")));
        pool.advance(Duration::from_secs(25 * 3600));
        assert_eq!((pool.retained(), pool.cached()), (0, 1));
    }

    #[test]
    fn a_shared_page_is_cached_when_its_last_owner_goes() {
        let mut pool = PagePool::new(2);
        let (mut first, _) = allocate(&mut pool, 1);
        pool.seal(named(0, 7), Keep::Usual);
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
        assert_eq!(pool.seal(named(0, 7), Keep::Usual), 0);
        assert_eq!(pool.seal(named(1, 7), Keep::Usual), 0, "the second owner goes on with the first page");
        assert_eq!(counts(&pool), [0, 1, 0, 1]);
        pool.release(&mut vec![0]);
        assert!(pool.is_owned(0));
        pool.release(&mut vec![0]);
        assert_eq!(counts(&pool), [0, 1, 1, 0]);
    }
}
