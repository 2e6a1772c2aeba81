//! One forward step's input, as plain data: what the scheduler hands to a model.

use kernels::{KvCache, KvLayout, PagedRows, Tensor};

/// Rows of one step: prefill chunks and decodes together, sequence by sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token id of each row.
    pub tokens: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// Which rows belong together, and their pages.
    pub sequences: Vec<PagedRows>,
    /// Rows whose logits are wanted, in ascending order.
    pub logit_rows: Vec<u32>,
}

impl Batch {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.logit_rows.clear();
    }
}

/// Page tables of steps gone by, kept for those to come: a step has one of its own for each sequence.
#[derive(Debug, Default)]
pub(crate) struct PageTables {
    spare: Vec<Vec<u32>>,
}

impl PageTables {
    /// Empties a batch and keeps its tables.
    pub fn recycle(&mut self, batch: &mut Batch) {
        // The last first: the first sequence gets the same table again, which is long enough.
        self.spare.extend(batch.sequences.drain(..).rev().map(|rows| rows.pages));
        batch.clear();
    }

    /// A copy of a table with the same room to grow, so that it need not when that does not.
    pub fn copy(&mut self, pages: &Vec<u32>) -> Vec<u32> {
        let mut table = self.spare.pop().unwrap_or_default();
        table.clear();
        table.reserve_exact(pages.capacity());
        table.extend_from_slice(pages);
        table
    }
}

/// A decoder-only language model.
pub trait Decoder: Send {
    fn kv_layout(&self) -> KvLayout;
    fn vocabulary(&self) -> usize;
    /// Memory of its own; tables read from a file's map are not counted.
    fn weight_bytes(&self) -> usize;
    /// What its matrices weigh; zeros where nobody measures.
    fn weight_counts(&self) -> WeightCounts {
        WeightCounts::default()
    }
    /// Runs one step: writes this step's keys and values into `kv` and leaves one row of logits for
    /// each of `batch.logit_rows` in `logits` (`logit_rows.len()` x vocabulary).
    fn forward(&mut self, batch: &Batch, kv: &mut KvCache, logits: &mut Tensor);
}

/// How much a decoder's matrices weigh, for measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightCounts {
    /// Packed bytes of all layers.
    pub layer_bytes: usize,
    /// Weights of all layers: multiply-adds a token.
    pub layer_weights: usize,
    /// The same of the output projection.
    pub output_bytes: usize,
    pub output_weights: usize,
}

/// A text encoder that makes one vector a sequence.
pub trait Encoder: Send {
    fn dimensions(&self) -> usize;
    /// How many token ids there are; inputs are checked against it where they enter the engine.
    fn vocabulary(&self) -> usize;
    /// As [`Decoder::weight_bytes`].
    fn weight_bytes(&self) -> usize;
    /// Takes in sequences to embed, in place of any before. They are non-empty and fit the model's context.
    fn begin(&mut self, sequences: &[&[u32]]);
    /// Goes on with them for about `work_max` multiply-adds, or for the smallest piece there is. Returns how
    /// many it did: 0 once all is computed.
    fn advance(&mut self, work_max: u64) -> u64;
    /// Pools (and, where the model says so, normalises) one vector for each sequence into `out`
    /// (sequences x dimensions), once all is computed.
    fn finish(&mut self, out: &mut Tensor);
    /// All of it at once.
    fn forward(&mut self, sequences: &[&[u32]], out: &mut Tensor) {
        self.begin(sequences);
        while self.advance(u64::MAX) > 0 {}
        self.finish(out);
    }
}
