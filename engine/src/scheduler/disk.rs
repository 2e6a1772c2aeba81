//! Pages on disk: which are there, which to write, which to read back.
//!
//! Cached pages are written when they are given up, and before that once somebody has shared them: what
//! is hot is then there even after a crash. Pages of a prompt that are on disk and not in memory are
//! read back while the sequence waits, if that has been quicker than computing them; it waits no longer
//! than computing would take.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kernels::PAGE_TOKENS;

use super::sequence::SequenceId;
use super::{Actions, Scheduler};
use crate::pages::{ChainHash, Keep, NamedPage};

/// Pages on their way to the disk, and from it.
const SPILLS_MAX: usize = 12;
const RESTORES_MAX: usize = 16;

/// What they may take each way, and what one step may copy: a few milliseconds.
const COPIES_BYTES_MAX: usize = 32 << 20;
const STEP_COPIES_BYTES_MAX: usize = 8 << 20;

/// Hot pages written beside a step, and when there is nothing else to do.
const HOT_PAGES_MAX: usize = 1;
const IDLE_HOT_PAGES_MAX: usize = 8;

/// Of pages that would be read too slowly, one in so many is read.
const TRIES_ONE_IN: usize = 16;

/// Weight of the newest read in what a read is expected to take.
const NEWEST: f64 = 0.2;

/// How many pages may be on their way. Each is a copy in memory, beside the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    pub spills_max: usize,
    /// Of those, in one step.
    pub step_spills_max: usize,
    pub restores_max: usize,
}

impl DiskLimits {
    /// For pages of so many bytes.
    pub fn of(page_bytes: usize) -> DiskLimits {
        let within = |bytes_max: usize, pages_max: usize| (bytes_max / page_bytes.max(1)).clamp(1, pages_max);
        DiskLimits {
            spills_max: within(COPIES_BYTES_MAX, SPILLS_MAX),
            step_spills_max: within(STEP_COPIES_BYTES_MAX, SPILLS_MAX),
            restores_max: within(COPIES_BYTES_MAX, RESTORES_MAX),
        }
    }

    /// Pages that are copies.
    pub fn copies_max(&self) -> usize {
        self.spills_max + self.restores_max
    }
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Names of pages that are there, or on their way.
    known: HashSet<ChainHash>,
    spilling: usize,
    restoring: HashMap<ChainHash, Restoring>,
    /// What reading a page has taken; quick until it is known.
    read_seconds: f64,
    /// Pages computed since one was last read although that had been slow.
    unread: usize,
    pub restored_pages: u64,
}

/// A page that is being read.
#[derive(Clone, Copy, Debug)]
struct Restoring {
    /// Into which page.
    page: NamedPage,
    /// Nobody waits for it any longer.
    until: Duration,
}

impl Disk {
    pub fn stored(&mut self, hash: ChainHash) {
        self.known.insert(hash);
    }

    pub fn unstored(&mut self, hash: &ChainHash) {
        self.known.remove(hash);
    }

    pub fn spill_ended(&mut self, hash: &ChainHash, stored: bool) {
        self.spilling = self.spilling.saturating_sub(1);
        if !stored {
            self.known.remove(hash);
        }
    }

    /// Whether to read a page although reading was slow: now and then, as it may be quick again.
    fn tries_again(&mut self) -> bool {
        self.unread = (self.unread + 1) % TRIES_ONE_IN;
        self.unread == 0
    }

    /// Whether a sequence that would begin this page should wait for it.
    pub fn is_awaited(&self, hash: &ChainHash, now: Duration) -> bool {
        self.restoring.get(hash).is_some_and(|restoring| now < restoring.until)
    }

    /// When the next sequence gives up waiting.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        self.restoring.values().map(|restoring| restoring.until).filter(|&until| until > now).min()
    }

    /// Pages that are being read into.
    #[cfg(test)]
    pub fn pages(&self) -> impl Iterator<Item = u32> {
        self.restoring.values().map(|restoring| restoring.page.page)
    }

    /// Adds a page to what is written, unless it is there or too many are on their way.
    fn spill(&mut self, page: NamedPage, limits: &DiskLimits, actions: &mut Actions) {
        let has_room = self.spilling < limits.spills_max && actions.spill.len() < limits.step_spills_max;
        if has_room && self.known.insert(page.hash) {
            self.spilling += 1;
            actions.spill.push(page);
        }
    }
}

impl Scheduler {
    /// Names what is to be written: pages given up in this step, and hot ones.
    pub(super) fn plan_spills(&mut self, actions: &mut Actions) {
        let evicted = self.pool.drain_evicted();
        let Some(limits) = self.limits.disk else { return };
        evicted.for_each(|page| self.disk.spill(page, &limits, actions));
        let idle = actions.batch.tokens.is_empty();
        let hot_max = if idle { IDLE_HOT_PAGES_MAX } else { HOT_PAGES_MAX };
        for _ in 0..hot_max {
            if self.disk.spilling == limits.spills_max || actions.spill.len() == limits.step_spills_max {
                break;
            }
            let Some(page) = self.pool.next_hot() else { break };
            self.disk.spill(page, &limits, actions);
        }
    }

    /// Asks for the pages a running sequence would compute next that are on disk.
    pub(super) fn plan_restores(&mut self, id: SequenceId, actions: &mut Actions) {
        let compute_seconds = self.pace.seconds(PAGE_TOKENS);
        let Some(limits) = self.limits.disk.filter(|_| !self.disk.known.is_empty()) else { return };
        let sequence = self.running.get_mut(&id).expect("the caller found it there");
        let Some(first) = sequence.next_page() else { return };
        for index in first.. {
            let Some(hash) = sequence.shared_page(index) else { return };
            if self.disk.restoring.contains_key(&hash) || self.pool.find(&hash).is_some() {
                continue;
            }
            if !self.disk.known.contains(&hash) || self.disk.restoring.len() == limits.restores_max {
                return;
            }
            if self.disk.read_seconds >= compute_seconds && !self.disk.tries_again() {
                return;
            }
            let Some(page) = self.pool.allocate(&mut actions.zero) else { return };
            let page = NamedPage { page, hash, root: sequence.chain.root(index) };
            actions.restore.push(page);
            // All that are under way, computed instead.
            let wait = compute_seconds * (self.disk.restoring.len() + 1) as f64;
            let until = self.now + Duration::from_secs_f64(wait.min(60.0));
            self.disk.restoring.insert(hash, Restoring { page, until });
        }
    }

    /// A read has ended; the page is cached from now on, or free again.
    pub(super) fn end_restore(&mut self, hash: &ChainHash, found: bool, took: Duration) {
        let Some(Restoring { page, .. }) = self.disk.restoring.remove(hash) else { return };
        let mut page_number = page.page;
        if found {
            let seconds = took.as_secs_f64();
            self.disk.read_seconds += NEWEST * (seconds - self.disk.read_seconds);
            self.disk.restored_pages += 1;
            page_number = self.pool.seal(page, Keep::Usual);
        }
        self.pool.release(&mut vec![page_number]);
    }

    /// Sealed pages that are not on disk, the least recently used first: what to write before the end.
    pub fn unsaved_pages(&self) -> Vec<NamedPage> {
        self.pool.to_write().filter(|page| !self.disk.known.contains(&page.hash)).collect()
    }

    /// Pages read back from disk so far.
    pub fn restored_pages(&self) -> u64 {
        self.disk.restored_pages
    }
}
