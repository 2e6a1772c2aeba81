//! A small model that guesses for a large one (Leviathan et al. 2023).
//!
//! It has a cache of its own with as many pages, and uses those of the same numbers: whatever the
//! scheduler does with pages holds for both. Two sequences that share a page share all tokens up to its
//! end, so whoever fills it in this cache writes the same.
//!
//! It computes a sequence only when guesses for it are about to be asked for: what it has not seen yet is
//! caught up with in chunks ([`DraftModel::catch_up`]), as far as that pays. How much of each page is
//! filled is counted by page, so that a prefix that returns need not be caught up with again.

use std::collections::BTreeMap;
use std::time::Duration;

use kernels::{KvCache, PAGE_TOKENS, PagedRows, Softmax, Tensor};

use super::active::ActiveRequest;
use crate::StepClock;
use crate::batch::{Batch, Decoder, PageTables};
use crate::sampler::SamplerScratch;
use crate::scheduler::{Actions, SequenceId};
use crate::speculation::{GUESSES_MAX, Wish};

/// Weight of the newest step in what a guess takes.
const NEWEST: f64 = 0.2;

/// What is left with each step of what a guess and a row are believed to take: who seemed too slow once, as
/// its weights were not in memory yet, gets another try.
const FADING: f64 = 0.99;

/// Fewest tokens to catch up with at once, unless a sequence has fewer, and most: the weights are read once
/// for all of them, and activations take memory for each.
const CHUNK_MIN: usize = 16;
const CHUNK_MAX: usize = 256;

/// Tokens it may be behind with and guess at once, computing them beside the last one.
const BEHIND_MAX: usize = GUESSES_MAX;

pub(super) struct DraftModel {
    network: Box<dyn Decoder>,
    kv: KvCache,
    clock: StepClock,
    batch: Batch,
    tables: PageTables,
    logits: Tensor,
    scratch: SamplerScratch,
    /// By page: its first tokens whose keys and values are in its cache.
    filled: Vec<usize>,
    /// 0 until they are known.
    seconds_a_guess: f64,
    seconds_a_row: f64,
}

/// A sequence to guess for.
pub(super) struct Draftable {
    id: SequenceId,
    /// Its place in the step's batch, whose pages include the one of the last token.
    place: usize,
    /// Its place among the askers.
    pub asker: usize,
    /// Guesses that fit into that page.
    pub room: usize,
    /// Guesses to make.
    pub granted: usize,
}

/// A sequence with tokens that the draft model has not seen.
pub(super) struct Behind<'a> {
    pages: &'a Vec<u32>,
    tokens: &'a [u32],
    /// Tokens that the step's model has seen.
    seen: usize,
    /// Tokens the draft has to see before it can guess, some of which may be to come.
    pub lacking: usize,
}

impl DraftModel {
    pub fn new(network: Box<dyn Decoder>, kv: KvCache, softmax: Softmax, clock: StepClock) -> DraftModel {
        DraftModel {
            scratch: SamplerScratch::new(softmax, network.vocabulary()),
            network,
            filled: vec![0; kv.pages()],
            kv,
            clock,
            batch: Batch::default(),
            tables: PageTables::default(),
            logits: Tensor::default(),
            seconds_a_guess: 0.0,
            seconds_a_row: 0.0,
        }
    }

    pub fn zero(&mut self, pages: &[u32]) {
        for &page in pages {
            self.kv.zero_page(page);
            self.filled[page as usize] = 0;
        }
    }

    pub fn wipe(&mut self) {
        self.kv.wipe();
        self.filled.fill(0);
    }

    /// A sequence of the step, if there is too much that the draft has not seen of it.
    pub fn behind<'a>(&self, rows: &'a PagedRows, tokens: &'a [u32]) -> Option<Behind<'a>> {
        let last = tokens.len() - 1;
        let lacking = last.saturating_sub(self.computed(&rows.pages));
        let seen = (rows.past + rows.rows).min(last);
        (!self.is_near(&rows.pages, last)).then_some(Behind { pages: &rows.pages, tokens, seen, lacking })
    }

    /// A step has passed.
    pub fn fade(&mut self) {
        self.seconds_a_guess *= FADING;
        self.seconds_a_row *= FADING;
    }

    /// Seconds it takes to catch up with so many tokens, as far as is known.
    pub fn seconds_behind(&self, tokens: usize) -> f64 {
        self.seconds_a_row * tokens as f64
    }

    /// Computes what it has not seen of a sequence, in no more than `seconds_max` as far as it knows, but
    /// `CHUNK_MIN` tokens where `credit` seconds allow it.
    pub fn catch_up(&mut self, sequence: &Behind<'_>, seconds_max: f64, credit: f64) -> Duration {
        let began = self.clock.now();
        loop {
            let took = (self.clock.now() - began).as_secs_f64();
            let start = self.computed(sequence.pages);
            let rows = self.unfilled_from(sequence.pages, start, sequence.seen).min(CHUNK_MAX);
            let least = rows.min(CHUNK_MIN);
            if least == 0 || took >= seconds_max || self.seconds_behind(least) > credit - took {
                return self.clock.now() - began;
            }
            let rows = self.rows_within((seconds_max.min(credit) - took).max(0.0), least, rows);
            self.compute(sequence, start, rows);
        }
    }

    /// How many of at most `most` rows take so many seconds, but at least `least`.
    fn rows_within(&self, seconds: f64, least: usize, most: usize) -> usize {
        if seconds.is_infinite() {
            return most;
        }
        // Of what it takes nothing is known before the first chunk.
        let rows = if self.seconds_a_row > 0.0 { (seconds / self.seconds_a_row) as usize } else { 0 };
        rows.clamp(least, most)
    }

    fn compute(&mut self, sequence: &Behind<'_>, start: usize, rows: usize) {
        let began = self.clock.now();
        let end = start + rows;
        self.tables.recycle(&mut self.batch);
        let mut pages = self.tables.copy(sequence.pages);
        pages.truncate(end.div_ceil(PAGE_TOKENS));
        push(&mut self.batch, &sequence.tokens[start..end], start, pages);
        self.network.forward(&self.batch, &mut self.kv, &mut self.logits);
        self.fill(sequence.pages, start, end);
        learn(&mut self.seconds_a_row, self.clock.now() - began, rows);
    }

    /// How many tokens of the sequence with these pages it has computed without a gap.
    fn computed(&self, pages: &[u32]) -> usize {
        let full = pages.iter().take_while(|&&page| self.filled[page as usize] == PAGE_TOKENS).count();
        full * PAGE_TOKENS + pages.get(full).map_or(0, |&page| self.filled[page as usize])
    }

    /// Whether it has computed nearly all tokens up to `last`, and nothing after a gap.
    fn is_near(&self, pages: &[u32], last: usize) -> bool {
        let computed = self.computed(pages).min(last);
        let lacking = last - computed;
        lacking <= BEHIND_MAX && self.unfilled_from(pages, computed, last) == lacking
    }

    /// Rows from `start` to `end`, or to a page that was filled for another.
    fn unfilled_from(&self, pages: &[u32], start: usize, end: usize) -> usize {
        let next = start / PAGE_TOKENS + 1;
        let empty = pages.iter().skip(next).take_while(|&&page| self.filled[page as usize] == 0).count();
        ((next + empty) * PAGE_TOKENS).min(end).saturating_sub(start)
    }

    /// The tokens from `start` to `end` are computed, and all before them.
    fn fill(&mut self, pages: &[u32], start: usize, end: usize) {
        let touched = start / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS);
        for (place, &page) in touched.clone().zip(&pages[touched]) {
            let filled = &mut self.filled[page as usize];
            *filled = (*filled).max((end - place * PAGE_TOKENS).min(PAGE_TOKENS));
        }
    }

    /// Whether it can guess at once after the last token of a sequence of this step.
    pub fn draftable(
        &self,
        actions: &Actions,
        place: usize,
        asker: usize,
        request: &ActiveRequest,
    ) -> Option<Draftable> {
        let (id, rows) = (actions.sequences[place], &actions.batch.sequences[place]);
        let last = request.tokens()?.len() - 1;
        let room = PAGE_TOKENS - 1 - last % PAGE_TOKENS;
        let fits = last / PAGE_TOKENS < rows.pages.len() && room > 0;
        let can_guess = fits && self.is_near(&rows.pages, last);
        can_guess.then_some(Draftable { id, place, asker, room, granted: 0 })
    }

    /// What a guess for `chance` is worth asking for.
    pub fn wish(&self, guesses: usize, chance: f64) -> Wish {
        Wish { guesses, chance, making: self.seconds_a_guess, is_draft: true, granted: 0 }
    }

    /// Guesses as many tokens as granted to each, one a step for all together, and begins none after `credit`
    /// seconds: what a guess takes is only believed before. `batch` is the step they come after.
    pub fn guess(
        &mut self,
        drafting: &[Draftable],
        batch: &Batch,
        requests: &mut BTreeMap<SequenceId, ActiveRequest>,
        credit: f64,
    ) -> Duration {
        let began = self.clock.now();
        let most = drafting.iter().map(|sequence| sequence.granted).max().unwrap_or(0);
        let mut made = 0;
        for round in 0..most {
            if round > 0 && (self.clock.now() - began).as_secs_f64() >= credit {
                break;
            }
            self.tables.recycle(&mut self.batch);
            let asking = drafting.iter().filter(|sequence| round < sequence.granted);
            for sequence in asking.clone() {
                let Some(request) = requests.get(&sequence.id) else { continue };
                let tokens = request.tokens().unwrap_or_default();
                let last = tokens.len() - 1;
                let pages = self.tables.copy(&batch.sequences[sequence.place].pages);
                match round {
                    0 => {
                        let start = self.computed(&pages).min(last);
                        self.fill(&pages, start, last + 1);
                        push(&mut self.batch, &tokens[start..], start, pages);
                    }
                    _ => push(&mut self.batch, &request.guesses(round)[round - 1..], last + round, pages),
                }
                self.batch.logit_rows.push(self.batch.tokens.len() as u32 - 1);
            }
            self.network.forward(&self.batch, &mut self.kv, &mut self.logits);
            for (row, sequence) in asking.enumerate() {
                if let Some(request) = requests.get_mut(&sequence.id) {
                    request.draft(self.logits.row_mut(row), round, &mut self.scratch);
                    made += 1;
                }
            }
        }
        let took = self.clock.now() - began;
        learn(&mut self.seconds_a_guess, took, made);
        took
    }
}

/// What each of so many took.
fn learn(seconds: &mut f64, took: Duration, count: usize) {
    if count > 0 {
        let newest = if *seconds == 0.0 { 1.0 } else { NEWEST };
        *seconds += newest * (took.as_secs_f64() / count as f64 - *seconds);
    }
}

/// Adds rows of one sequence.
fn push(batch: &mut Batch, tokens: &[u32], past: usize, pages: Vec<u32>) {
    let first_row = batch.tokens.len();
    batch.tokens.extend_from_slice(tokens);
    batch.positions.extend((past..past + tokens.len()).map(|position| position as u32));
    batch.sequences.push(PagedRows { first_row, rows: tokens.len(), past, pages });
}
