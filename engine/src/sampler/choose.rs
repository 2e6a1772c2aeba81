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
    collect(&scratch.weights, params.min_p, &mut scratch.candidates);
    keep_top_k(&mut scratch.candidates, params.top_k);
    keep_top_p(&mut scratch.candidates, params.top_p);
    draw_from_candidates(&scratch.candidates, uniform)
}

/// The lowest id with this logit: greedy choice when it is the greatest one. 0 when a broken model left
/// nothing to choose from.
fn first_equal(logits: &[f32], max: f32) -> u32 {
    logits.iter().position(|&logit| logit == max).unwrap_or(0) as u32
}

/// A draw from the whole vocabulary.
fn draw_from_row(weights: &[f32], uniform: f64) -> u32 {
    let total: f64 = weights.chunks(PIECE).map(|piece| f64::from(exp::sum(piece))).sum();
    let mut target = uniform * total;
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

/// Tokens with at least `min_p` times the greatest probability. The most likely one is always there.
fn collect(weights: &[f32], min_p: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    for (token, &weight) in weights.iter().enumerate() {
        if weight > 0.0 && weight >= min_p {
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

/// The shortest run of the most likely candidates that holds `top_p` of their mass. Puts them in order
/// piece by piece: mostly a few hold nearly all of it, and the rest need no order.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
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
