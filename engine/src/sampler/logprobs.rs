//! Log-probabilities as the API reports them: natural log, of the model's own distribution.

use kernels::Softmax;

use crate::request::{TokenLogprob, TopLogprob};

/// Reported for impossible tokens, because JSON has no -inf. vLLM's value.
pub const LOGPROB_FLOOR: f32 = -9999.0;

/// Log-probability of `token` and of the `top` most likely tokens, most likely first, lower ids first
/// among equals. `bytes_of` gives a token's own bytes.
pub fn token_logprob<'a>(
    softmax: Softmax,
    logits: &[f32],
    token: u32,
    top: usize,
    bytes_of: impl Fn(u32) -> &'a [u8],
) -> TokenLogprob {
    let max = softmax.maximum(logits);
    let log_sum = max + softmax.mass(logits, max, 1.0).ln();
    let logprob_of = |token: u32| logprob(logits.get(token as usize).copied(), max, log_sum);
    let entry =
        |token: u32| TopLogprob { token, bytes: bytes_of(token).to_vec(), logprob: logprob_of(token) };
    TokenLogprob {
        token,
        bytes: bytes_of(token).to_vec(),
        logprob: logprob_of(token),
        top: most_likely(logits, top).into_iter().map(entry).collect(),
    }
}

/// With an infinite logit in the row, the infinite ones are certain and the rest impossible.
fn logprob(logit: Option<f32>, max: f32, log_sum: f32) -> f32 {
    match logit {
        Some(logit) if max.is_finite() && logit > f32::NEG_INFINITY => (logit - log_sum).max(LOGPROB_FLOOR),
        Some(f32::INFINITY) => 0.0,
        _ => LOGPROB_FLOOR,
    }
}

/// Ids of the `count` greatest logits: one pass with a short ordered list, as nearly all tokens fail
/// the first comparison.
fn most_likely(logits: &[f32], count: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let mut worst = f32::NEG_INFINITY;
    for (token, &logit) in logits.iter().enumerate() {
        let wanted = if best.len() < count { !logit.is_nan() } else { logit > worst };
        if !wanted || count == 0 {
            continue;
        }
        let place = best.partition_point(|&(other, _)| other >= logit);
        best.insert(place, (logit, token as u32));
        best.truncate(count);
        worst = best[best.len() - 1].0;
    }
    best.into_iter().map(|(_, token)| token).collect()
}
