//! Between the cache and the page store: copies pages out and in, between steps.

use std::time::{Duration, Instant};

use kernels::KvCache;

use crate::pages::NamedPage;
use crate::pages::store::{StoreClient, StoreReply};
use crate::scheduler::SchedulerEvent;

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

    /// Writes these pages, the oldest first, waiting for the store where it must. Where that would take too
    /// long, the oldest are left out.
    pub fn save(&self, pages: &[NamedPage], kv: &KvCache) {
        let (began, mut saved, mut next) = (Instant::now(), 0, 0);
        while let Some(&NamedPage { page, hash, root }) = pages.get(next) {
            if !self.client.write_blocking(root, hash, exported(kv, page)) {
                break;
            }
            saved += 1;
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
