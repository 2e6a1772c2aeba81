//! Sampled tokens come as often as the model says, with guesses as without: Pearson's chi-square test
//! against the probabilities of a model whose logits are a table.
//!
//! Tokens are also looked at apart by what the text guessed at their place. A guess from the text is a
//! function of what came before, so it must not matter; a rule that favours guesses may leave the whole
//! distribution as it is (a guess is itself drawn from the model, some time ago), but not this one.

use std::collections::BTreeMap;

use kernels::{KvCache, KvLayout, Tensor};

use super::*;
use crate::Speculation;
use crate::batch::{Batch, Decoder};
use crate::model::Network;
use crate::sampler::random::CounterRandom;
use crate::speculation::Guesser;

/// The tokens a chain says; all others are impossible.
const TOKENS: usize = 6;

/// Sequences of one case and their lengths. Seeds are counted from 0: a case is always the same.
const SEQUENCES: u64 = 40;
const LENGTH: usize = 1000;

/// Standard normal quantile that is exceeded once in a million: a sound sampler fails one of a million
/// cases, were its seeds new each time.
const QUANTILE: f64 = 4.753;

/// Logits of the next token after token `last`, in a chain and in another like it, a poor draft for it.
fn logit(last: usize, next: usize, poor: bool) -> f32 {
    let mixed = CounterRandom::new(3).uniform((last * TOKENS + next) as u64) as f32;
    let noise = CounterRandom::new(4).uniform((last * TOKENS + next) as u64) as f32;
    3.0 * mixed + if poor { 2.0 * noise } else { 0.0 }
}

/// A model whose next token depends on the last one only.
struct Chain {
    poor: bool,
}

impl Decoder for Chain {
    fn kv_layout(&self) -> KvLayout {
        KV_LAYOUT
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn weight_bytes(&self) -> usize {
        0
    }

    fn forward(&mut self, batch: &Batch, _kv: &mut KvCache, logits: &mut Tensor) {
        logits.reshape(batch.logit_rows.len(), VOCABULARY);
        logits.values_mut().fill(f32::NEG_INFINITY);
        for (out, &row) in batch.logit_rows.iter().enumerate() {
            let last = batch.tokens[row as usize] as usize;
            let row = &mut logits.row_mut(out)[..TOKENS];
            row.iter_mut().enumerate().for_each(|(next, value)| *value = logit(last, next, self.poor));
        }
    }
}

fn chain(name: &str, poor: bool) -> LoadedModel {
    let mock = MockOptions { name: name.to_owned(), ..MockOptions::default() };
    LoadedModel { network: Network::Decoder(Box::new(Chain { poor })), ..chat_model(mock) }
}

/// How likely each token is after `last`: softmax, then `top_k`, `min_p` and `top_p` as their definitions say.
fn probabilities(last: usize, sampling: &SamplingParams) -> [f64; TOKENS] {
    let weight = |next| (f64::from(logit(last, next, false)) / f64::from(sampling.temperature)).exp();
    let mut order: Vec<usize> = (0..TOKENS).collect();
    order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
    let greatest = weight(order[0]);
    order.retain(|&next| weight(next) >= f64::from(sampling.min_p) * greatest);
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let total: f64 = order.iter().map(|&next| weight(next)).sum();
    let mut found = [0.0; TOKENS];
    let mut mass = 0.0;
    for next in order {
        if mass < f64::from(sampling.top_p) {
            found[next] = weight(next) / total;
            mass += found[next];
        }
    }
    found.map(|probability| probability / mass)
}

/// How often each token came, by the token before it and what the text guessed.
#[derive(Default)]
struct Counts(BTreeMap<(u32, Option<u32>), [u64; TOKENS]>);

impl Counts {
    fn add(&mut self, prompt: &[u32], answer: &[u32]) {
        let mut text = Text::new(prompt);
        for &token in answer {
            self.0.entry((text.last, text.guess())).or_default()[token as usize] += 1;
            text.push(token);
        }
    }

    /// Whether tokens come as often as they should, and how far from that they are: the statistic, and
    /// what it exceeds by chance once in a million times.
    fn compare(&self, sampling: &SamplingParams) -> (f64, f64) {
        let (mut statistic, mut freedom) = (0.0, 0.0);
        for (&(last, _), counts) in &self.0 {
            let all = counts.iter().sum::<u64>() as f64;
            let (mut cells, mut rest) = (0, (0.0, 0.0));
            for (&count, probability) in counts.iter().zip(probabilities(last as usize, sampling)) {
                let (count, expected) = (count as f64, all * probability);
                assert!(count == 0.0 || expected > 0.0, "a token that is not possible after {last}");
                // Rarer ones together: below 5 the statistic is not distributed as is assumed.
                if expected < 5.0 {
                    rest = (rest.0 + count, rest.1 + expected);
                } else {
                    statistic += (count - expected).powi(2) / expected;
                    cells += 1;
                }
            }
            if rest.1 >= 5.0 {
                statistic += (rest.0 - rest.1).powi(2) / rest.1;
                cells += 1;
            }
            freedom += f64::from(cells - 1).max(0.0);
        }
        // Wilson and Hilferty 1931.
        let ninth = 2.0 / (9.0 * freedom);
        (statistic, freedom * (1.0 - ninth + QUANTILE * ninth.sqrt()).powi(3))
    }
}

/// A sequence and what its text guesses.
struct Text {
    guesser: Guesser,
    last: u32,
}

impl Text {
    fn new(prompt: &[u32]) -> Text {
        Text { guesser: Guesser::new(prompt), last: prompt[prompt.len() - 1] }
    }

    fn guess(&mut self) -> Option<u32> {
        let wish = self.guesser.wish(1);
        self.guesser.guesses(wish.guesses).first().copied()
    }

    fn push(&mut self, token: u32) {
        self.guesser.push(token);
        self.last = token;
    }
}

fn prompt(seed: u64) -> Vec<u32> {
    (0..8).map(|i| (CounterRandom::new(seed).bits(1 << 40 | i) % TOKENS as u64) as u32).collect()
}

/// What an engine draws with all guesses computed that there are.
fn drawn(sampling: &SamplingParams, draft: Option<LoadedModel>) -> (Counts, crate::EngineStats) {
    let mut model = chain("mock", false);
    if let Some(draft) = draft {
        model = model.with_draft(draft).expect("the same vocabulary");
    }
    let options = EngineOptions {
        speculation: Speculation::Always,
        stream_backlog: 2 * LENGTH,
        kv_bytes_max: 2000 * model.page_bytes(),
        ..EngineOptions::default()
    };
    let engine = Engine::start(vec![model], options).expect("a mock engine starts");
    let submit = |seed: u64| {
        let sampling = SamplingParams { seed: Some(seed), ..sampling.clone() };
        let request = Request { prompt: prompt(seed), sampling, max_new_tokens: LENGTH, ..request("") };
        engine.submit(request).expect("the engine takes it")
    };
    let streams: Vec<EventStream> = (0..SEQUENCES).map(submit).collect();
    let mut counts = Counts::default();
    for (seed, stream) in (0..SEQUENCES).zip(streams) {
        let answer = read(stream);
        assert_eq!(answer.tokens.len(), LENGTH, "{:?}", answer.failed);
        counts.add(&prompt(seed), &answer.tokens);
    }
    (counts, engine.stats())
}

fn rows() -> [SamplingParams; 5] {
    let of = |temperature| SamplingParams { temperature, ..SamplingParams::default() };
    [
        of(1.0),
        of(0.6),
        SamplingParams { top_p: 0.8, ..of(1.3) },
        SamplingParams { top_k: 3, ..of(1.0) },
        SamplingParams { min_p: 0.15, top_p: 0.95, ..of(0.9) },
    ]
}

#[test]
fn sampled_tokens_come_as_often_as_the_model_says() {
    for sampling in rows() {
        // From the text, from a model that says the same, and from one that does not.
        for draft_is_poor in [None, Some(false), Some(true)] {
            let (counts, stats) = drawn(&sampling, draft_is_poor.map(|poor| chain("draft", poor)));
            let (statistic, bound) = counts.compare(&sampling);
            assert!(statistic < bound, "{statistic} beyond {bound}: {draft_is_poor:?}, {sampling:?}");
            let (right, guessed) = match draft_is_poor {
                Some(_) => (stats.accepted_drafts, stats.drafted_guesses),
                None => (stats.accepted_guesses, stats.guessed_tokens),
            };
            assert!(right > 5_000, "{right} of {guessed} guesses came true: {draft_is_poor:?}");
            assert!(guessed > right || draft_is_poor == Some(false), "{guessed} guesses were all right");
        }
    }
}

/// How a next token could come from a guess: probabilities of the next token, the guess, and two random numbers.
type Rule = fn(&[f64; TOKENS], Option<u32>, [f64; 2]) -> u32;

fn draw(probabilities: &[f64; TOKENS], uniform: f64) -> u32 {
    let mut left = uniform * probabilities.iter().sum::<f64>();
    let fell = probabilities.iter().position(|&probability| {
        left -= probability;
        left < 0.0
    });
    fell.unwrap_or(TOKENS - 1) as u32
}

/// The test sees what it is there for: rules that are right pass it, others that are nearly right do not.
#[test]
fn a_wrong_rule_of_acceptance_is_seen() {
    let rules: [(&str, Rule, bool); 6] = [
        ("the draw alone", |p, _, [_, u]| draw(p, u), true),
        (
            "by its probability, else from what is left (Leviathan et al. 2023)",
            |p, guess, [a, u]| {
                let Some(guess) = guess else { return draw(p, u) };
                if a < p[guess as usize] {
                    return guess;
                }
                let mut rest = *p;
                rest[guess as usize] = 0.0;
                if rest.iter().sum::<f64>() > 0.0 { draw(&rest, u) } else { guess }
            },
            true,
        ),
        (
            "by its probability, else from all",
            |p, guess, [a, u]| match guess {
                Some(guess) if a < p[guess as usize] => guess,
                _ => draw(p, u),
            },
            false,
        ),
        (
            "now and then without a look",
            |p, guess, [a, u]| match guess {
                Some(guess) if a < 0.05 && p[guess as usize] > 0.0 => guess,
                _ => draw(p, u),
            },
            false,
        ),
        (
            "where it is likeliest",
            |p, guess, [_, u]| match guess {
                Some(guess) if p.iter().all(|other| *other <= p[guess as usize]) => guess,
                _ => draw(p, u),
            },
            false,
        ),
        (
            "one random number for both",
            |p, guess, [a, _]| match guess {
                Some(guess) if a < p[guess as usize] => guess,
                _ => draw(p, a),
            },
            false,
        ),
    ];
    for sampling in rows() {
        for (name, rule, is_right) in rules {
            let mut counts = Counts::default();
            for seed in 0..SEQUENCES {
                let (prompt, random) = (prompt(seed), CounterRandom::new(seed));
                let (mut text, mut answer) = (Text::new(&prompt), Vec::new());
                for place in 0..LENGTH as u64 {
                    let uniforms = [0, 1].map(|which| random.uniform(2 * place + which));
                    let token = rule(&probabilities(text.last as usize, &sampling), text.guess(), uniforms);
                    text.push(token);
                    answer.push(token);
                }
                counts.add(&prompt, &answer);
            }
            let (statistic, bound) = counts.compare(&sampling);
            println!("{name}: {statistic:.0} of {bound:.0}");
            assert_eq!(statistic < bound, is_right, "{name}: {statistic} and {bound}, {sampling:?}");
        }
    }
}
