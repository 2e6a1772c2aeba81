//! One pass of an encoder, in pieces: rows of all sequences, how far they are, and the maths of a piece.
//!
//! A row needs keys and values of its whole sequence, so all rows' queries, keys and values come first in a
//! layer. The rest is cut into stages by weights: a slice then reads few of them for many rows, where all of
//! a layer's would be read for few. Within a stage rows do not depend on each other, and the same bits come
//! out however they are cut.

use std::ops::Range;

use kernels::{AttentionSpan, Input, Linear, Tensor};

use super::{EncoderNetwork, Layer, LayerNorm, PositionTable};

/// Fewest rows that use the cores well, and the most that caches hold.
const PIECE_ROWS_MIN: usize = 16;
const PIECE_ROWS_MAX: usize = 512;

/// Multiply-adds that attention to one key is worth, for each dimension of a row: products with the key and
/// with the value, in 16 bits instead of 8.
const ATTENTION_WORK: u64 = 4;

/// The same for looking up and normalising a row.
const EMBED_WORK: u64 = 32;

/// What is done with rows, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Embed,
    /// Queries, keys and values of a layer.
    Project(usize),
    /// Attention.
    Attend(usize),
    /// The feed-forward half up to its widest, and back.
    Expand(usize),
    Contract(usize),
}

const STAGES_A_LAYER: usize = 4;

/// Rows of one pass, and its tensors (rows x width).
#[derive(Default)]
pub(super) struct Pass {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// Rows of each sequence.
    pub segments: Vec<Range<usize>>,
    /// Rows of the longest one.
    pub longest: usize,
    /// Stages that all rows are through, and rows that are through the current one.
    stages_done: usize,
    rows_done: usize,
    pub x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// What attention adds.
    delta: Tensor,
    gate: Tensor,
    up: Tensor,
    angles: Tensor,
    piece: Piece,
}

/// Of the rows at hand.
#[derive(Default)]
struct Piece {
    /// Row of the position or token type table of each token.
    table_rows: Vec<u32>,
    spans: Vec<AttentionSpan>,
    x: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    gate: Tensor,
    up: Tensor,
    angles: Tensor,
}

impl Pass {
    /// Lays out rows of all sequences, one after another.
    pub fn begin(&mut self, sequences: &[&[u32]]) {
        self.tokens.clear();
        self.positions.clear();
        self.segments.clear();
        for sequence in sequences {
            let start = self.tokens.len();
            self.tokens.extend_from_slice(sequence);
            self.positions.extend(0..sequence.len() as u32);
            self.segments.push(start..self.tokens.len());
        }
        self.longest = self.segments.iter().map(Range::len).max().unwrap_or(0);
        (self.stages_done, self.rows_done) = (0, 0);
    }

    /// What is to be done next with the first rows that are not done; `None` at the end.
    pub fn stage(&self, layers: usize) -> Option<Stage> {
        if self.tokens.is_empty() || self.stages_done > STAGES_A_LAYER * layers {
            return None;
        }
        let Some(done) = self.stages_done.checked_sub(1) else { return Some(Stage::Embed) };
        let layer = done / STAGES_A_LAYER;
        Some(match done % STAGES_A_LAYER {
            0 => Stage::Project(layer),
            1 => Stage::Attend(layer),
            2 => Stage::Expand(layer),
            _ => Stage::Contract(layer),
        })
    }

    /// The next rows of the current stage, about `rows_max`, which count as done from now on.
    pub fn take_rows(&mut self, rows_max: usize) -> Range<usize> {
        let (start, all) = (self.rows_done, self.tokens.len());
        let mut end = (start + rows_max.clamp(PIECE_ROWS_MIN, PIECE_ROWS_MAX)).min(all);
        if all - end < PIECE_ROWS_MIN / 2 {
            // Not worth a piece of its own.
            end = all;
        }
        self.rows_done = end;
        if end == all {
            (self.stages_done, self.rows_done) = (self.stages_done + 1, 0);
        }
        start..end
    }
}

impl EncoderNetwork {
    /// Multiply-adds of a row in a stage, about.
    pub(super) fn work_a_row(&self, stage: Stage, longest: usize) -> u64 {
        let hidden = self.embedding.columns() as u64;
        match stage {
            Stage::Embed => EMBED_WORK * hidden,
            Stage::Project(layer) => {
                let Layer { query, key, value, .. } = &self.layers[layer];
                hidden * (query.outputs() + key.outputs() + value.outputs()) as u64
            }
            Stage::Attend(layer) => {
                let width = (self.attention.heads * self.attention.head_dim) as u64;
                width * (self.layers[layer].output.outputs() as u64 + ATTENTION_WORK * longest as u64)
            }
            Stage::Expand(layer) => {
                let Layer { gate, up, .. } = &self.layers[layer];
                hidden * (up.outputs() + gate.as_ref().map_or(0, Linear::outputs)) as u64
            }
            Stage::Contract(layer) => hidden * self.layers[layer].down.inputs() as u64,
        }
    }

    /// x = norm(token + position + type embedding)
    pub(super) fn embed(&self, rows: Range<usize>, pass: &mut Pass) {
        let device = &self.device;
        let Pass { piece, tokens, positions, x, angles, .. } = pass;
        device.embed(&self.embedding, &tokens[rows.clone()], 1.0, &mut piece.x);
        if let Some(PositionTable { table, first }) = &self.positions {
            piece.table_rows.clear();
            piece.table_rows.extend(positions[rows.clone()].iter().map(|position| position + *first as u32));
            device.embed(table, &piece.table_rows, 1.0, &mut piece.delta);
            device.add(&mut piece.x, &piece.delta);
        }
        if let Some(table) = &self.token_types {
            piece.table_rows.clear();
            piece.table_rows.resize(rows.len(), 0);
            device.embed(table, &piece.table_rows, 1.0, &mut piece.delta);
            device.add(&mut piece.x, &piece.delta);
        }
        if let Some(rope) = &self.rope {
            rope.angles(&positions[rows.clone()], &mut piece.angles);
            paste(&piece.angles, angles, rows.start, tokens.len());
        }
        let LayerNorm { gain, bias } = &self.embedding_norm;
        device.layer_norm(&mut piece.x, gain, bias, self.norm_eps);
        paste(&piece.x, x, rows.start, tokens.len());
    }

    /// Queries, keys and values of some rows.
    pub(super) fn project(&self, layer: &Layer, rows: Range<usize>, pass: &mut Pass) {
        let (device, piece, all) = (&self.device, &mut pass.piece, pass.tokens.len());
        copy(&pass.x, rows.clone(), &mut piece.x);
        let outputs =
            &mut [(&layer.query, &mut piece.q), (&layer.key, &mut piece.k), (&layer.value, &mut piece.v)];
        device.linear(&piece.x, outputs);
        if let Some(rope) = &self.rope {
            copy(&pass.angles, rows.clone(), &mut piece.angles);
            device.rope(&mut piece.q, self.attention.head_dim, rope.style, &piece.angles);
            device.rope(&mut piece.k, self.attention.head_dim, rope.style, &piece.angles);
        }
        paste(&piece.q, &mut pass.q, rows.start, all);
        paste(&piece.k, &mut pass.k, rows.start, all);
        paste(&piece.v, &mut pass.v, rows.start, all);
    }

    /// delta = attention(x)
    pub(super) fn attend(&self, layer: &Layer, rows: Range<usize>, pass: &mut Pass) {
        let (device, piece, all) = (&self.device, &mut pass.piece, pass.tokens.len());
        copy(&pass.q, rows.clone(), &mut piece.q);
        spans(&pass.segments, &rows, &mut piece.spans);
        let Piece { q, spans, attended, delta, .. } = piece;
        device.attention_bidirectional(q, &pass.k, &pass.v, spans, &self.attention, attended);
        device.linear(attended, &mut [(&layer.output, delta)]);
        paste(delta, &mut pass.delta, rows.start, all);
    }

    /// x = norm(x + delta), and what feed-forward makes of it at its widest.
    pub(super) fn expand(&self, layer: &Layer, rows: Range<usize>, pass: &mut Pass) {
        let (device, all) = (&self.device, pass.tokens.len());
        let Piece { x, delta, gate, up, .. } = &mut pass.piece;
        copy(&pass.x, rows.clone(), x);
        copy(&pass.delta, rows.clone(), delta);
        let LayerNorm { gain, bias } = &layer.attention_norm;
        let normed = Input::LayerNormed { x, addend: delta, gain, bias, eps: self.norm_eps };
        match &layer.gate {
            Some(weights) => {
                device.linear(normed, &mut [(weights, gate), (&layer.up, up)]);
                paste(gate, &mut pass.gate, rows.start, all);
            }
            None => device.linear(normed, &mut [(&layer.up, up)]),
        }
        paste(up, &mut pass.up, rows.start, all);
        paste(x, &mut pass.x, rows.start, all);
    }

    /// x = norm(x + feed_forward(x))
    pub(super) fn contract(&self, layer: &Layer, rows: Range<usize>, pass: &mut Pass) {
        let (device, activation, all) = (&self.device, self.activation, pass.tokens.len());
        let Piece { x, delta, gate, up, .. } = &mut pass.piece;
        copy(&pass.up, rows.clone(), up);
        let inner = match &layer.gate {
            Some(_) => {
                copy(&pass.gate, rows.clone(), gate);
                Input::Gated { activation, gate, up }
            }
            None => Input::Active { activation, x: up },
        };
        device.linear(inner, &mut [(&layer.down, delta)]);
        copy(&pass.x, rows.clone(), x);
        device.add(x, delta);
        let LayerNorm { gain, bias } = &layer.output_norm;
        device.layer_norm(x, gain, bias, self.norm_eps);
        paste(x, &mut pass.x, rows.start, all);
    }
}

/// Which of `rows`, counted from the first of them, belong to which segment.
fn spans(segments: &[Range<usize>], rows: &Range<usize>, spans: &mut Vec<AttentionSpan>) {
    spans.clear();
    let first = segments.partition_point(|segment| segment.end <= rows.start);
    for segment in segments[first..].iter().take_while(|segment| segment.start < rows.end) {
        let queries = segment.start.max(rows.start) - rows.start..segment.end.min(rows.end) - rows.start;
        spans.push(AttentionSpan { queries, keys: segment.clone() });
    }
}

/// Some rows of a tensor.
fn copy(from: &Tensor, rows: Range<usize>, to: &mut Tensor) {
    let columns = from.columns();
    to.reshape(rows.len(), columns);
    to.values_mut().copy_from_slice(&from.values()[rows.start * columns..rows.end * columns]);
}

/// Puts rows into a tensor of `rows` rows.
fn paste(from: &Tensor, to: &mut Tensor, first: usize, rows: usize) {
    let columns = from.columns();
    if (to.rows(), to.columns()) != (rows, columns) {
        to.reshape(rows, columns);
    }
    to.values_mut()[first * columns..][..from.values().len()].copy_from_slice(from.values());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_passes_every_stage_in_order() {
        for (lengths, rows_max) in
            [(&[1][..], 0), (&[40, 3], 17), (&[512, 8, 600], 100), (&[700], usize::MAX)]
        {
            let sequences: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![7; length]).collect();
            let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
            let mut pass = Pass::default();
            pass.begin(&sequences);
            let mut seen: Vec<(Stage, usize)> = Vec::new();
            while let Some(stage) = pass.stage(2) {
                let rows = pass.take_rows(rows_max);
                assert!(rows.len() <= PIECE_ROWS_MAX + PIECE_ROWS_MIN, "{rows:?}");
                match seen.last_mut() {
                    Some((last, end)) if *last == stage => {
                        assert_eq!(*end, rows.start);
                        *end = rows.end;
                    }
                    _ => seen.push((stage, rows.end)),
                }
            }
            let all: usize = lengths.iter().sum();
            let layer = |layer| {
                [Stage::Project(layer), Stage::Attend(layer), Stage::Expand(layer), Stage::Contract(layer)]
            };
            let stages = [Stage::Embed].into_iter().chain(layer(0)).chain(layer(1));
            assert_eq!(seen, stages.map(|stage| (stage, all)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn spans_divide_rows_by_segment() {
        let segments = [0..4, 4..5, 5..20];
        for (rows, expected) in [
            (0..20, vec![(0..4, 0..4), (4..5, 4..5), (5..20, 5..20)]),
            (2..5, vec![(0..2, 0..4), (2..3, 4..5)]),
            (6..9, vec![(0..3, 5..20)]),
        ] {
            let mut found = Vec::new();
            spans(&segments, &rows, &mut found);
            let expected: Vec<AttentionSpan> =
                expected.into_iter().map(|(queries, keys)| AttentionSpan { queries, keys }).collect();
            assert_eq!(found, expected, "{rows:?}");
        }
    }
}
