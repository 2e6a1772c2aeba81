//! The prefix cache on SmolLM2: what is found is, to the bit, what would have been computed.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use engine::model::{LoadOptions, load};
use engine::{
    Engine, EngineOptions, Event, EventStream, PageStore, PrefixOptions, Request, SamplingParams,
    StopCriteria, StoreOptions,
};
use kernels::{CpuOptions, Device};

const NAME: &str = "smollm2";

fn start(threads: usize, prefix: PrefixOptions) -> Option<Engine> {
    let path = support::real_model(support::SMOLLM2)?;
    let device = Device::cpu(CpuOptions { threads: Some(threads), isa: None }).unwrap();
    let options = LoadOptions {
        path: &path,
        name: Some(NAME),
        context_tokens: None,
        device: &device,
        whole_identity: true,
        packed: None,
        progress: &|_| {},
    };
    Some(
        Engine::start(vec![load(&options).unwrap()], EngineOptions { prefix, ..EngineOptions::default() })
            .unwrap(),
    )
}

fn off() -> PrefixOptions {
    PrefixOptions { enabled: false, ..PrefixOptions::default() }
}

fn stored(folder: &Path) -> PrefixOptions {
    let options = StoreOptions { folder: folder.to_owned(), bytes_max: 1 << 30, key: None };
    PrefixOptions { store: Some(PageStore::open(options).unwrap()), ..PrefixOptions::default() }
}

fn request(engine: &Engine, prompt: &str, seed: Option<u64>) -> Request {
    Request {
        model: NAME.to_owned(),
        caller: engine::Caller::default(),
        prompt: engine.model(NAME).unwrap().tokenizer.encode(prompt, true).unwrap(),
        max_new_tokens: 10,
        sampling: SamplingParams {
            temperature: if seed.is_some() { 1.2 } else { 0.0 },
            seed,
            ..SamplingParams::default()
        },
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: Some(0),
        cache: engine::CacheHint::default(),
        prompt_logprobs: None,
    }
}

/// Tokens with the bits of their log-probabilities, tokens found, and the time to the first one.
struct Answer {
    tokens: Vec<(u32, u32)>,
    cached: usize,
    first_token: Duration,
}

fn read(mut stream: EventStream) -> Answer {
    let started = Instant::now();
    let mut answer = Answer { tokens: Vec::new(), cached: 0, first_token: Duration::ZERO };
    while let Some(event) = stream.next_blocking() {
        match event {
            Event::Token(token) => {
                if answer.tokens.is_empty() {
                    answer.first_token = started.elapsed();
                }
                answer.tokens.push((token.token, token.logprob.unwrap().logprob.to_bits()));
            }
            Event::Finished(finished) => answer.cached = finished.cached_tokens,
            other => panic!("{other:?}"),
        }
    }
    answer
}

fn ask(engine: &Engine, request: &Request) -> Answer {
    read(engine.submit(request.clone()).unwrap())
}

/// A prompt of about so many words that begins like all others.
fn prompt(words: usize, end: &str) -> String {
    let story = "It was the best of times, it was the worst of times, and nobody in the old town knew why. ";
    let text: Vec<&str> = story.split_inclusive(' ').cycle().take(words).collect();
    text.concat() + end
}

#[test]
fn what_is_found_gives_the_same_bits_as_what_is_computed() {
    let Some(plain) = start(2, off()) else { return };
    let ends = ["Then", "But one day a stranger", "1, 2, 3,", "\n\n", "Why?", "def f(x):"];
    let requests: Vec<Request> = (0..)
        .zip(ends)
        .flat_map(|(i, end)| {
            let text = prompt(60 + 37 * i, end);
            [request(&plain, &text, None), request(&plain, &text, Some(i as u64))]
        })
        .collect();
    let truth: Vec<Vec<(u32, u32)>> = requests.iter().map(|request| ask(&plain, request).tokens).collect();
    drop(plain);
    for threads in [1, 2] {
        let engine = start(threads, PrefixOptions::default()).unwrap();
        // All at once, where they share what is being computed; then one by one; then n choices.
        let streams: Vec<EventStream> =
            requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        let together: Vec<Answer> = streams.into_iter().map(read).collect();
        let alone: Vec<Answer> = requests.iter().map(|request| ask(&engine, request)).collect();
        for (i, truth) in truth.iter().enumerate() {
            assert!(together[i].tokens == *truth, "request {i} among others, {threads} threads");
            assert!(alone[i].tokens == *truth, "request {i} alone, {threads} threads");
            assert!(alone[i].cached >= requests[i].prompt.len() / 2, "{} found", alone[i].cached);
        }
        let choices: Vec<EventStream> = (0..4).map(|_| engine.submit(requests[1].clone()).unwrap()).collect();
        assert!(choices.into_iter().map(read).all(|answer| answer.tokens == truth[1]));
        // The next turn sends the answer back, which has filled a page that the prompt began.
        let known = |i: usize| (requests[i].prompt.len() + truth[i].len() - 1) / 32 * 32;
        let first = (0..requests.len()).find(|&i| known(i) > requests[i].prompt.len()).unwrap();
        let mut turn = requests[first].clone();
        turn.prompt.extend(truth[first].iter().map(|(token, _)| token));
        turn.prompt.extend(&requests[2].prompt[..40]);
        let found = ask(&engine, &turn);
        let computed = ask(&start(threads, off()).unwrap(), &turn);
        assert!(found.tokens == computed.tokens && computed.cached == 0);
        assert_eq!(found.cached, known(first));
    }
}

#[test]
fn what_was_stored_gives_the_same_bits_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let Some(engine) = start(2, stored(folder.path())) else { return };
    let long = request(&engine, &prompt(1000, "And"), None);
    let cold = ask(&engine, &long);
    let warm = ask(&engine, &long);
    drop(engine);
    let engine = start(2, stored(folder.path())).unwrap();
    let restored = ask(&engine, &long);
    assert!(warm.tokens == cold.tokens && restored.tokens == cold.tokens);
    assert_eq!(cold.cached, 0);
    let full = (long.prompt.len() - 1) / 32 * 32;
    assert_eq!((warm.cached, restored.cached), (full, full));
    println!(
        "first token after {} prompt tokens: computed {:?}, found in memory {:?}, on disk {:?}",
        long.prompt.len(),
        cold.first_token,
        warm.first_token,
        restored.first_token
    );
}
