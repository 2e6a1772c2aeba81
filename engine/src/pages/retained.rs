//! Cached pages that go after all others: those of prompts to be kept for a day.
//!
//! A quarter of a cache can be retained, and half of that for one tenant, so that no tenant's wishes keep
//! others from caching anything. What is too much leaves from the largest group of the tenant, its page
//! unused for longest first: one conversation does not push out another.

use std::collections::HashMap;
use std::time::Duration;

use super::chain::{ChainHash, Group};
use super::lru::LruList;

/// One page in so many can be retained, and half of those for one tenant.
const RETAINED_FRACTION: usize = 4;

/// How long after its last use.
const RETAINED_FOR: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(super) struct RetainedPages {
    list: LruList,
    /// Of those in the list: for whom, and until when.
    entries: HashMap<u32, (Group, Duration)>,
    by_group: HashMap<Group, usize>,
    by_tenant: HashMap<ChainHash, usize>,
    pages_max: usize,
}

impl RetainedPages {
    pub fn new(pages: usize) -> RetainedPages {
        RetainedPages {
            list: LruList::new(pages),
            entries: HashMap::new(),
            by_group: HashMap::new(),
            by_tenant: HashMap::new(),
            pages_max: pages / RETAINED_FRACTION,
        }
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.list.iter()
    }

    /// Adds a page as the most recently used one.
    pub fn push_newest(&mut self, page: u32, group: Group, now: Duration) {
        self.list.push_newest(page);
        self.entries.insert(page, (group, now + RETAINED_FOR));
        *self.by_group.entry(group).or_default() += 1;
        *self.by_tenant.entry(group.tenant).or_default() += 1;
    }

    /// Takes a page out. Returns whether it was in.
    pub fn remove(&mut self, page: u32) -> bool {
        let Some((group, _)) = self.entries.remove(&page) else { return false };
        self.list.remove(page);
        decrement(&mut self.by_group, group);
        decrement(&mut self.by_tenant, group.tenant);
        true
    }

    pub fn pop_oldest(&mut self) -> Option<u32> {
        let oldest = self.list.iter().next()?;
        self.remove(oldest);
        Some(oldest)
    }

    /// Takes out a page whose time is over.
    pub fn pop_expired(&mut self, now: Duration) -> Option<u32> {
        let oldest = self.list.iter().next()?;
        (self.entries[&oldest].1 <= now).then(|| self.pop_oldest()).flatten()
    }

    /// Takes out a page of a tenant that has too many, or of the one with most when all have together.
    pub fn pop_excess(&mut self, tenant: ChainHash) -> Option<u32> {
        let of = |tenant: &ChainHash| self.by_tenant.get(tenant).copied().unwrap_or(0);
        let tenant = if of(&tenant) > self.pages_max / 2 {
            tenant
        } else if self.len() > self.pages_max {
            *self.by_tenant.iter().max_by_key(|&(tenant, &pages)| (pages, *tenant))?.0
        } else {
            return None;
        };
        let groups = self.by_group.iter().filter(|(group, _)| group.tenant == tenant);
        let (&largest, _) = groups.max_by_key(|&(group, &pages)| (pages, *group))?;
        // A walk over no more pages than can be retained, for those that have too many.
        let page = self.list.iter().find(|page| self.entries[page].0 == largest)?;
        self.remove(page);
        Some(page)
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(byte: u8) -> ChainHash {
        ChainHash([byte; 32])
    }

    fn pages(retained: &RetainedPages) -> Vec<u32> {
        retained.iter().collect()
    }

    #[test]
    fn a_tenant_keeps_its_share_and_its_groups_theirs() {
        // Eight pages can be retained, four of one tenant.
        let mut retained = RetainedPages::new(32);
        let (long, short) = (Group::new(tenant(1), "long"), Group::new(tenant(1), "short"));
        retained.push_newest(0, short, Duration::ZERO);
        for page in 1..6 {
            retained.push_newest(page, long, Duration::ZERO);
        }
        let gone: Vec<u32> = std::iter::from_fn(|| retained.pop_excess(tenant(1))).collect();
        assert_eq!((gone, pages(&retained)), (vec![1, 2], vec![0, 3, 4, 5]), "the short one stays whole");
        // Others get theirs, up to what there is for all.
        for page in 6..10 {
            retained.push_newest(page, Group::new(tenant(2), ""), Duration::ZERO);
            assert_eq!(retained.pop_excess(tenant(2)), None);
        }
        retained.push_newest(10, Group::new(tenant(3), ""), Duration::ZERO);
        assert_eq!(retained.pop_excess(tenant(3)), Some(6), "of one that has most");
        assert_eq!(retained.len(), 8);
    }

    #[test]
    fn a_page_leaves_a_day_after_its_last_use() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let mut retained = RetainedPages::new(100);
        let group = Group::new(tenant(1), "");
        for (page, hour) in [(0, 0), (1, 1), (2, 2)] {
            retained.push_newest(page, group, hours(hour));
        }
        assert!(retained.remove(0) && !retained.remove(0));
        retained.push_newest(0, group, hours(3));
        let mut gone = |hour| std::iter::from_fn(|| retained.pop_expired(hours(hour))).collect::<Vec<u32>>();
        assert_eq!((gone(24), gone(25), gone(26)), (vec![], vec![1], vec![2]));
        assert_eq!((retained.pop_oldest(), retained.pop_oldest(), retained.len()), (Some(0), None, 0));
    }
}
