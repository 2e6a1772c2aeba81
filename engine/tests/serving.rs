//! The whole engine on SmolLM2: several clients at a time.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use engine::model::LoadedModel;
use engine::{
    Engine, EngineOptions, Event, EventStream, FinishReason, Request, SamplingParams, StopCriteria,
};

fn smollm2() -> Option<LoadedModel> {
    let model = support::try_load(&support::real_model(support::SMOLLM2)?, None);
    Some(model.expect("the model is whole"))
}

/// An engine that serves it, and its name.
fn start() -> Option<(Engine, String)> {
    let model = smollm2()?;
    let name = model.info.name.clone();
    Some((Engine::start(vec![model], EngineOptions::default()).expect("it starts"), name))
}

fn request(engine: &Engine, name: &str, prompt: &str, seed: Option<u64>) -> Request {
    let model = engine.model(name).expect("it is served");
    Request {
        model: name.to_owned(),
        prompt: model.tokenizer.encode(prompt, true).expect("text has ids"),
        max_new_tokens: 12,
        sampling: SamplingParams {
            temperature: if seed.is_some() { 1.0 } else { 0.0 },
            seed,
            ..Default::default()
        },
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: None,
        caller: engine::Caller::default(),
        cache: engine::CacheHint::default(),
        prompt_logprobs: None,
    }
}

fn read(mut stream: EventStream) -> Vec<u32> {
    let mut tokens = Vec::new();
    while let Some(event) = stream.next_blocking() {
        match event {
            Event::Token(token) => tokens.push(token.token),
            Event::Finished(finished) => assert_eq!(finished.reason, FinishReason::Length),
            other => panic!("{other:?}"),
        }
    }
    tokens
}

const PROMPTS: [&str; 6] = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived an old fisherman who",
    "1, 2, 3, 4,",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Water boils at 100 degrees because, when it is heated, its molecules move faster and faster until",
    "Dear Sir or Madam, I am writing to",
];

#[test]
fn a_request_gives_the_same_tokens_alone_and_among_others() {
    let Some((engine, name)) = start() else { return };
    // Long enough to be computed in chunks, which are smaller beside running streams.
    let long = "It was the best of times, it was the worst of times, and nobody knew why. ".repeat(20);
    let prompts: Vec<&str> = PROMPTS.into_iter().chain([long.as_str()]).collect();
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| request(&engine, &name, prompt, (i % 2 == 1).then_some(i as u64)))
        .collect();
    let submit = |request: &Request| engine.submit(request.clone()).expect("there is room");
    let alone: Vec<Vec<u32>> = requests.iter().map(|request| read(submit(request))).collect();
    let streams: Vec<EventStream> = requests.iter().map(submit).collect();
    let together: Vec<Vec<u32>> = streams.into_iter().map(read).collect();
    for (i, prompt) in prompts.iter().enumerate() {
        assert_eq!(alone[i], together[i], "{prompt}");
    }
}

#[test]
fn a_second_client_starts_before_a_long_prompt_is_done() {
    let Some((engine, name)) = start() else { return };
    let long = request(&engine, &name, &"The quick brown fox jumps over the lazy dog. ".repeat(300), None);
    assert!(long.prompt.len() > 3000);
    let mut long = engine.submit(long).expect("there is room");
    while engine.stats().steps == 0 {
        std::thread::yield_now();
    }
    let mut second = engine.submit(request(&engine, &name, PROMPTS[1], None)).expect("there is room");
    assert!(matches!(second.next_blocking(), Some(Event::Token(_))));
    let answered = long.poll_next(&mut Context::from_waker(Waker::noop()));
    assert!(answered.is_pending(), "the long prompt is still at work");
    // Neither is wanted any longer: their pages come back within a step.
    drop((second, long));
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.stats().kv_pages_used > 0 {
        assert!(Instant::now() < deadline, "{:?}", engine.stats());
        std::thread::yield_now();
    }
}
