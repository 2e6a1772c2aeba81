//! Guesses on a real model: from its own text, and from a draft model. They change nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use engine::{
    Caller, Engine, EngineOptions, EngineStats, Event, EventStream, Request, SamplingParams, Speculation,
    StopCriteria,
};

const PROMPTS: [&str; 3] = [
    "Roses are red, violets are blue. Roses are red, violets are blue. Roses are",
    "fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n\nfn subtract(a: u32, b: u32) -> u32 {\n",
    "The old clockmaker opened the smallest door in the shop and",
];

/// SmolLM2, with itself as its draft if that is wanted.
fn start(speculation: Speculation, with_draft: bool) -> Option<Engine> {
    let path = support::real_model(support::SMOLLM2)?;
    let load = || support::try_load(&path, None).expect("the model is whole");
    let model = match with_draft {
        true => load().with_draft(load()).expect("it speaks its own language"),
        false => load(),
    };
    let options = EngineOptions { speculation, ..EngineOptions::default() };
    Some(Engine::start(vec![model], options).expect("it starts"))
}

/// Greedy without a seed.
fn submit(engine: &Engine, prompt: &str, seed: Option<u64>) -> EventStream {
    let model = engine.models().remove(0);
    let temperature = if seed.is_some() { 0.8 } else { 0.0 };
    let request = Request {
        prompt: model.tokenizer.encode(prompt, true).expect("text has ids"),
        model: model.name,
        caller: Caller::default(),
        max_new_tokens: 40,
        sampling: SamplingParams { temperature, seed, ..SamplingParams::default() },
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: None,
        cache: engine::CacheHint::default(),
        prompt_logprobs: None,
    };
    engine.submit(request).expect("there is room")
}

fn read(mut stream: EventStream) -> Vec<u32> {
    let mut tokens = Vec::new();
    while let Some(event) = stream.next_blocking() {
        match event {
            Event::Token(token) => tokens.push(token.token),
            Event::Finished(_) => {}
            other => panic!("{other:?}"),
        }
    }
    tokens
}

/// Every prompt, greedily and sampled, all together; then the first one again, alone.
fn answers(engine: &Engine) -> (Vec<Vec<u32>>, EngineStats) {
    let asked = PROMPTS.iter().flat_map(|prompt| [(prompt, None), (prompt, Some(11))]);
    let streams: Vec<EventStream> = asked.map(|(prompt, seed)| submit(engine, prompt, seed)).collect();
    let mut answers: Vec<Vec<u32>> = streams.into_iter().map(read).collect();
    answers.push(read(submit(engine, PROMPTS[0], None)));
    (answers, engine.stats())
}

#[test]
fn guesses_change_no_token_of_a_real_model() {
    let Some(plain) = start(Speculation::Off, false) else { return };
    let (expected, stats) = answers(&plain);
    assert_eq!((expected.len(), stats.guessed_tokens), (7, 0));
    assert_eq!(expected[0], expected[6]);
    drop(plain);
    for (speculation, with_draft) in [
        (Speculation::Always, false),
        (Speculation::Adaptive, false),
        (Speculation::Always, true),
        (Speculation::Adaptive, true),
    ] {
        let engine = start(speculation, with_draft).expect("it started before");
        let (guessed, stats) = answers(&engine);
        assert_eq!(guessed, expected, "{speculation:?}, with a draft: {with_draft}");
        println!(
            "{speculation:?}, with a draft: {with_draft}: {} of {} guesses right, {} of {} drafted, {} steps",
            stats.accepted_guesses,
            stats.guessed_tokens,
            stats.accepted_drafts,
            stats.drafted_guesses,
            stats.steps
        );
        if with_draft && speculation == Speculation::Always {
            // It guesses what it would say itself, with the same random numbers.
            assert!(stats.drafted_guesses > 100, "{stats:?}");
            assert_eq!(stats.accepted_drafts, stats.drafted_guesses);
        }
    }
}
