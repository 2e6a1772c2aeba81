//! A small model that guesses for a large one (Leviathan et al. 2023).
//!
//! It has a cache of its own with as many pages, and uses those of the same numbers: whatever the
//! scheduler does with pages holds for both. So it writes only to pages that the step itself writes to:
//! those before them may have other owners since. A page it did not fill, because its sequence went on
//! without guesses or came back from disk, costs right guesses and nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kernels::{KvCache, PAGE_TOKENS, PagedRows, Tensor};

use super::active::ActiveRequest;
use crate::batch::{Batch, Decoder, PageTables};
use crate::sampler::SamplerScratch;
use crate::scheduler::{Actions, SequenceId};
use crate::speculation::Wish;

/// Weight of the newest step in what a guess takes.
const NEWEST: f64 = 0.2;

pub(super) struct DraftModel {
    network: Box<dyn Decoder>,
    kv: KvCache,
    batch: Batch,
    tables: PageTables,
    logits: Tensor,
    scratch: SamplerScratch,
    /// By sequence: tokens whose keys and values are in its cache.
    computed: BTreeMap<SequenceId, usize>,
    seconds_a_guess: f64,
}

/// A sequence to guess for.
pub(super) struct Draftable {
    id: SequenceId,
    /// Its place in the step's batch, whose pages include the one of the last token.
    place: usize,
    /// Its place among the askers.
    pub asker: usize,
    /// The first position in a page that is this sequence's alone.
    own_from: usize,
    /// Guesses that fit into that page.
    pub room: usize,
    /// Guesses to make.
    pub granted: usize,
}

impl DraftModel {
    pub fn new(network: Box<dyn Decoder>, kv: KvCache) -> DraftModel {
        DraftModel {
            network,
            kv,
            batch: Batch::default(),
            tables: PageTables::default(),
            logits: Tensor::default(),
            scratch: SamplerScratch::default(),
            computed: BTreeMap::new(),
            seconds_a_guess: 0.0,
        }
    }

    pub fn zero(&mut self, pages: &[u32]) {
        pages.iter().for_each(|&page| self.kv.zero_page(page));
    }

    pub fn wipe(&mut self) {
        self.kv.wipe();
    }

    /// Computes what the step computed of prompts, and of sequences it has fallen behind with.
    pub fn follow(&mut self, actions: &Actions, requests: &BTreeMap<SequenceId, ActiveRequest>) {
        actions.preempted.iter().for_each(|id| _ = self.computed.remove(id));
        self.computed.retain(|id, _| requests.contains_key(id));
        self.tables.recycle(&mut self.batch);
        for (rows, &id) in actions.batch.sequences.iter().zip(&actions.sequences) {
            let Some(tokens) = requests.get(&id).and_then(ActiveRequest::tokens) else { continue };
            let start = self.start(id, rows.past).max(own_from(rows));
            let end = (rows.past + rows.rows).min(tokens.len() - 1).max(start);
            // A page that is full now may have other owners from the next step on.
            let fills_page = end / PAGE_TOKENS > start / PAGE_TOKENS;
            if end - start > rows.rows.min(PAGE_TOKENS) || (rows.rows > 1 && end > start) || fills_page {
                push(&mut self.batch, &tokens[start..end], start, self.tables.copy(&rows.pages));
                self.computed.insert(id, end);
            } else {
                self.computed.insert(id, start);
            }
        }
        if !self.batch.tokens.is_empty() {
            self.network.forward(&self.batch, &mut self.kv, &mut self.logits);
        }
    }

    /// Where it goes on. Behind by more than it ever falls back, the sequence was given pages that
    /// another had filled.
    fn start(&self, id: SequenceId, past: usize) -> usize {
        self.computed.get(&id).copied().filter(|&computed| computed + 2 * PAGE_TOKENS > past).unwrap_or(past)
    }

    /// Whether there is room to guess after the last token of a sequence of this step.
    pub fn draftable(
        actions: &Actions,
        place: usize,
        asker: usize,
        request: &ActiveRequest,
    ) -> Option<Draftable> {
        let (id, rows) = (actions.sequences[place], &actions.batch.sequences[place]);
        let last = request.tokens()?.len() - 1;
        let room = PAGE_TOKENS - 1 - last % PAGE_TOKENS;
        let fits = last / PAGE_TOKENS < rows.pages.len() && room > 0;
        fits.then(|| Draftable { id, place, asker, own_from: own_from(rows), room, granted: 0 })
    }

    /// What a guess for `chance` is worth asking for.
    pub fn wish(&self, guesses: usize, chance: f64) -> Wish {
        Wish { guesses, chance, making: self.seconds_a_guess, granted: 0 }
    }

    /// Guesses as many tokens as granted to each, one a step for all together. `batch` is the step they come
    /// after.
    pub fn guess(
        &mut self,
        drafting: &[Draftable],
        batch: &Batch,
        requests: &mut BTreeMap<SequenceId, ActiveRequest>,
    ) -> Duration {
        let began = Instant::now();
        let most = drafting.iter().map(|sequence| sequence.granted).max().unwrap_or(0);
        let mut made = 0;
        for round in 0..most {
            self.tables.recycle(&mut self.batch);
            let asking = drafting.iter().filter(|sequence| round < sequence.granted);
            for sequence in asking.clone() {
                let Some(request) = requests.get(&sequence.id) else { continue };
                let tokens = request.tokens().unwrap_or_default();
                let last = tokens.len() - 1;
                let start = self.computed.get(&sequence.id).copied().unwrap_or(last);
                let start = start.max(sequence.own_from).min(last);
                let pages = self.tables.copy(&batch.sequences[sequence.place].pages);
                match round {
                    0 => push(&mut self.batch, &tokens[start..], start, pages),
                    _ => push(&mut self.batch, &request.guesses(round)[round - 1..], last + round, pages),
                }
                self.batch.logit_rows.push(self.batch.tokens.len() as u32 - 1);
                self.computed.insert(sequence.id, last + 1);
            }
            self.network.forward(&self.batch, &mut self.kv, &mut self.logits);
            for (row, sequence) in asking.enumerate() {
                if let Some(request) = requests.get_mut(&sequence.id) {
                    request.draft(self.logits.row_mut(row), round, &mut self.scratch);
                    made += 1;
                }
            }
        }
        let took = began.elapsed();
        if made > 0 {
            let seconds = took.as_secs_f64() / f64::from(made);
            let newest = if self.seconds_a_guess == 0.0 { 1.0 } else { NEWEST };
            self.seconds_a_guess += newest * (seconds - self.seconds_a_guess);
        }
        took
    }
}

/// Where the first page begins that a step writes to for a sequence: it is not sealed yet.
fn own_from(rows: &PagedRows) -> usize {
    rows.past / PAGE_TOKENS * PAGE_TOKENS
}

/// Adds rows of one sequence.
fn push(batch: &mut Batch, tokens: &[u32], past: usize, pages: Vec<u32>) {
    let first_row = batch.tokens.len();
    batch.tokens.extend_from_slice(tokens);
    batch.positions.extend((past..past + tokens.len()).map(|position| position as u32));
    batch.sequences.push(PagedRows { first_row, rows: tokens.len(), past, pages });
}
