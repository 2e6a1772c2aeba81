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

    /// Writes these pages, as far as time goes, waiting for the store where it must.
    pub fn save(&self, pages: &[NamedPage], kv: &KvCache) {
        let deadline = Instant::now() + SAVE_TIME_MAX;
        for (saved, &NamedPage { page, hash, root }) in pages.iter().enumerate() {
            if Instant::now() > deadline || !self.client.write_blocking(root, hash, exported(kv, page)) {
                tracing::warn!(saved, lost = pages.len() - saved, "not every cached page could be saved");
                return;
            }
        }
    }
}

fn exported(kv: &KvCache, page: u32) -> Vec<u8> {
    let mut content = Vec::new();
    kv.export_page(page, &mut content);
    content
}
