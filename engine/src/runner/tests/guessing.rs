//! Guessed tokens change nothing but the number of steps.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{Speculation, StepClock};

/// Greedy or sampled, with penalties or stop strings: guesses change nothing but the number of steps.
#[test]
fn guesses_change_no_token() {
    // Says what came 7 tokens before, so that lookups are mostly right, and now and then something else.
    let next: NextToken = Arc::new(|tokens| match tokens.len() {
        length if length % 11 == 0 => 97 + (length % 26) as u32,
        length => tokens[length - 7],
    });
    let sampled = SamplingParams { temperature: 1.5, seed: Some(5), ..SamplingParams::default() };
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let penalised = SamplingParams { frequency_penalty: 0.3, ..sampled.clone() };
    let stopped = StopCriteria { strings: vec!["abc".to_owned()], ..StopCriteria::default() };
    let rows = [
        (greedy.clone(), StopCriteria::default(), 120),
        (sampled, StopCriteria::default(), 120),
        (penalised, StopCriteria::default(), 50),
        (greedy.clone(), stopped, 120),
        (greedy, StopCriteria::default(), 2),
    ];
    for (sampling, stop, max_new_tokens) in rows {
        let run = |speculation| {
            let options = EngineOptions { speculation, stream_backlog: 1024, ..EngineOptions::default() };
            let mock = MockOptions { next: Arc::clone(&next), ..MockOptions::default() };
            let engine = start_with(mock, options);
            let request = Request {
                sampling: sampling.clone(),
                stop: stop.clone(),
                max_new_tokens,
                logprobs: Some(2),
                ..request("abcdefgabcdefg")
            };
            let answer = ask(&engine, request);
            (answer, engine.stats())
        };
        let (plain, steps) = run(Speculation::Off);
        let (guessed, fewer_steps) = run(Speculation::Always);
        let logprobs = |answer: &Answer| answer.logprobs.iter().map(|l| l.logprob).collect::<Vec<f32>>();
        assert_eq!((&guessed.tokens, &guessed.text), (&plain.tokens, &plain.text), "{sampling:?}");
        assert_eq!(guessed.finished.as_ref().unwrap().reason, plain.finished.as_ref().unwrap().reason);
        assert_eq!(logprobs(&guessed), logprobs(&plain));
        assert_eq!(steps.guessed_tokens, 0);
        assert!(fewer_steps.guessed_tokens >= fewer_steps.accepted_guesses);
        assert_eq!(fewer_steps.drafted_guesses, 0);
        if sampling.temperature == 0.0 && max_new_tokens > 100 && stop.strings.is_empty() {
            assert!(fewer_steps.steps * 3 < steps.steps, "{} of {}", fewer_steps.steps, steps.steps);
            assert!(fewer_steps.accepted_guesses > 60);
        }
    }
}

/// Right, wrong, or now and then right: a draft model changes nothing but the number of steps, also where
/// prompts share pages or lose them.
#[test]
fn a_draft_model_changes_no_token() {
    let half: NextToken = Arc::new(|tokens| match tokens.len() % 3 {
        0 => 1,
        _ => letters()(tokens),
    });
    let sampling = [0.0, 1.5].map(|temperature| SamplingParams {
        temperature,
        seed: Some(3),
        ..SamplingParams::default()
    });
    let labels = ["0", "1", "2", "3", "4"].map(str::to_owned);
    let rows = [(letters(), true), (repeats("q"), false), (half, false)];
    for (draft, is_right) in rows {
        // Clients that all say the same share the pages of their answers, too.
        for (pages, clients, alike) in [(400, 1, false), (400, 5, false), (9, 3, false), (400, 5, true)] {
            for sampling in &sampling {
                let run = |with_draft: bool, speculation| {
                    let model = chat_model(MockOptions::default());
                    let mock = MockOptions {
                        name: "draft".to_owned(),
                        next: Arc::clone(&draft),
                        ..MockOptions::default()
                    };
                    let model = match with_draft {
                        true => model.with_draft(chat_model(mock)).expect("the same vocabulary"),
                        false => model,
                    };
                    let bytes = pages * model.page_bytes();
                    let options = EngineOptions {
                        kv_bytes_max: bytes,
                        speculation,
                        stream_backlog: 1024,
                        ..EngineOptions::default()
                    };
                    let engine = Engine::start(vec![model], options).expect("a mock engine starts");
                    let ask = |client: usize| {
                        let prompt = "The same beginning of all of the prompts, and then ".repeat(2)
                            + if alike { "alike" } else { &labels[client] };
                        let request =
                            Request { sampling: sampling.clone(), max_new_tokens: 90, ..request(&prompt) };
                        engine.submit(request).expect("the engine takes it")
                    };
                    let streams: Vec<EventStream> = (0..clients).map(ask).collect();
                    let answers: Vec<Vec<u32>> =
                        streams.into_iter().map(|stream| read(stream).tokens).collect();
                    (answers, engine.stats())
                };
                let (plain, _) = run(false, Speculation::Off);
                for speculation in [Speculation::Always, Speculation::Adaptive] {
                    let (drafted, stats) = run(true, speculation);
                    assert_eq!(drafted, plain, "{pages} pages, {clients} clients, {sampling:?}");
                    assert_eq!(stats.failed_requests, 0);
                    if is_right && speculation == Speculation::Always && sampling.temperature == 0.0 {
                        // What it has not computed of a page it cannot look back on: few are wrong for it.
                        let (right, all) = (stats.accepted_drafts, stats.drafted_guesses);
                        assert!(right * 20 >= all * 19, "{right} of {all} came true");
                        assert!(right as usize > 60 * clients);
                    }
                }
            }
        }
    }
}

/// What a draft model cost and how it guessed.
struct Drafted {
    /// Milliseconds of all steps, the draft's included, on a clock that only they move.
    millis: f64,
    right: u64,
    guessed: u64,
}

/// `rounds` times `clients` prompts of 120 tokens and answers of 100, all of a round together. A step of the
/// model takes 8 ms and 1 for each row; the draft takes so many percent of that for one of its own.
fn drafted(draft: Option<(NextToken, u32)>, clients: usize, rounds: usize) -> Drafted {
    let worked = Arc::new(AtomicU64::new(0));
    let step_clock = StepClock::Counted(Arc::clone(&worked));
    let (gate, gated) = {
        let (gate, next) = (Arc::new(Mutex::new(())), letters());
        let waiting = Arc::clone(&gate);
        let gated: NextToken = Arc::new(move |tokens| {
            drop(waiting.lock());
            next(tokens)
        });
        (gate, gated)
    };
    let mock = |name: &str, percent: u32, next: NextToken| MockOptions {
        name: name.to_owned(),
        step_time: Duration::from_micros(80) * percent,
        row_time: Duration::from_micros(10) * percent,
        clock: step_clock.clone(),
        next,
        ..MockOptions::default()
    };
    let speculation = if draft.is_some() { Speculation::Adaptive } else { Speculation::Off };
    let mut model = chat_model(mock("mock", 100, gated));
    if let Some((next, percent)) = draft {
        model = model.with_draft(chat_model(mock("draft", percent, next))).expect("the same vocabulary");
    }
    let kv_bytes_max = 400 * model.page_bytes();
    let options =
        EngineOptions { kv_bytes_max, speculation, stream_backlog: 1024, ..EngineOptions::default() };
    let options = EngineOptions { step_clock: step_clock.clone(), ..options };
    let engine = Engine::start(vec![model], options).expect("a mock engine starts");
    let submit = |prompt: &str, max_new_tokens| {
        engine.submit(Request { max_new_tokens, ..request(prompt) }).expect("the engine takes it")
    };
    for round in 0..rounds {
        // One that holds the engine in its step until all others have come.
        let closed = gate.lock();
        let first = submit("first", 1);
        wait_until("it is in its step", || engine.stats().waiting_requests == 0);
        let ask = |client: usize| submit(&format!("{round} {client} ").repeat(30), 100);
        let streams: Vec<EventStream> = (0..clients).map(ask).collect();
        drop(closed);
        read(first);
        streams.into_iter().for_each(|stream| assert_eq!(read(stream).tokens.len(), 100));
    }
    let stats = engine.stats();
    let millis = worked.load(Ordering::Relaxed) as f64 / 1e6;
    Drafted { millis, right: stats.accepted_drafts, guessed: stats.drafted_guesses }
}

/// What guesses may waste of the time, whoever makes them: less than the twentieth that is promised, which
/// also covers the bookkeeping.
const WASTE_MAX: f64 = 1.04;

/// A draft model that is always wrong is not asked for long, nor does it read prompts for nothing; one that
/// is right is used where it saves time, and not where its own takes as long.
#[test]
fn a_draft_model_costs_little_or_saves_much() {
    // Clients, rounds, percent of the model's time a draft takes, and what a right one makes of the time.
    let rows = [
        (1, 6, 5, 0.5),
        (1, 6, 15, 0.7),
        (1, 6, 100, WASTE_MAX),
        // One answer, and many.
        (1, 1, 5, 0.6),
        (1, 1, 40, WASTE_MAX),
        (1, 40, 15, 0.6),
        (2, 4, 5, 0.6),
        (2, 4, 15, 1.0),
        (4, 3, 5, 0.9),
        (4, 3, 15, WASTE_MAX),
        (16, 2, 5, WASTE_MAX),
        (16, 2, 40, WASTE_MAX),
    ];
    for (clients, rounds, percent, most) in rows {
        let plain = drafted(None, clients, rounds).millis;
        let row = format!("{clients} clients, a draft of {percent} %");
        let wrong = drafted(Some((repeats("!"), percent)), clients, rounds);
        let cost = wrong.millis / plain;
        assert!(cost < WASTE_MAX && wrong.right == 0, "{row}, always wrong: {cost} times the time");
        assert!(wrong.guessed > 0 || percent > 15, "{row}: it is tried");
        let right = drafted(Some((letters(), percent)), clients, rounds);
        let cost = right.millis / plain;
        assert!(cost < most, "{row}, always right: {cost} times the time");
        assert_eq!(right.right, right.guessed, "{row}: it says what the model says");
    }
}

#[test]
fn a_draft_has_to_speak_the_same_language() {
    let model = || chat_model(MockOptions::default());
    let refusal = model().with_draft(embedding_model("e", 64, Duration::ZERO)).err().unwrap().to_string();
    assert!(refusal.contains("both have to generate text"), "{refusal}");
    assert!(model().with_draft(model()).is_ok());
}
