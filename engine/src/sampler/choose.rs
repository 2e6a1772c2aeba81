//! One token out of a row of adjusted logits.
//!
//! Truncation keeps few tokens of a vocabulary, so the row is walked twice in whole registers, for the
//! greatest logit of each piece and for what all tokens weigh together, and only pieces whose greatest is
//! likely enough are looked into.

use std::cmp::Ordering;

use kernels::{MASS_PIECE, MAXIMA_PIECE, Softmax};

use crate::request::SamplingParams;

/// Below this, a temperature divides logits by too little to tell it from greedy choice.
const TEMPERATURE_MIN: f32 = 1e-5;

/// Candidates of `top_p` are put in order this many at first, then in growing pieces.
const SORTED_PIECE: usize = 64;

/// Least weights of the candidates of `top_p` that are tried in turn, as long as those above do not hold
/// enough. Mostly the first few tokens do.
const WEIGHT_FLOORS: [f32; 3] = [1.0 / 32.0, 1.0 / 1024.0, 1.0 / 32768.0];

/// More than any order of summing candidates makes of a difference. The total they are compared with is rounder,
/// which costs a closer look where nearly all of it is wanted.
const SUM_ERROR: f64 = 1e-9;

/// A piece's greatest weight is that of its greatest logit but for this part of it, as weights are not
/// exact.
const WEIGHT_ERROR: f32 = 1e-4;

/// Buffers of one row.
#[derive(Debug, Default)]
pub struct ChooseScratch {
    /// Greatest logit of each [`MAXIMA_PIECE`], and what it weighs.
    maxima: Vec<f32>,
    weights: Vec<f32>,
    /// What each [`MASS_PIECE`] weighs.
    masses: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl ChooseScratch {
    /// With room for every row of so many logits.
    pub fn new(vocabulary: usize) -> ChooseScratch {
        let pieces = vocabulary.div_ceil(MAXIMA_PIECE);
        ChooseScratch {
            maxima: Vec::with_capacity(pieces),
            weights: Vec::with_capacity(pieces),
            masses: Vec::with_capacity(vocabulary.div_ceil(MASS_PIECE)),
            candidates: Vec::with_capacity(vocabulary),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    weight: f32,
    token: u32,
}

impl Candidate {
    /// More likely first; of two as likely, the lower id.
    fn order(&self, other: &Candidate) -> Ordering {
        other.weight.total_cmp(&self.weight).then(self.token.cmp(&other.token))
    }
}

/// A row, and how it is weighed: the most likely token weighs 1.
#[derive(Clone, Copy)]
struct Row<'a> {
    softmax: Softmax,
    logits: &'a [f32],
    max: f32,
    /// Of the temperature.
    factor: f32,
}

/// Chooses by `uniform` in [0, 1).
pub(super) fn choose(
    softmax: Softmax,
    logits: &[f32],
    params: &SamplingParams,
    uniform: f64,
    scratch: &mut ChooseScratch,
) -> u32 {
    if params.temperature < TEMPERATURE_MIN || params.top_k == 1 {
        return softmax.most_likely(logits) as u32;
    }
    let max = softmax.maxima(logits, &mut scratch.maxima);
    if !max.is_finite() {
        return softmax.most_likely(logits) as u32;
    }
    let row = Row { softmax, logits, max, factor: 1.0 / params.temperature };
    if params.top_k == 0 && params.top_p >= 1.0 && params.min_p <= 0.0 {
        return draw_from_row(row, uniform, &mut scratch.masses);
    }
    truncate(row, params, scratch);
    draw_from_candidates(&scratch.candidates, uniform)
}

/// Leaves the tokens to draw from in `candidates`.
fn truncate(row: Row<'_>, params: &SamplingParams, scratch: &mut ChooseScratch) {
    let ChooseScratch { maxima, weights, masses, candidates } = scratch;
    weights.resize(maxima.len(), 0.0);
    row.weigh(maxima, weights);
    if params.top_k == 0 && params.min_p <= 0.0 {
        let total = row.total(masses);
        collect_nucleus(row, weights, params.top_p, total, candidates);
        return keep_top_p(candidates, params.top_p, total);
    }
    let floor = match params.top_k {
        0 => 0.0,
        // The greatest logits are not wanted any more.
        k => top_k_floor(weights, k, maxima),
    };
    collect(row, weights, params.min_p.max(floor), candidates);
    keep_top_k(candidates, params.top_k);
    let total = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    keep_top_p(candidates, params.top_p, total);
}

impl Row<'_> {
    fn weigh(&self, logits: &[f32], weights: &mut [f32]) {
        self.softmax.weights(logits, self.max, self.factor, weights);
    }

    /// What all tokens weigh, and in `masses` those of each [`MASS_PIECE`].
    fn total(&self, masses: &mut Vec<f32>) -> f64 {
        self.softmax.masses(self.logits, self.max, self.factor, masses);
        masses.iter().map(|&mass| f64::from(mass)).sum()
    }
}

/// The k-th greatest of the pieces' greatest weights: at least k weights reach it.
fn top_k_floor(weights: &[f32], k: usize, order: &mut Vec<f32>) -> f32 {
    order.clear();
    order.extend_from_slice(weights);
    match order.get(k - 1) {
        None => 0.0,
        Some(_) => *order.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
    }
}

/// Tokens of at least this weight, given the greatest of each piece. The most likely one, whose weight is 1,
/// is always among them.
fn collect(row: Row<'_>, greatest: &[f32], weight_min: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    // What cannot be drawn weighs nothing; all else is far from the end of the range.
    let weight_min = weight_min.max(f32::MIN_POSITIVE);
    let least = weight_min * (1.0 - WEIGHT_ERROR);
    let (mut weights, mut found) = ([0.0; MAXIMA_PIECE], [Candidate { weight: 0.0, token: 0 }; MAXIMA_PIECE]);
    for (index, (logits, &greatest)) in row.logits.chunks(MAXIMA_PIECE).zip(greatest).enumerate() {
        if greatest < least {
            continue;
        }
        let weights = &mut weights[..logits.len()];
        row.weigh(logits, weights);
        // Whether a token stays is not to be foretold, so each is written and few are counted.
        let mut count = 0;
        for (token, &weight) in (index * MAXIMA_PIECE..).zip(&*weights) {
            found[count] = Candidate { weight, token: token as u32 };
            count += usize::from(weight >= weight_min);
        }
        candidates.extend_from_slice(&found[..count]);
    }
}

/// Tokens that hold `top_p` of the total, and with each of them all that are as likely: as few as some tries
/// find.
fn collect_nucleus(row: Row<'_>, greatest: &[f32], top_p: f32, total: f64, candidates: &mut Vec<Candidate>) {
    // All tokens below (1 - p) · total / n together hold less than 1 - p. Half of it leaves room for
    // rounding.
    let floor = (0.5 * (1.0 - f64::from(top_p)) * total / row.logits.len() as f64) as f32;
    let enough = f64::from(top_p) * total * (1.0 + SUM_ERROR);
    for weight_min in WEIGHT_FLOORS.into_iter().filter(|&weight_min| weight_min > floor) {
        collect(row, greatest, weight_min, candidates);
        if candidates.iter().map(|candidate| f64::from(candidate.weight)).sum::<f64>() >= enough {
            return;
        }
    }
    collect(row, greatest, floor, candidates);
}

/// A draw from the whole vocabulary.
fn draw_from_row(row: Row<'_>, uniform: f64, masses: &mut Vec<f32>) -> u32 {
    let total = row.total(masses);
    let (piece, target) = walk(masses.iter().copied(), uniform * total);
    let start = piece * MASS_PIECE;
    let logits = &row.logits[start..row.logits.len().min(start + MASS_PIECE)];
    let weights = &mut [0.0; MASS_PIECE][..logits.len()];
    row.weigh(logits, weights);
    (start + walk(weights.iter().copied(), target).0) as u32
}

fn draw_from_candidates(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let (index, _) = walk(candidates.iter().map(|candidate| candidate.weight), uniform * total);
    candidates[index].token
}

/// Index of the weight in which `target` falls, and how far. Rounding may carry it past the end: then the last
/// weight above 0, past all of it.
fn walk(weights: impl Iterator<Item = f32>, mut target: f64) -> (usize, f64) {
    let mut last = 0;
    for (i, weight) in weights.enumerate() {
        let weight = f64::from(weight);
        if weight > 0.0 {
            last = i;
            if target < weight {
                return (i, target);
            }
        }
        target -= weight;
    }
    (last, f64::INFINITY)
}

fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: usize) {
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k, Candidate::order);
        candidates.truncate(top_k);
    }
}

/// The shortest run of the most likely candidates that holds `top_p` of the `total` mass. Puts them in
/// order piece by piece: mostly a few hold nearly all of it, and the rest need no order.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32, total: f64) {
    if top_p >= 1.0 {
        return;
    }
    let wanted = f64::from(top_p) * total;
    let (mut sorted, mut piece, mut mass) = (0, SORTED_PIECE, 0.0);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let count = piece.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, Candidate::order);
        }
        rest[..count].sort_unstable_by(Candidate::order);
        for i in sorted..sorted + count {
            mass += f64::from(candidates[i].weight);
            if mass >= wanted {
                return candidates.truncate(i + 1);
            }
        }
        sorted += count;
        piece *= 4;
    }
}
