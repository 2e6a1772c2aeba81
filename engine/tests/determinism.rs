//! A request and its seed give the same tokens, and log-probabilities of the same bits, whoever else is
//! computed with it: on SmolLM2, among random companions, at several thread counts, with few pages, from
//! computed, found and preempted prompts, with and without guesses, in both formats of keys and values.
//!
//! `DETERMINISM_SEED=n cargo test -p engine --test determinism` replays the companions of one run; when each
//! of them arrives within a step is the machine's own chance.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::model::{LoadOptions, load};
use engine::{
    CacheHint, Caller, Engine, EngineOptions, Event, EventStream, PrefixOptions, Request, SamplingParams,
    Speculation, StopCriteria,
};
use kernels::{CpuOptions, Device, KvFormat, PAGE_TOKENS};
use support::Random;

const NAME: &str = "smollm2";
const CONTEXT: usize = 256;
/// A whole context, and room for about four companions at first, which grow to three or four pages each:
/// some that run are preempted.
const PAGES: usize = 9;
const PROBE_TOKENS: usize = 20;
const COMPANIONS_MIN: usize = 9;
const COMPANIONS_MAX: usize = 12;

/// How an engine is set up; none of it may be seen in an answer.
#[derive(Clone, Copy, Debug)]
struct Conditions {
    threads: usize,
    prefix: bool,
    speculation: Speculation,
    pages: usize,
}

const ALONE: Conditions = Conditions { threads: 2, prefix: false, speculation: Speculation::Off, pages: 64 };

fn start(path: &Path, format: KvFormat, conditions: Conditions) -> Engine {
    let device = Device::cpu(CpuOptions { threads: Some(conditions.threads), isa: None }).unwrap();
    let model = load(&LoadOptions {
        path,
        name: Some(NAME),
        context_tokens: Some(CONTEXT),
        device: &device.with_kv_format(format),
        whole_identity: false,
        packed: None,
        progress: &|_| {},
    });
    let values = 30 * 3 * 64 * 2 * PAGE_TOKENS;
    let page_bytes = if format == KvFormat::Int8 { values } else { 2 * values } * 17 / 16;
    let options = EngineOptions {
        // Of SmolLM2's 30 layers of 3 heads of 64, keys and values, with their scales.
        kv_bytes_max: conditions.pages * page_bytes,
        speculation: conditions.speculation,
        prefix: PrefixOptions { enabled: conditions.prefix, ..PrefixOptions::default() },
        ..EngineOptions::default()
    };
    Engine::start(vec![model.unwrap()], options).unwrap()
}

fn request(engine: &Engine, text: &str, max_new_tokens: usize, seed: Option<u64>) -> Request {
    let sampling = match seed {
        None => SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        seed => SamplingParams { temperature: 1.1, seed, presence_penalty: 0.5, ..SamplingParams::default() },
    };
    Request {
        model: NAME.to_owned(),
        caller: Caller::default(),
        prompt: engine.model(NAME).unwrap().tokenizer.encode(text, true).unwrap(),
        max_new_tokens,
        sampling,
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: Some(0),
        cache: CacheHint::default(),
        prompt_logprobs: None,
    }
}

/// Short, repetitive so that guesses come true, and of several pages.
fn probes(engine: &Engine) -> Vec<Request> {
    let story = "The old clockmaker opened the smallest door in the shop and looked for the key. ";
    let texts = ["The capital of France is", "Roses are red. Roses are red. Roses are", &story.repeat(6)];
    let asked = texts.into_iter().zip(1..);
    asked
        .flat_map(|(text, seed)| [None, Some(seed)].map(|seed| request(engine, text, PROBE_TOKENS, seed)))
        .collect()
}

/// Tokens with the bits of their log-probabilities.
type Answer = Vec<(u32, u32)>;

/// The answer, or what came of it until so many tokens; and how many prompt tokens were found.
fn read(mut stream: EventStream, tokens_max: usize) -> (Answer, usize) {
    let (mut answer, mut found) = (Vec::new(), 0);
    while answer.len() < tokens_max
        && let Some(event) = stream.next_blocking()
    {
        match event {
            Event::Token(token) => answer.push((token.token, token.logprob.unwrap().logprob.to_bits())),
            Event::Finished(finished) => found = finished.cached_tokens,
            other => panic!("{other:?}"),
        }
    }
    (answer, found)
}

/// Who comes beside a probe: half with the beginning of another's prompt, some of whom leave half-way.
fn companion(engine: &Engine, random: &mut Random) -> (Request, usize) {
    let words = ["salt", "river", "seven", "clock", "(x)", "under", "blue", "\n", "never", "12,"];
    let mut text = match random.chance(50) {
        true => "The old clockmaker opened the smallest door in the shop and looked ".to_owned(),
        false => String::new(),
    };
    for _ in 0..1 + random.below(4) {
        text += words[random.below(words.len())];
        text.push(' ');
    }
    let seed = random.chance(50).then(|| random.next());
    let tokens = 50 + random.below(40);
    let leaves_after = if random.chance(15) { random.below(tokens) } else { usize::MAX };
    (request(engine, &text, tokens, seed), leaves_after)
}

/// Some probes in the midst of companions, all at the same time.
fn round(engine: &Engine, probes: &[Request], truth: &[Answer], random: &mut Random, label: &str) {
    let mut asked: Vec<(Request, usize, Option<usize>)> = (0..COMPANIONS_MIN
        + random.below(COMPANIONS_MAX + 1 - COMPANIONS_MIN))
        .map(|_| companion(engine, random))
        .map(|(request, leaves_after)| (request, leaves_after, None))
        .collect();
    for _ in 0..3 {
        let (probe, place) = (random.below(probes.len()), random.below(asked.len() + 1));
        asked.insert(place, (probes[probe].clone(), usize::MAX, Some(probe)));
    }
    std::thread::scope(|scope| {
        for (request, leaves_after, probe) in asked {
            let stream = engine.submit(request).unwrap();
            scope.spawn(move || {
                let (answer, _) = read(stream, leaves_after);
                if let Some(probe) = probe {
                    assert!(answer == truth[probe], "probe {probe}, {label}");
                }
            });
            std::thread::sleep(Duration::from_micros(random.below(5_000) as u64));
        }
    });
}

fn seed() -> u64 {
    match std::env::var("DETERMINISM_SEED") {
        Ok(seed) => seed.parse().expect("DETERMINISM_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1,
    }
}

#[test]
fn companions_do_not_change_an_answer() {
    let Some(path) = support::real_model(support::SMOLLM2) else { return };
    let seed = seed();
    println!("DETERMINISM_SEED={seed}");
    let mut random = Random(seed);
    let (mut preemptions, mut found, mut guessed) = (0, 0, 0);
    for format in [KvFormat::Int16, KvFormat::Int8] {
        let engine = start(&path, format, ALONE);
        let probes = probes(&engine);
        let ask = |engine: &Engine, probe: &Request| read(engine.submit(probe.clone()).unwrap(), usize::MAX);
        let truth: Vec<Answer> = probes.iter().map(|probe| ask(&engine, probe).0).collect();
        assert!(truth.iter().all(|answer| answer.len() == PROBE_TOKENS));
        drop(engine);
        let of_format = match format {
            KvFormat::Int8 => [(3, true, Speculation::Adaptive), (1, false, Speculation::Off)],
            KvFormat::Int16 => [(1, true, Speculation::Always), (2, true, Speculation::Off)],
        };
        for (threads, prefix, speculation) in of_format {
            let conditions = Conditions { threads, prefix, speculation, pages: PAGES };
            let label = format!("{format:?}, {conditions:?}, DETERMINISM_SEED={seed}");
            let engine = start(&path, format, conditions);
            for _ in 0..2 {
                round(&engine, &probes, &truth, &mut random, &label);
                if engine.stats().preemptions > 0 {
                    break;
                }
            }
            for (probe, truth) in probes.iter().zip(&truth) {
                let (answer, cached) = ask(&engine, probe);
                assert!(answer == *truth, "alone afterwards, {cached} tokens found, {label}");
                found += cached;
            }
            let stats = engine.stats();
            println!(
                "{label}: {} pages, {} steps, {} preemptions",
                stats.kv_pages_total, stats.steps, stats.preemptions
            );
            (preemptions, guessed) = (preemptions + stats.preemptions, guessed + stats.accepted_guesses);
        }
    }
    println!("{preemptions} preemptions, {found} prompt tokens found, {guessed} guesses right");
    assert!(preemptions > 0 && found > 0 && guessed > 0, "none of these would be a test of nothing");
}
