//! The disk of the simulation: forgets, fails and takes its time.

use std::time::Duration;

use kernels::PAGE_TOKENS;

use super::{World, limits, scope};
use crate::Caller;
use crate::pages::Chain;
use crate::scheduler::{Actions, Scheduler, SchedulerEvent, SchedulerLimits, SequenceId};

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
    let mut scheduler = Scheduler::new(SchedulerLimits { has_disk: true, ..limits(2000) });
    let mut read = 0;
    for id in 0..400 {
        let prompt: Vec<u32> = (0..PAGE_TOKENS as u32 + 1).map(|i| id * 1000 + i).collect();
        let hash = Chain::new(scope(0, 0)).get(0, &prompt).expect("the page is full");
        let (id, caller) = (SequenceId(id.into()), Caller::default());
        let arrived = SchedulerEvent::Arrived { id, caller, prompt, score_prompt: false, scope: scope(0, 0) };
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
