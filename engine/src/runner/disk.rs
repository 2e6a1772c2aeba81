//! Between the cache and the page store: copies pages out and in, between steps.

use std::time::{Duration, Instant};

use kernels::KvCache;

use crate::pages::NamedPage;
use crate::pages::store::{StoreClient, StoreReply};
use crate::scheduler::{DiskLimits, SchedulerEvent};

/// For writing what is only in memory when a model goes: at a few hundred MB/s that is all of a cache.
const SAVE_TIME_MAX: Duration = Duration::from_secs(10);

/// One model's pages on disk.
pub(super) struct Disk {
    client: StoreClient,
}

impl Disk {
    pub fn new(client: StoreClient) -> Disk {
        Disk { client }
    }

    /// Fills pages that were read, and reports what happened.
    pub fn receive(&self, kv: &mut KvCache, events: &mut Vec<SchedulerEvent>) {
        self.client.wake_this_thread();
        while let Some(reply) = self.client.reply_now() {
            events.push(match reply {
                StoreReply::Present(hash) => SchedulerEvent::Stored { hash },
                StoreReply::Gone(hash) => SchedulerEvent::Unstored { hash },
                StoreReply::Written { hash, stored } => SchedulerEvent::SpillEnded { hash, stored },
                StoreReply::Read { hash, page, content, took } => {
                    let found = content.is_some();
                    if let Some(content) = content {
                        kv.import_page(page, &content);
                        self.client.recycle(content);
                    }
                    SchedulerEvent::Restored { hash, found, took }
                }
            });
        }
    }

    /// Hands pages to the store; those it has no room for are lost to it.
    pub fn write(&self, pages: &[NamedPage], kv: &KvCache, events: &mut Vec<SchedulerEvent>) {
        for &NamedPage { page, hash, root } in pages {
            if !self.client.write(root, hash, exported(kv, page)) {
                events.push(SchedulerEvent::SpillEnded { hash, stored: false });
            }
        }
    }

    /// Asks the store for pages.
    pub fn read(&self, pages: &[NamedPage], events: &mut Vec<SchedulerEvent>) {
        for &NamedPage { page, hash, root } in pages {
            if !self.client.read(root, hash, page) {
                events.push(SchedulerEvent::Restored { hash, found: false, took: Duration::ZERO });
            }
        }
    }

    /// Writes these pages, the oldest first, waiting for the store where it must. Where they are more than the
    /// store holds, or would take too long, the oldest are left out.
    pub fn save(&self, pages: &[NamedPage], kv: &KvCache) {
        let copies_max = DiskLimits::of(kv.layout().page_bytes()).spills_max;
        let (began, mut saved, mut copies) = (Instant::now(), 0, 0);
        let mut next = pages.len().saturating_sub(self.client.pages_max());
        while let Some(&NamedPage { page, hash, root }) = pages.get(next) {
            if copies == copies_max {
                match self.client.reply_within(SAVE_TIME_MAX.saturating_sub(began.elapsed())) {
                    Some(StoreReply::Written { .. }) => copies -= 1,
                    Some(_) => {}
                    None => break,
                }
                continue;
            }
            if !self.client.write_blocking(root, hash, exported(kv, page)) {
                break;
            }
            (saved, copies) = (saved + 1, copies + 1);
            next = next_to_save(next + 1, pages.len(), saved, began.elapsed());
        }
        if saved < pages.len() {
            tracing::warn!(saved, lost = pages.len() - saved, "not every cached page could be saved");
        }
    }
}

/// Which page to write next, after `saved` of them in so much time, to end with the newest in time.
fn next_to_save(next: usize, pages: usize, saved: usize, elapsed: Duration) -> usize {
    let each = elapsed.as_secs_f64() / saved as f64;
    let left = SAVE_TIME_MAX.saturating_sub(elapsed).as_secs_f64();
    // A time of nothing gives infinity, and with it every page.
    next.max(pages.saturating_sub((left / each) as usize))
}

fn exported(kv: &KvCache, page: u32) -> Vec<u8> {
    let mut content = Vec::new();
    kv.export_page(page, &mut content);
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::ChainHash;
    use crate::pages::store::{PageStore, StoreOptions};
    use crate::testing::KV_LAYOUT;

    #[test]
    fn of_more_pages_than_the_store_holds_the_newest_are_saved() {
        let temporary = tempfile::tempdir().unwrap();
        let kv = KvCache::new(KV_LAYOUT, 40);
        let page_bytes = KV_LAYOUT.page_bytes();
        let hash = |page: u32| ChainHash([page as u8; 32]);
        let pages: Vec<NamedPage> =
            (0..40).map(|page| NamedPage { page, hash: hash(page), root: ChainHash([99; 32]) }).collect();
        let bytes_max = 25 * PageStore::file_bytes(page_bytes) + 10;
        let options = StoreOptions { folder: temporary.path().to_owned(), bytes_max, key: None };
        let store = PageStore::open(options).unwrap();
        let disk = Disk::new(store.client([1; 32], page_bytes));
        disk.save(&pages, &kv);
        // What is asked for after them is answered after them.
        assert!(disk.client.read(hash(0), hash(200), 0));
        while !matches!(disk.client.reply_within(SAVE_TIME_MAX), Some(StoreReply::Read { .. })) {}
        let client = store.client([1; 32], page_bytes);
        let mut found = Vec::new();
        while found.len() < 25 {
            if let Some(StoreReply::Present(hash)) = client.reply_within(SAVE_TIME_MAX) {
                found.push(hash);
            }
        }
        assert_eq!(found, (15..40).map(hash).collect::<Vec<_>>());
        assert_eq!(store.stats().written_pages, 25, "none was written in vain");
    }

    #[test]
    fn the_newest_pages_are_saved_when_there_is_no_time_for_all() {
        // Milliseconds a page takes, and how many of 100 can be saved in ten seconds.
        for (each, expected) in [(0, 100), (50, 100), (200, 50), (1000, 10), (5000, 2)] {
            let (mut saved, mut next) = (Vec::new(), 0);
            while next < 100 {
                saved.push(next);
                next = next_to_save(
                    next + 1,
                    100,
                    saved.len(),
                    Duration::from_millis(each) * saved.len() as u32,
                );
            }
            // One less where a quotient is rounded down.
            assert!((expected - 1..=expected).contains(&saved.len()), "{each} ms each: {saved:?}");
            assert_eq!(saved.last(), Some(&99), "{each} ms each");
        }
    }
}
