//! Cached pages in the order they were last used: a doubly linked list threaded through an array, so
//! that every operation is O(1) and allocates nothing.

/// No page.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    older: u32,
    newer: u32,
}

/// A list of pages, each at most once.
#[derive(Debug)]
pub(super) struct LruList {
    /// By page; meaningful for those in the list.
    links: Vec<Links>,
    oldest: u32,
    newest: u32,
    length: usize,
}

impl LruList {
    pub fn new(pages: usize) -> LruList {
        LruList {
            links: vec![Links { older: NONE, newer: NONE }; pages],
            oldest: NONE,
            newest: NONE,
            length: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    /// Adds a page that is not in the list as the most recently used one.
    pub fn push_newest(&mut self, page: u32) {
        self.links[page as usize] = Links { older: self.newest, newer: NONE };
        match self.newest {
            NONE => self.oldest = page,
            newest => self.links[newest as usize].newer = page,
        }
        self.newest = page;
        self.length += 1;
    }

    /// Takes out a page that is in the list.
    pub fn remove(&mut self, page: u32) {
        let Links { older, newer } = self.links[page as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        self.length -= 1;
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let first = Some(self.oldest).filter(|&page| page != NONE);
        std::iter::successors(first, |&page| {
            Some(self.links[page as usize].newer).filter(|&next| next != NONE)
        })
    }

    pub fn pop_oldest(&mut self) -> Option<u32> {
        let oldest = Some(self.oldest).filter(|&page| page != NONE)?;
        self.remove(oldest);
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_in_order_of_use() {
        // Pages pushed, then removed from anywhere; what is left comes out oldest first.
        let rows: &[(&[u32], &[u32], &[u32])] = &[
            (&[], &[], &[]),
            (&[3], &[], &[3]),
            (&[3], &[3], &[]),
            (&[0, 1, 2, 3], &[], &[0, 1, 2, 3]),
            (&[0, 1, 2, 3], &[0], &[1, 2, 3]),
            (&[0, 1, 2, 3], &[3], &[0, 1, 2]),
            (&[2, 0, 3, 1], &[0, 3], &[2, 1]),
            (&[2, 0, 3, 1], &[1, 2, 0, 3], &[]),
        ];
        for (pushed, removed, expected) in rows {
            let mut list = LruList::new(4);
            // Twice: what was removed can come back.
            for _ in 0..2 {
                pushed.iter().for_each(|&page| list.push_newest(page));
                removed.iter().for_each(|&page| list.remove(page));
                assert_eq!(list.len(), expected.len());
                let popped: Vec<u32> = std::iter::from_fn(|| list.pop_oldest()).collect();
                assert_eq!(popped, *expected, "{pushed:?} without {removed:?}");
            }
        }
    }
}
