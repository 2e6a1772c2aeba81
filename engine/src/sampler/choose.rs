//! One token out of a row of adjusted logits.

use std::cmp::Ordering;

use super::exp;
use crate::request::SamplingParams;

/// Below this, a temperature divides logits by too little to tell it from greedy choice.
const TEMPERATURE_MIN: f32 = 1e-5;

/// Rows are walked in pieces of this many weights, so that a draw adds few numbers one by one.
const PIECE: usize = 256;

/// Candidates of `top_p` are put in order this many at first, then in growing pieces.
const SORTED_PIECE: usize = 64;

/// Buffers of one row.
#[derive(Debug, Default)]
pub struct ChooseScratch {
    /// Probability of each token, relative to the most likely one's.
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Greatest weight of each piece.
    maxima: Vec<f32>,
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

/// Chooses by `uniform` in [0, 1).
pub(super) fn choose(
    logits: &[f32],
    params: &SamplingParams,
    uniform: f64,
    scratch: &mut ChooseScratch,
) -> u32 {
    let max = exp::maximum(logits);
    if params.temperature < TEMPERATURE_MIN || params.top_k == 1 || !max.is_finite() {
        return first_equal(logits, max);
    }
    exp::exponentials(logits, max, 1.0 / params.temperature, &mut scratch.weights);
    let truncates = params.top_k > 0 || params.top_p < 1.0 || params.min_p > 0.0;
    if !truncates {
        return draw_from_row(&scratch.weights, uniform);
    }
    let ChooseScratch { weights, candidates, maxima } = scratch;
    let floor = weight_floor(weights, params, maxima);
    collect(weights, params.min_p.max(floor), candidates);
    keep_top_k(candidates, params.top_k);
    let total = match params.top_k == 0 && params.min_p == 0.0 {
        true => total(weights),
        false => candidates.iter().map(|candidate| f64::from(candidate.weight)).sum(),
    };
    keep_top_p(candidates, params.top_p, total);
    draw_from_candidates(candidates, uniform)
}

/// A weight that every token truncation keeps reaches: what lies below needs no closer look, and that
/// is nearly all of the vocabulary.
fn weight_floor(weights: &[f32], params: &SamplingParams, maxima: &mut Vec<f32>) -> f32 {
    if params.top_k > 0 {
        return top_k_floor(weights, params.top_k, maxima);
    }
    if params.min_p > 0.0 || params.top_p >= 1.0 {
        return 0.0;
    }
    // All tokens below (1 - p) · total / n together hold less than 1 - p. Half of it leaves room for
    // rounding.
    (0.5 * (1.0 - f64::from(params.top_p)) * total(weights) / weights.len() as f64) as f32
}

/// The k-th greatest of the pieces' maxima: at least k weights reach it.
fn top_k_floor(weights: &[f32], k: usize, maxima: &mut Vec<f32>) -> f32 {
    maxima.clear();
    maxima.extend(weights.chunks(SORTED_PIECE).map(exp::maximum));
    match maxima.get(k - 1) {
        None => 0.0,
        Some(_) => *maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
    }
}

fn total(weights: &[f32]) -> f64 {
    weights.chunks(PIECE).map(|piece| f64::from(exp::sum(piece))).sum()
}

/// Greedy choice.
pub fn most_likely(logits: &[f32]) -> u32 {
    first_equal(logits, exp::maximum(logits))
}

/// The lowest id with this logit: greedy choice when it is the greatest one. 0 when a broken model left
/// nothing to choose from.
fn first_equal(logits: &[f32], max: f32) -> u32 {
    // Piece by piece without leaving early, which whole registers do.
    let holds_max = |piece: &[f32]| piece.iter().fold(false, |found, &logit| found | (logit == max));
    let Some(piece) = logits.chunks(PIECE).position(holds_max) else { return 0 };
    let within = logits[piece * PIECE..].iter().position(|&logit| logit == max).unwrap_or(0);
    (piece * PIECE + within) as u32
}

/// A draw from the whole vocabulary.
fn draw_from_row(weights: &[f32], uniform: f64) -> u32 {
    let mut target = uniform * total(weights);
    let mut last = 0;
    for (i, piece) in weights.chunks(PIECE).enumerate() {
        let mass = f64::from(exp::sum(piece));
        if mass > 0.0 {
            last = i;
        }
        if target < mass {
            break;
        }
        target -= mass;
    }
    // Rounding may carry the target past the last piece's end; its last possible token is the answer.
    let piece = &weights[last * PIECE..weights.len().min((last + 1) * PIECE)];
    (last * PIECE + walk(piece.iter().copied(), target)) as u32
}

fn draw_from_candidates(candidates: &[Candidate], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let index = walk(candidates.iter().map(|candidate| candidate.weight), uniform * total);
    candidates[index].token
}

/// Index of the weight in which `target` falls, else of the last one above 0.
fn walk(weights: impl Iterator<Item = f32>, mut target: f64) -> usize {
    let mut last = 0;
    for (i, weight) in weights.enumerate() {
        let weight = f64::from(weight);
        if weight > 0.0 {
            last = i;
            if target < weight {
                return i;
            }
        }
        target -= weight;
    }
    last
}

/// Tokens of at least this weight. The most likely one, whose weight is 1, is always among them.
fn collect(weights: &[f32], weight_min: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    // Once for all rows.
    candidates.reserve(weights.len());
    for (token, &weight) in weights.iter().enumerate() {
        if weight > 0.0 && weight >= weight_min {
            candidates.push(Candidate { weight, token: token as u32 });
        }
    }
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
