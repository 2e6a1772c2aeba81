//! The disk of the simulation: forgets, fails and takes its time.

use std::time::Duration;

use kernels::PAGE_TOKENS;

use super::World;
use crate::scheduler::{Actions, SchedulerEvent};

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
