//! Which pages of a model's KV cache are free, as bare numbers; the cache itself is `kernels::KvCache`.
//!
//! A page is zeroed before it gets a new owner, in two ways. A freed page is *dirty*: [`PagePool::scrub`]
//! names a few of those each step, so that what a finished conversation left behind is gone soon, and
//! freeing an 8k prompt does not stall the next step by the time it takes to overwrite hundreds of
//! pages at once. When only dirty pages are left, [`PagePool::allocate`] names the page it hands out,
//! to be zeroed before the step runs.

/// Free pages of one cache. All operations on a page are O(1) and allocate nothing.
#[derive(Debug)]
pub struct PagePool {
    /// Free pages that hold zeros.
    clean: Vec<u32>,
    /// Free pages that still hold their last owner's keys and values.
    dirty: Vec<u32>,
    /// By page: whether a sequence owns it.
    owned: Vec<bool>,
}

impl PagePool {
    /// `pages` clean pages. Low numbers go out first, so memory is touched only as it is needed.
    pub fn new(pages: usize) -> PagePool {
        let count = u32::try_from(pages).expect("a cache has fewer than 2^32 pages");
        PagePool {
            clean: (0..count).rev().collect(),
            dirty: Vec::with_capacity(pages),
            owned: vec![false; pages],
        }
    }

    /// A free page; when it is dirty, it is added to `zero`.
    pub fn allocate(&mut self, zero: &mut Vec<u32>) -> Option<u32> {
        let page = match self.clean.pop() {
            Some(page) => page,
            None => {
                let page = self.dirty.pop()?;
                zero.push(page);
                page
            }
        };
        self.owned[page as usize] = true;
        Some(page)
    }

    /// Takes back a sequence's pages, its tail first: the head, which other prompts are likelier to
    /// begin with too, is scrubbed last.
    ///
    /// # Panics
    /// When a page is not owned: it would be handed out twice.
    pub fn release(&mut self, pages: &mut Vec<u32>) {
        while let Some(page) = pages.pop() {
            let owned = std::mem::replace(&mut self.owned[page as usize], false);
            assert!(owned, "page {page} is freed twice");
            self.dirty.push(page);
        }
    }

    /// Moves up to `pages_max` dirty pages to the clean ones and names them in `zero`.
    pub fn scrub(&mut self, pages_max: usize, zero: &mut Vec<u32>) {
        let count = pages_max.min(self.dirty.len());
        zero.extend(self.dirty.drain(..count));
        self.clean.extend_from_slice(&zero[zero.len() - count..]);
    }

    pub fn total(&self) -> usize {
        self.owned.len()
    }

    pub fn free(&self) -> usize {
        self.clean.len() + self.dirty.len()
    }

    pub fn used(&self) -> usize {
        self.total() - self.free()
    }

    /// Free pages not yet zeroed.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
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
}
