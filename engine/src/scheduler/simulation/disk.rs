//! The disk of the simulation: forgets, fails and takes its time.

use std::time::Duration;

use kernels::PAGE_TOKENS;

use super::{World, limits, scope};
use crate::Caller;
use crate::pages::Chain;
use crate::scheduler::{Actions, DiskLimits, Scheduler, SchedulerEvent, SchedulerLimits, SequenceId};

impl World {
    /// Plays the disk, which fails now and then.
    pub fn write_to_disk(&mut self, actions: &Actions) {
        for page in &actions.spill {
            let stored = self.below(8) > 0;
            if stored {
                let content = self.cache[page.page as usize];
                assert!(content.iter().all(Option::is_some), "a page that is not full is written");
                self.disk.insert(page.hash, content);
            }
            self.events.push(SchedulerEvent::SpillEnded { hash: page.hash, stored });
        }
        if !self.disk.is_empty() && self.below(20) == 0 {
            let chosen = self.below(self.disk.len());
            let hash = *self.disk.keys().nth(chosen).expect("so many are there");
            self.disk.remove(&hash);
            self.events.push(SchedulerEvent::Unstored { hash });
        }
    }

    pub fn read_from_disk(&mut self, actions: &Actions) {
        for &page in &actions.restore {
            let found = self.disk.contains_key(&page.hash) && self.below(8) > 0;
            self.reads.push((page, found));
        }
        while !self.reads.is_empty() && self.below(2) == 0 {
            let (page, found) = self.reads.remove(0);
            if let Some(&content) = self.disk.get(&page.hash).filter(|_| found) {
                let slots = &mut self.cache[page.page as usize];
                assert_eq!(*slots, [None; PAGE_TOKENS], "page {} was not zeroed", page.page);
                *slots = content;
                self.restored += 1;
            }
            let found = found && self.disk.contains_key(&page.hash);
            let took = Duration::from_micros(self.below(20_000) as u64);
            self.events.push(SchedulerEvent::Restored { hash: page.hash, found, took });
        }
    }
}

/// How many of 400 prompts had a page read, when the first reads take so long and the later ones none.
fn reads(slow: usize, took: Duration) -> usize {
    let mut scheduler = Scheduler::new(SchedulerLimits { disk: Some(DiskLimits::of(1)), ..limits(2000) });
    let mut read = 0;
    for id in 0..400 {
        let prompt: Vec<u32> = (0..PAGE_TOKENS as u32 + 1).map(|i| id * 1000 + i).collect();
        let hash = Chain::new(scope(0, 0)).get(0, &prompt).expect("the page is full");
        let (id, caller) = (SequenceId(id.into()), Caller::default());
        let arrived =
            SchedulerEvent::Arrived { id, caller, prompt, score_prompt: false, chain: scope(0, 0).into() };
        let actions = scheduler.step(Duration::ZERO, [SchedulerEvent::Stored { hash }, arrived]);
        let took = if read < slow { took } else { Duration::ZERO };
        read += actions.restore.len();
        let restored = SchedulerEvent::Restored { hash, found: true, took };
        let restored = actions.restore.iter().map(|_| restored.clone());
        scheduler.step(Duration::ZERO, restored.chain([SchedulerEvent::Ended { id }]));
    }
    read
}

#[test]
fn a_slow_disk_is_asked_less_and_trusted_again_once_it_is_quick() {
    assert_eq!(reads(0, Duration::ZERO), 400);
    let all_slow = reads(400, Duration::from_secs(10));
    assert!((10..60).contains(&all_slow), "{all_slow}");
    let one_slow = reads(1, Duration::from_secs(1));
    assert!((200..400).contains(&one_slow), "{one_slow}");
}

/// For pages of so many bytes: the most that one step writes, that are on their way to the disk together, and
/// from it.
fn on_their_way(page_bytes: usize) -> [usize; 3] {
    let disk = Some(DiskLimits::of(page_bytes));
    let mut scheduler = Scheduler::new(SchedulerLimits { disk, step_tokens_max: 10_000, ..limits(100) });
    let prompt =
        |id: u32| -> Vec<u32> { (0..40 * PAGE_TOKENS as u32 + 1).map(|i| id * 10_000 + i).collect() };
    let arrived = |id: u32| {
        let (id, caller, prompt) = (SequenceId(id.into()), Caller::default(), prompt(id));
        SchedulerEvent::Arrived { id, caller, prompt, score_prompt: false, chain: scope(0, 0).into() }
    };
    let mut spills = Vec::new();
    for id in 0..20 {
        let rows = scheduler.step(Duration::ZERO, [arrived(id)]).batch.tokens.len();
        assert_eq!(rows, prompt(id).len());
        let ran = SchedulerEvent::Ran { rows, took: Duration::ZERO };
        scheduler.take_in(Duration::ZERO, [ran, SchedulerEvent::Ended { id: SequenceId(id.into()) }]);
        spills.push(scheduler.give_up_cached().spill.len());
    }
    let mut chain = Chain::new(scope(0, 0));
    let stored: Vec<SchedulerEvent> = (0..40)
        .filter_map(|index| chain.get(index, &prompt(50)))
        .map(|hash| SchedulerEvent::Stored { hash })
        .collect();
    let reads = scheduler.step(Duration::ZERO, stored.into_iter().chain([arrived(50)])).restore.len();
    [spills.iter().copied().max().unwrap_or(0), spills.iter().sum(), reads]
}

#[test]
fn copies_on_their_way_are_bounded_in_number_and_bytes() {
    for (page_bytes, expected) in [
        (1, [12, 12, 16]),
        (1 << 20, [8, 12, 16]),
        (4 << 20, [2, 8, 8]),
        // One is always possible.
        (1 << 30, [1, 1, 1]),
    ] {
        assert_eq!(on_their_way(page_bytes), expected, "pages of {page_bytes} bytes");
    }
}
