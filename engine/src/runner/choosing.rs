//! What a step's logits lead to: scores of prompt tokens, next tokens and their text, on all threads.
//!
//! A sequence's rows are one thread's, in order, as a guess counts only after the token before it; threads
//! take the next sequence as they get done with one. Nothing of a sequence depends on another, so its tokens
//! do not on who takes it.

use std::collections::BTreeMap;

use kernels::{Device, Tensor};

use super::active::{ActiveRequest, End, NextRow};
use crate::sampler::SamplerScratch;
use crate::scheduler::{Output, OutputKind, SequenceId};
use crate::speculation::GUESSES_MAX;
use crate::tokenizer::Tokenizer;

/// Chooses the tokens of one model's sequences.
pub(super) struct Choosing {
    device: Device,
    /// One a thread.
    scratches: Vec<SamplerScratch>,
    /// Sequences of the step, by id: the first of their rows of logits, and how many there are.
    order: Vec<(SequenceId, usize, usize)>,
    /// Memory for the parts of the next step.
    parts: Vec<Part<'static>>,
}

/// One sequence's part of a step, and what came of it.
pub(super) struct Part<'a> {
    pub id: SequenceId,
    pub request: &'a mut ActiveRequest,
    first_row: usize,
    outputs: &'a [Output],
    logits: &'a mut [f32],
    tokens: [u32; GUESSES_MAX + 1],
    chosen: usize,
    /// Guesses that turned out right, and whether a draft model had made them.
    pub right: usize,
    pub is_drafted: bool,
    pub end: Option<End>,
}

impl Choosing {
    /// For rows of so many logits.
    pub fn new(device: Device, vocabulary: usize) -> Choosing {
        let scratch = || SamplerScratch::new(device.softmax(), vocabulary);
        let scratches = std::iter::repeat_with(scratch).take(device.threads()).collect();
        Choosing { device, scratches, order: Vec::new(), parts: Vec::new() }
    }

    /// Makes room for a sequence, whichever thread takes it.
    pub fn reserve(&mut self, request: &ActiveRequest) {
        self.scratches.iter_mut().for_each(|scratch| request.reserve(scratch));
    }

    /// Uses one row of logits for each output. Hands on what came of each sequence, in the order of rows.
    pub fn choose(
        &mut self,
        outputs: &[Output],
        requests: &mut BTreeMap<SequenceId, ActiveRequest>,
        logits: &mut Tensor,
        tokenizer: &Tokenizer,
        take: impl FnMut(Part<'_>),
    ) {
        let mut parts = emptied(std::mem::take(&mut self.parts));
        self.gather(outputs, requests, &mut parts);
        let columns = logits.columns();
        hand_out(logits.values_mut(), columns, &mut parts);
        self.device.for_each_mut(&mut parts, &mut self.scratches, |part, scratch| {
            part.run(columns, tokenizer, scratch);
        });
        parts.drain(..).for_each(take);
        self.parts = emptied(parts);
    }

    /// The parts of those sequences that are still there, in the order of rows.
    fn gather<'a>(
        &mut self,
        outputs: &'a [Output],
        requests: &'a mut BTreeMap<SequenceId, ActiveRequest>,
        parts: &mut Vec<Part<'a>>,
    ) {
        self.order.clear();
        let mut first_row = 0;
        for rows in outputs.chunk_by(|a, b| a.id == b.id) {
            self.order.push((rows[0].id, first_row, rows.len()));
            first_row += rows.len();
        }
        self.order.sort_unstable();
        let mut order = self.order.iter().peekable();
        for (&id, request) in requests {
            while order.next_if(|(other, ..)| *other < id).is_some() {}
            let Some(&(_, first_row, rows)) = order.next_if(|(other, ..)| *other == id) else { continue };
            parts.push(Part {
                id,
                is_drafted: request.is_drafted(),
                request,
                first_row,
                outputs: &outputs[first_row..][..rows],
                logits: &mut [],
                tokens: [0; GUESSES_MAX + 1],
                chosen: 0,
                right: 0,
                end: None,
            });
        }
        parts.sort_unstable_by_key(|part| part.first_row);
    }
}

/// Gives each part its rows.
fn hand_out<'a>(mut logits: &'a mut [f32], columns: usize, parts: &mut [Part<'a>]) {
    let mut row = 0;
    for part in parts {
        let (_, rest) = logits.split_at_mut((part.first_row - row) * columns);
        (part.logits, logits) = rest.split_at_mut(part.outputs.len() * columns);
        row = part.first_row + part.outputs.len();
    }
}

/// The same memory for parts of another step; the standard library keeps it in such a collection.
fn emptied<'a>(mut parts: Vec<Part<'_>>) -> Vec<Part<'a>> {
    parts.clear();
    parts.into_iter().map(|_| unreachable!("it is empty")).collect()
}

impl Part<'_> {
    /// Tokens that were chosen and do not end it.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens[..self.chosen]
    }

    fn run(&mut self, columns: usize, tokenizer: &Tokenizer, scratch: &mut SamplerScratch) {
        for (output, logits) in self.outputs.iter().zip(self.logits.chunks_exact_mut(columns)) {
            match output.kind {
                OutputKind::Prompt { position } => {
                    self.request.score(position, logits, tokenizer, scratch.softmax());
                    continue;
                }
                OutputKind::Next => {}
                OutputKind::AfterGuess { guess } => {
                    // After a wrong one all others are.
                    if self.tokens[..self.chosen].last() != Some(&guess) {
                        return;
                    }
                    self.right += 1;
                }
            }
            match self.request.next(logits, scratch, tokenizer) {
                NextRow::Continue(token) => {
                    self.tokens[self.chosen] = token;
                    self.chosen += 1;
                }
                NextRow::Finish(end) => {
                    self.end = Some(end);
                    return;
                }
            }
        }
    }
}
