//! Tables of hand-computed choices, and statistics of draws under fixed seeds.

use std::f32::consts::LN_2;

use super::*;

fn params() -> SamplingParams {
    SamplingParams { seed: Some(0), ..SamplingParams::default() }
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..params() }
}

fn scratch() -> SamplerScratch {
    let device = kernels::Device::cpu(kernels::CpuOptions { threads: Some(1), isa: None }).unwrap();
    SamplerScratch::new(device.softmax(), 1000)
}

fn choose_once(params: SamplingParams, prompt: &[u32], logits: &[f32]) -> u32 {
    Sampler::new(params, prompt, Vec::new(), 0).choose(&mut logits.to_vec(), &mut scratch())
}

/// How often each token comes in `draws` draws from the same logits.
fn frequencies(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = Sampler::new(params, &[], Vec::new(), 0);
    let mut scratch = scratch();
    let mut logits = logits.to_vec();
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.choose(&mut logits, &mut scratch) as usize] += 1;
    }
    counts
}

/// Chi-square of observed counts against expected probabilities; tokens of probability 0 must not come.
fn check_distribution(params: SamplingParams, logits: &[f32], expected: &[f64], bound: f64) {
    const DRAWS: usize = 50_000;
    let counts = frequencies(params.clone(), logits, DRAWS);
    let mut chi_square = 0.0;
    for (token, (&count, &probability)) in counts.iter().zip(expected).enumerate() {
        if probability == 0.0 {
            assert_eq!(count, 0, "token {token} came under {params:?}");
        } else {
            let mean = probability * DRAWS as f64;
            chi_square += (count as f64 - mean).powi(2) / mean;
        }
    }
    assert!(chi_square < bound, "chi-square {chi_square} of {counts:?} under {params:?}");
}

#[test]
fn greedy_takes_the_greatest_and_the_lowest_id_of_equals() {
    let inf = f32::INFINITY;
    let nan = f32::NAN;
    let rows: &[(&[f32], u32)] = &[
        (&[1.0], 0),
        (&[1.0, 3.0, 2.0], 1),
        (&[3.0, 1.0, 3.0], 0),
        (&[0.0, -0.0, 0.0], 0),
        (&[-5.0, -4.0, -4.0, -6.0], 1),
        (&[-inf, -inf, -3.0], 2),
        (&[nan, 1.0, nan, 2.0], 3),
        (&[nan, nan], 0),
        (&[-inf, -inf], 0),
        (&[1.0, inf, inf], 1),
    ];
    for (logits, expected) in rows {
        assert_eq!(choose_once(greedy(), &[], logits), *expected, "{logits:?}");
        let top_1 = SamplingParams { top_k: 1, ..params() };
        assert_eq!(choose_once(top_1, &[], logits), *expected, "top_k 1 of {logits:?}");
    }
    let mut long = vec![0.0; 1000];
    long[777] = 1.0;
    long[900] = 1.0;
    assert_eq!(choose_once(greedy(), &[], &long), 777);
}

#[test]
fn bias_and_penalties_move_the_greedy_choice() {
    let bias = |bias: &[(u32, f32)]| SamplingParams { logit_bias: bias.to_vec(), ..greedy() };
    let repetition = |penalty| SamplingParams { repetition_penalty: penalty, ..greedy() };
    let rows: &[(SamplingParams, &[u32], &[f32], u32)] = &[
        (bias(&[(2, 5.0)]), &[], &[1.0, 2.0, 0.0], 2),
        (bias(&[(1, -100.0)]), &[], &[1.0, 2.0, 0.0], 0),
        (bias(&[(9, 100.0)]), &[], &[1.0, 2.0, 0.0], 1),
        // 3 / 2 = 1.5 < 2
        (repetition(2.0), &[0], &[3.0, 2.0], 1),
        // 3 / 1.4 = 2.14 > 2
        (repetition(1.4), &[0], &[3.0, 2.0], 0),
        // -1 · 2 = -2 < -1.5
        (repetition(2.0), &[0, 0], &[-1.0, -1.5], 1),
        (repetition(0.5), &[1], &[3.0, 2.0], 1),
        // Presence and frequency do not see the prompt.
        (SamplingParams { presence_penalty: 2.0, ..greedy() }, &[0], &[3.0, 2.0], 0),
        (SamplingParams { frequency_penalty: 2.0, ..greedy() }, &[0], &[3.0, 2.0], 0),
    ];
    for (params, prompt, logits, expected) in rows {
        assert_eq!(choose_once(params.clone(), prompt, logits), *expected, "{params:?} on {logits:?}");
    }
}

/// Greedy tokens of a row that never changes, as penalties build up.
fn sequence(params: SamplingParams, logits: &[f32], length: usize) -> Vec<u32> {
    let mut sampler = Sampler::new(params, &[], Vec::new(), 0);
    let mut row = logits.to_vec();
    let mut scratch = scratch();
    let tokens = (0..length).map(|_| sampler.choose(&mut row, &mut scratch)).collect();
    assert_eq!(row, logits, "logits are left as they were");
    tokens
}

#[test]
fn penalties_grow_with_what_was_generated() {
    let presence = |penalty| SamplingParams { presence_penalty: penalty, ..greedy() };
    let frequency = |penalty| SamplingParams { frequency_penalty: penalty, ..greedy() };
    // Once each down by 1.5: 3.0 1.5, then 2.0 0.5, then the first again for good.
    assert_eq!(sequence(presence(1.5), &[3.0, 2.0], 4), [0, 1, 0, 0]);
    // 3 2 | 2 2 | 1 2 | 1 1 | 0 1
    assert_eq!(sequence(frequency(1.0), &[3.0, 2.0], 5), [0, 0, 1, 0, 1]);
    assert_eq!(sequence(presence(-2.0), &[3.0, 2.0], 3), [0, 0, 0]);
    let both = SamplingParams { repetition_penalty: 2.0, presence_penalty: 1.0, ..greedy() };
    // 4 3 1 | 1 3 1 | 1 .5 1 | 1 .5 1
    assert_eq!(sequence(both, &[4.0, 3.0, 1.0], 4), [0, 1, 0, 0]);
}

#[test]
fn stop_tokens_are_masked_until_min_tokens() {
    let mut sampler = Sampler::new(greedy(), &[], vec![1, 99], 2);
    let mut scratch = scratch();
    let tokens: Vec<u32> = (0..3).map(|_| sampler.choose(&mut [1.0, 2.0], &mut scratch)).collect();
    assert_eq!(tokens, [0, 0, 1]);
}

#[test]
fn a_mask_is_stronger_than_a_bias() {
    let params = SamplingParams { logit_bias: vec![(1, 100.0)], ..greedy() };
    let mut sampler = Sampler::new(params, &[], vec![1], 1);
    assert_eq!(sampler.choose(&mut [1.0, 2.0], &mut scratch()), 0);
}

/// ln of 8, 4, 2, 1, 1 (of 16), in mixed order.
const LOGITS: [f32; 5] = [0.0, 3.0 * LN_2, LN_2, 0.0, 2.0 * LN_2];

#[test]
fn draws_follow_the_distribution() {
    // Bounds: 99.9 % of chi-square with as many degrees of freedom as there are tokens less one.
    check_distribution(params(), &LOGITS, &[0.0625, 0.5, 0.125, 0.0625, 0.25], 18.5);
    let hot = SamplingParams { temperature: 2.0, ..params() };
    let root: [f64; 5] = [1.0, 8f64.sqrt(), 2f64.sqrt(), 1.0, 2.0];
    let total: f64 = root.iter().sum();
    check_distribution(hot, &LOGITS, &root.map(|w| w / total), 18.5);
    let cold = SamplingParams { temperature: 0.5, ..params() };
    check_distribution(cold, &LOGITS, &[1.0 / 86.0, 64.0 / 86.0, 4.0 / 86.0, 1.0 / 86.0, 16.0 / 86.0], 18.5);
}

#[test]
fn truncation_keeps_the_right_tokens_and_renormalises() {
    let top_k = |k| SamplingParams { top_k: k, ..params() };
    let top_p = |p| SamplingParams { top_p: p, ..params() };
    let min_p = |p| SamplingParams { min_p: p, ..params() };
    let two = [0.0, 2.0 / 3.0, 0.0, 0.0, 1.0 / 3.0];
    let three = [0.0, 8.0 / 14.0, 2.0 / 14.0, 0.0, 4.0 / 14.0];
    let all = [0.0625, 0.5, 0.125, 0.0625, 0.25];
    let rows: &[(SamplingParams, [f64; 5])] = &[
        (top_k(2), two),
        (top_k(3), three),
        // Of the two equals, the lower id.
        (top_k(4), [1.0 / 15.0, 8.0 / 15.0, 2.0 / 15.0, 0.0, 4.0 / 15.0]),
        (top_k(5), all),
        (top_k(1000), all),
        (top_p(0.4), [0.0, 1.0, 0.0, 0.0, 0.0]),
        (top_p(0.51), two),
        (top_p(0.74), two),
        (top_p(0.76), three),
        (top_p(1e-6), [0.0, 1.0, 0.0, 0.0, 0.0]),
        (min_p(0.2), three),
        (min_p(0.3), two),
        (min_p(1.0), [0.0, 1.0, 0.0, 0.0, 0.0]),
        // top_p counts what top_k left: 8/14 is less than 0.58.
        (SamplingParams { top_k: 3, top_p: 0.58, ..params() }, two),
        (SamplingParams { top_k: 3, top_p: 0.57, ..params() }, [0.0, 1.0, 0.0, 0.0, 0.0]),
        // min_p counts after the temperature: at 2, the ratios are square roots.
        (
            SamplingParams { temperature: 2.0, min_p: 0.6, ..params() },
            [0.0, 2f64.sqrt() / (1.0 + 2f64.sqrt()), 0.0, 0.0, 1.0 / (1.0 + 2f64.sqrt())],
        ),
    ];
    for (params, expected) in rows {
        check_distribution(params.clone(), &LOGITS, expected, 18.5);
    }
}

#[test]
fn a_nucleus_of_hundreds_is_found_without_full_order() {
    // 800 tokens alike hold 99 %; 1,200 others share the rest.
    let logits: Vec<f32> = (0..2000).map(|i| if i % 5 < 2 { 5.0 } else { 0.0 }).collect();
    let counts = frequencies(SamplingParams { top_p: 0.95, ..params() }, &logits, 16_000);
    let come = counts.iter().filter(|&&count| count > 0).count();
    let mass = 800.0 * 5f64.exp() + 1200.0;
    let nucleus = (0.95 * mass / 5f64.exp()).ceil() as usize;
    assert_eq!(come, nucleus, "about 20 draws a token");
    assert!(counts.iter().enumerate().all(|(token, &count)| count == 0 || token % 5 < 2));
}

/// The tokens truncation leaves, found the slow way: by a full sort.
fn kept(logits: &[f32], params: &SamplingParams) -> Vec<usize> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |&token: &usize| f64::from((logits[token] - max) / params.temperature).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.retain(|token| weight(token) >= f64::from(params.min_p));
    order.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.cmp(b)));
    order.truncate(if params.top_k == 0 { usize::MAX } else { params.top_k });
    let total: f64 = order.iter().map(weight).sum();
    let mut mass = 0.0;
    let is_inside = |token: &usize| {
        let inside = mass < f64::from(params.top_p) * total;
        mass += weight(token);
        inside
    };
    order.into_iter().take_while(is_inside).collect()
}

#[test]
fn truncation_is_that_of_a_full_sort() {
    let random = random::CounterRandom::new(3);
    for seed in 0..40 {
        let length = 1 + random.bits(seed) as usize % 1500;
        let spread = [1.0, 4.0, 12.0][seed as usize % 3];
        let draw = |i: usize| random.uniform(seed << 32 | i as u64) + random.uniform(seed << 40 | i as u64);
        let logits: Vec<f32> = (0..length).map(|i| (draw(i) * spread) as f32).collect();
        let top_k = [0, 0, 2, 20, 700][random.bits(seed + 1000) as usize % 5];
        let top_p = [1.0, 0.99, 0.9, 0.3][random.bits(seed + 2000) as usize % 4];
        let min_p = [0.0, 0.0, 0.05][random.bits(seed + 3000) as usize % 3];
        let params = SamplingParams { top_k, top_p, min_p, ..params() };
        let kept = kept(&logits, &params);
        let counts = frequencies(params.clone(), &logits, 300);
        assert!(counts.iter().enumerate().all(|(t, &n)| n == 0 || kept.contains(&t)), "{params:?}");
        // The least likely token that is kept comes with the last draw there is.
        let mut scratch = scratch();
        let last = choose::choose(scratch.softmax, &logits, &params, 1.0 - 1e-12, &mut scratch.choose);
        assert!(kept.contains(&(last as usize)));
        if top_p < 1.0 {
            assert_eq!(last as usize, kept[kept.len() - 1], "{params:?} on {length} tokens, seed {seed}");
        }
    }
}

#[test]
fn large_vocabularies_are_drawn_from_evenly() {
    let counts = frequencies(params(), &vec![0.0; 1000], 200_000);
    let chi_square: f64 = counts.iter().map(|&n| (n as f64 - 200.0).powi(2) / 200.0).sum();
    // 999 degrees of freedom, 99.9 %.
    assert!(chi_square < 1143.9, "{chi_square}");
}

#[test]
fn a_seed_fixes_the_tokens_and_seeds_differ() {
    let tokens = |seed| {
        let params = SamplingParams { seed, ..SamplingParams::default() };
        let mut sampler = Sampler::new(params, &[], Vec::new(), 0);
        let mut scratch = scratch();
        (0..50).map(|_| sampler.choose(&mut [0.0; 500], &mut scratch)).collect::<Vec<u32>>()
    };
    assert_eq!(tokens(Some(5)), tokens(Some(5)));
    assert_ne!(tokens(Some(5)), tokens(Some(6)));
    assert_ne!(tokens(None), tokens(None));
}

#[test]
fn broken_logits_never_panic() {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1e38, -1e38];
    let all_params = [
        params(),
        greedy(),
        SamplingParams { temperature: 1e-4, ..params() },
        SamplingParams { top_k: 2, top_p: 0.5, min_p: 0.1, ..params() },
        SamplingParams { logit_bias: vec![(0, 100.0), (7, 1.0)], repetition_penalty: 1.5, ..params() },
    ];
    for a in bad {
        for b in bad {
            for c in bad {
                for params in &all_params {
                    let token = choose_once(params.clone(), &[0, 1], &[a, b, c]);
                    assert!(token < 3);
                    let entry = token_logprob(scratch().softmax, &[a, b, c], token, 3, |_| b"x");
                    assert!(entry.logprob.is_finite() && entry.top.iter().all(|t| t.logprob.is_finite()));
                }
            }
        }
    }
}

#[test]
fn impossible_tokens_are_never_drawn() {
    let inf = f32::NEG_INFINITY;
    check_distribution(params(), &[inf, 0.0, f32::NAN, 0.0], &[0.0, 0.5, 0.0, 0.5], 10.9);
}

fn check_logprobs(logits: &[f32], token: u32, logprob: f32, top: &[(u32, f32)]) {
    let bytes: Vec<[u8; 1]> = (0..logits.len()).map(|i| [b'a' + i as u8]).collect();
    let entry = token_logprob(scratch().softmax, logits, token, top.len(), |token| &bytes[token as usize]);
    assert_eq!((entry.token, entry.bytes.as_slice()), (token, &bytes[token as usize][..]));
    assert!((entry.logprob - logprob).abs() < 1e-5, "{} for {logprob}", entry.logprob);
    assert_eq!(entry.top.len(), top.len());
    for (found, &(token, logprob)) in entry.top.iter().zip(top) {
        assert_eq!((found.token, found.bytes[0]), (token, b'a' + token as u8));
        assert!((found.logprob - logprob).abs() < 1e-5, "{} for {logprob}", found.logprob);
    }
}

#[test]
fn logprobs_are_of_the_raw_distribution() {
    let half = 0.5f32.ln();
    let quarter = 0.25f32.ln();
    let sixteenth = 0.0625f32.ln();
    check_logprobs(&LOGITS, 1, half, &[]);
    check_logprobs(&LOGITS, 3, sixteenth, &[(1, half), (4, quarter)]);
    let all = [(1, half), (4, quarter), (2, 0.125f32.ln()), (0, sixteenth), (3, sixteenth)];
    check_logprobs(&LOGITS, 0, sixteenth, &all);
    check_logprobs(&[0.0, f32::NEG_INFINITY], 1, LOGPROB_FLOOR, &[(0, 0.0), (1, LOGPROB_FLOOR)]);
    check_logprobs(&[1000.0, 0.0], 1, -1000.0, &[(0, 0.0)]);
    check_logprobs(&[2.0, 2.0, 2.0, 2.0], 2, quarter, &[(0, quarter), (1, quarter)]);
}
