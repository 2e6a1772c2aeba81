//! The engine from end to end, on models without weights.

mod distribution;
mod guessing;

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod prefix;

use super::*;
use crate::handle::EventStream;
use crate::model::LoadedModel;
use crate::request::{Event, FinishReason, Finished, SamplingParams, StopCriteria, TokenLogprob};
use crate::testing::{
    IM_END, KV_LAYOUT, MockOptions, NextToken, VOCABULARY, chat_model, embedding_model, letters, repeats,
    says, tokens,
};
use crate::{EmbedRequest, Engine, EngineError, Request, WatchOptions};

fn start(next: NextToken) -> Engine {
    start_with(MockOptions { next, ..MockOptions::default() }, EngineOptions::default())
}

fn start_with(mock: MockOptions, options: EngineOptions) -> Engine {
    Engine::start(vec![chat_model(mock)], options).expect("a mock engine starts")
}

fn with_pages(pages: usize) -> EngineOptions {
    EngineOptions { kv_bytes_max: pages * KV_LAYOUT.page_bytes(), ..EngineOptions::default() }
}

/// Greedy, 20 tokens.
fn request(prompt: &str) -> Request {
    Request {
        model: "mock".to_owned(),
        prompt: tokens(prompt),
        max_new_tokens: 20,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopCriteria::default(),
        logprobs: None,
        caller: crate::Caller::default(),
        cache: crate::CacheHint::default(),
        prompt_logprobs: None,
    }
}

/// Everything a stream says.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    prompt_logprobs: Option<Vec<Option<TokenLogprob>>>,
    finished: Option<Finished>,
    failed: Option<String>,
}

impl Answer {
    fn reason(&self) -> FinishReason {
        self.finished.as_ref().unwrap_or_else(|| panic!("it did not finish: {self:?}")).reason
    }
}

fn read(mut stream: EventStream) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = stream.next_blocking() {
        assert!(answer.finished.is_none() && answer.failed.is_none(), "something after the end");
        match event {
            Event::PromptLogprobs(scores) => answer.prompt_logprobs = Some(scores),
            Event::Token(token) => {
                answer.text.push_str(&token.text);
                answer.tokens.push(token.token);
                answer.logprobs.extend(token.logprob);
            }
            Event::Finished(finished) => {
                answer.text.push_str(&finished.text);
                answer.finished = Some(finished);
            }
            Event::Failed(reason) => answer.failed = Some(reason),
        }
    }
    assert!(stream.next_blocking().is_none());
    answer
}

fn ask(engine: &Engine, request: Request) -> Answer {
    read(engine.submit(request).expect("the engine takes it"))
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::yield_now();
    }
}

fn is_empty(engine: &Engine) -> bool {
    let stats = engine.stats();
    stats.waiting_requests == 0
        && stats.waiting_tokens == 0
        && stats.running_sequences == 0
        && stats.kv_pages_used == 0
        && stats.embed_inputs_waiting == 0
}

/// A model that takes a step only when told to, or freely once the sender is gone.
fn gated(next: NextToken) -> (NextToken, Sender<()>) {
    let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
    let receiver = Mutex::new(receiver);
    let gated: NextToken = Arc::new(move |tokens| {
        let _ = receiver.lock().unwrap().recv();
        next(tokens)
    });
    (gated, sender)
}

#[test]
fn streams_text_and_counts_tokens() {
    let engine = start(says(5, "Héllo, wörld"));
    let answer = ask(&engine, request("12345"));
    assert_eq!(answer.text, "Héllo, wörld");
    let finished = answer.finished.unwrap();
    assert_eq!(finished.reason, FinishReason::Stop);
    assert_eq!((finished.prompt_tokens, finished.completion_tokens), (5, 15), "14 bytes and the end");
    wait_until("everything is given back", || is_empty(&engine));
    let stats = engine.stats();
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.finished_requests), (5, 15, 1));
}

#[test]
fn ends_where_it_should() {
    type Change = fn(&mut Request);
    let stop = FinishReason::Stop;
    let length = FinishReason::Length;
    let rows: &[(Change, &str, FinishReason, Option<&str>)] = &[
        (|r| r.max_new_tokens = 4, "one ", length, None),
        (|r| r.max_new_tokens = 100, "one two three", stop, None),
        (|r| r.max_new_tokens = usize::MAX, "one two three", stop, None),
        (|r| r.stop.strings = vec!["two".into()], "one ", stop, Some("two")),
        (|r| r.stop.strings = vec!["e t".into(), "wo".into()], "on", stop, Some("e t")),
        (
            |r| (r.stop.strings, r.stop.include_stop_text) = (vec!["two".into()], true),
            "one two",
            stop,
            Some("two"),
        ),
        // What was held back for a stop string comes out at the end.
        (|r| r.stop.strings = vec!["threeX".into()], "one two three", stop, None),
        (|r| (r.stop.strings, r.max_new_tokens) = (vec!["twoX".into()], 7), "one two", length, None),
        (|r| r.stop.token_ids = vec![u32::from(b'w')], "one t", stop, None),
        (
            |r| (r.stop.token_ids, r.stop.include_stop_text) = (vec![u32::from(b'w')], true),
            "one tw",
            stop,
            None,
        ),
        (|r| (r.stop.ignore_eos, r.max_new_tokens) = (true, 15), "one two three", length, None),
        (
            |r| {
                (r.stop.ignore_eos, r.stop.keep_special_tokens, r.max_new_tokens) = (true, true, 15);
            },
            "one two three<|im_end|><|im_end|>",
            length,
            None,
        ),
        // A stop string within the first tokens is text.
        (|r| (r.stop.strings, r.stop.min_tokens) = (vec!["o".into()], 2), "one tw", stop, Some("o")),
    ];
    let engine = start(says(3, "one two three"));
    for (i, (change, text, reason, stop_string)) in rows.iter().enumerate() {
        let mut request = request("abc");
        change(&mut request);
        let answer = ask(&engine, request);
        assert_eq!(answer.text, *text, "row {i}");
        assert_eq!(answer.reason(), *reason, "row {i}");
        assert_eq!(answer.finished.unwrap().stop_string.as_deref(), *stop_string, "row {i}");
    }
}

#[test]
fn goes_on_to_the_end_of_the_context_and_no_further() {
    let mock = MockOptions { context_tokens: 100, ..MockOptions::default() };
    let engine = start_with(mock, EngineOptions::default());
    let to_the_end = Request { max_new_tokens: usize::MAX, ..request("abc") };
    let answer = ask(&engine, to_the_end);
    assert_eq!((answer.reason(), answer.tokens.len()), (FinishReason::Length, 97));
    let too_much = Request { max_new_tokens: 98, ..request("abc") };
    let error = engine.submit(too_much).err().unwrap();
    assert!(matches!(error, EngineError::ContextLength { prompt: 3, max_new_tokens: 98, limit: 100 }));
    let full = Request { prompt: vec![1; 100], max_new_tokens: usize::MAX, ..request("") };
    assert!(matches!(engine.submit(full).err().unwrap(), EngineError::ContextLength { .. }));
}

#[test]
fn min_tokens_masks_the_end() {
    let engine = start(says(3, "ab"));
    let mut patient = request("abc");
    patient.stop.min_tokens = 5;
    let answer = ask(&engine, patient);
    assert_eq!(answer.finished.unwrap().completion_tokens, 6);
    assert_eq!(&answer.text[..2], "ab");
}

/// Log-probability the mock gives `token` after `length` tokens of which the next is `next`.
fn mock_logprob(token: u32, length: usize, next: u32) -> f32 {
    let logit = |t: u32| if t == next { 8.0 } else { ((t as usize * 31 + length) % 97) as f64 / 97.0 };
    let sum: f64 = (0..VOCABULARY as u32).map(|t| f64::exp(logit(t))).sum();
    (logit(token) - sum.ln()) as f32
}

#[test]
fn reports_log_probabilities_of_tokens() {
    let engine = start(repeats("xyz"));
    let answer = ask(&engine, Request { logprobs: Some(2), max_new_tokens: 3, ..request("abc") });
    assert_eq!(answer.text, "xyz");
    for (i, entry) in answer.logprobs.iter().enumerate() {
        assert_eq!((entry.token, entry.bytes.as_slice()), (answer.tokens[i], &b"xyz"[i..=i]));
        let expected = mock_logprob(entry.token, 3 + i, entry.token);
        assert!((entry.logprob - expected).abs() < 1e-4, "{} for {expected}", entry.logprob);
        assert_eq!((entry.top.len(), entry.top[0].token), (2, entry.token));
    }
    assert_eq!(answer.logprobs.len(), 3);
}

#[test]
fn scores_every_prompt_token_once_across_chunks() {
    // 100 rows come in chunks of at most 32.
    let prompt = "to be or not to be that is the question".repeat(4)[..100].to_owned();
    let next = letters();
    let engine = start(Arc::clone(&next));
    for max_new_tokens in [0, 3] {
        let scored = Request { prompt_logprobs: Some(1), max_new_tokens, ..request(&prompt) };
        let answer = ask(&engine, scored);
        let scores = answer.prompt_logprobs.as_ref().expect("asked for");
        assert_eq!(scores.len(), 100);
        assert!(scores[0].is_none());
        let ids = tokens(&prompt);
        for (position, score) in scores.iter().enumerate().skip(1) {
            let score = score.as_ref().unwrap();
            let predicted = next(&ids[..position]);
            let expected = mock_logprob(ids[position], position, predicted);
            assert_eq!((score.token, score.top[0].token), (ids[position], predicted), "at {position}");
            assert!((score.logprob - expected).abs() < 1e-4, "{} for {expected}", score.logprob);
        }
        assert_eq!((answer.reason(), answer.tokens.len()), (FinishReason::Length, max_new_tokens));
    }
}

#[test]
fn refuses_what_it_cannot_do_by_name() {
    let models = || vec![chat_model(MockOptions::default()), embedding_model("vectors", 16, Duration::ZERO)];
    let engine = Engine::start(models(), EngineOptions::default()).unwrap();
    let to = |model: &str| Request { model: model.to_owned(), ..request("abc") };
    let embed = |model: &str| EmbedRequest {
        model: model.to_owned(),
        caller: crate::Caller::default(),
        inputs: vec![vec![1]],
    };
    assert!(matches!(engine.submit(to("other")).err().unwrap(), EngineError::UnknownModel(_)));
    assert!(matches!(engine.submit(to("vectors")).err().unwrap(), EngineError::WrongModel { .. }));
    assert!(matches!(engine.embed(embed("mock")).err().unwrap(), EngineError::WrongModel { .. }));
    let invalid = Request { prompt: vec![], ..request("") };
    assert!(matches!(engine.submit(invalid).err().unwrap(), EngineError::InvalidParameter { .. }));
    let twice: Vec<LoadedModel> = models().into_iter().chain(models()).collect();
    assert!(Engine::start(twice, EngineOptions::default()).is_err());
    let small = EngineOptions { kv_bytes_max: 100, ..EngineOptions::default() };
    assert!(Engine::start(models(), small).is_err());
    // 4 pages, 128 tokens.
    let engine = Engine::start(models(), with_pages(4)).unwrap();
    let large = Request { prompt: vec![1; 100], max_new_tokens: 29, ..request("") };
    assert!(matches!(engine.submit(large).err().unwrap(), EngineError::NoPages { needed: 5, total: 4 }));
    let fits = Request { prompt: vec![1; 100], max_new_tokens: usize::MAX, ..request("") };
    assert_eq!(ask(&engine, fits).tokens.len(), 28);
}

#[test]
fn a_dropped_stream_ends_its_sequence_running_waiting_or_paused() {
    let options = EngineOptions { running_sequences_max: 1, ..EngineOptions::default() };
    let mock = MockOptions { step_time: Duration::from_millis(1), ..MockOptions::default() };
    let engine = start_with(mock, options);
    let endless = || Request { max_new_tokens: 4000, ..request("abc") };
    let mut running = engine.submit(endless()).unwrap();
    assert!(running.next_blocking().is_some());
    let waiting = engine.submit(endless()).unwrap();
    assert_eq!(engine.stats().waiting_requests, 1);
    drop(waiting);
    drop(running);
    wait_until("both are gone", || is_empty(&engine) && engine.stats().cancelled_requests == 2);

    let before = engine.stats().generated_tokens;
    let paused = engine.submit(endless()).unwrap();
    wait_until("its buffer is full", || engine.stats().generated_tokens == before + 63);
    drop(paused);
    wait_until("it is gone", || is_empty(&engine) && engine.stats().cancelled_requests == 3);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_loses_nothing() {
    let options = EngineOptions { stream_backlog: 4, ..EngineOptions::default() };
    let engine = start_with(MockOptions { next: repeats("0123456789"), ..MockOptions::default() }, options);
    let slow = engine.submit(Request { max_new_tokens: 300, ..request("0123456789") }).unwrap();
    let quick = ask(&engine, Request { max_new_tokens: 500, ..request("0123456789") });
    assert_eq!(quick.text, "0123456789".repeat(50));
    wait_until("only the slow one is left", || engine.stats().running_sequences == 1);
    assert!(engine.stats().generated_tokens <= 500 + 4, "the slow one waits");
    assert_eq!(read(slow).text, "0123456789".repeat(30));
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let options = EngineOptions {
        stream_backlog: 4,
        stalled_client_max: Duration::from_millis(30),
        ..EngineOptions::default()
    };
    let engine = start_with(MockOptions::default(), options);
    let stream = engine.submit(Request { max_new_tokens: 300, ..request("abc") }).unwrap();
    wait_until("it is given up", || is_empty(&engine) && engine.stats().cancelled_requests == 1);
    let answer = read(stream);
    assert_eq!((answer.reason(), answer.tokens.len()), (FinishReason::Cancelled, 3));
}

#[test]
fn a_full_line_refuses_and_says_when_to_come_back() {
    let (next, gate) = gated(letters());
    let options = EngineOptions {
        running_sequences_max: 1,
        waiting_requests_max: 2,
        waiting_tokens_max: 50,
        ..EngineOptions::default()
    };
    let engine = start_with(MockOptions { next, ..MockOptions::default() }, options);
    let running = engine.submit(request("abc")).unwrap();
    wait_until("the first one runs", || engine.stats().waiting_requests == 0);
    let _second = engine.submit(request("abc")).unwrap();
    let long = Request { prompt: vec![1; 48], ..request("") };
    assert!(matches!(engine.submit(long).err().unwrap(), EngineError::QueueFull { waiting: 1, .. }));
    let _third = engine.submit(request("abc")).unwrap();
    match engine.submit(request("abc")).err().unwrap() {
        EngineError::QueueFull { waiting: 2, retry_after_ms } => {
            assert!((100..=60_000).contains(&retry_after_ms));
        }
        other => panic!("{other}"),
    }
    assert_eq!((engine.stats().waiting_requests, engine.stats().waiting_tokens), (2, 6));
    drop(gate);
    assert_eq!(read(running).reason(), FinishReason::Length);
    wait_until("the line moves", || engine.submit(request("abc")).is_ok());
}

#[test]
fn a_second_client_starts_while_a_long_prompt_is_computed() {
    // Whose tokens are chosen, told by their prompts' first. A stream is there so that no step ends before the
    // gate says so.
    let (stream, short) = (u32::from(b's'), u32::from(b'h'));
    let chosen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&chosen);
    let (next, gate) = gated(letters());
    let next: NextToken = Arc::new(move |tokens| {
        log.lock().unwrap().push(tokens[0]);
        next(tokens)
    });
    let engine = start_with(
        MockOptions { next, context_tokens: 9000, ..MockOptions::default() },
        EngineOptions { stream_backlog: 1024, ..EngineOptions::default() },
    );
    let _stream = engine.submit(Request { max_new_tokens: 1000, ..request("stream") }).unwrap();
    let mut long = engine.submit(Request { prompt: vec![1; 8000], ..request("") }).unwrap();
    (0..3).for_each(|_| gate.send(()).unwrap());
    wait_until("the fourth step is under way", || chosen.lock().unwrap().len() == 4);
    let mut quick = engine.submit(request("hello")).unwrap();
    drop(gate);
    assert!(matches!(quick.next_blocking(), Some(Event::Token(_))));
    assert!(matches!(long.next_blocking(), Some(Event::Token(_))));
    let mut fifth_step = chosen.lock().unwrap()[4..6].to_vec();
    fifth_step.sort();
    assert_eq!(fifth_step, [short, stream], "the long prompt is still being computed");
}

#[test]
fn the_same_seed_gives_the_same_tokens_whatever_else_runs() {
    let seeded = |i: u64| {
        let sampling = SamplingParams { temperature: 1.5, seed: Some(i), top_p: 0.9, ..Default::default() };
        let prompt = vec![(i % 200) as u32; 3 + 7 * i as usize];
        Request { prompt, sampling, max_new_tokens: 60, ..request("") }
    };
    // 12 pages for sequences of up to 7: they are preempted now and then.
    let engine = start_with(MockOptions::default(), with_pages(12));
    let alone: Vec<Vec<u32>> = (0..20).map(|i| ask(&engine, seeded(i)).tokens).collect();
    assert_eq!(engine.stats().preemptions, 0);
    let streams: Vec<EventStream> = (0..20).map(|i| engine.submit(seeded(i)).unwrap()).collect();
    let readers: Vec<_> =
        streams.into_iter().map(|stream| std::thread::spawn(move || read(stream).tokens)).collect();
    let together: Vec<Vec<u32>> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    assert_eq!(alone, together);
    assert!(engine.stats().preemptions > 0, "there was no pressure");
}

#[test]
fn a_model_that_panics_fails_the_requests_of_that_step_only() {
    let next = letters();
    let next: NextToken = Arc::new(move |tokens| {
        assert!(tokens[0] != u32::from(b'!'), "a cursed prompt");
        next(tokens)
    });
    let options = EngineOptions { running_sequences_max: 1, ..EngineOptions::default() };
    let engine = start_with(MockOptions { next, ..MockOptions::default() }, options);
    let failed = engine.submit(request("!abc")).unwrap();
    let waiting = engine.submit(request("abc")).unwrap();
    let answer = read(failed);
    assert_eq!(answer.failed.as_deref(), Some("the model failed: a cursed prompt"));
    assert_eq!(read(waiting).reason(), FinishReason::Length);
    wait_until("everything is given back", || is_empty(&engine));
    let stats = engine.stats();
    assert_eq!((stats.failed_requests, stats.finished_requests), (1, 1));
}

#[test]
fn a_drain_lets_running_work_finish_and_refuses_new() {
    let (next, gate) = gated(letters());
    let engine = start(next);
    let stream = engine.submit(request("abc")).unwrap();
    engine.drain(Duration::from_secs(60));
    assert!(matches!(engine.submit(request("abc")).err().unwrap(), EngineError::Stopped));
    drop(gate);
    assert_eq!(read(stream).reason(), FinishReason::Length);
}

#[test]
fn a_drain_cancels_what_does_not_finish_in_time() {
    let mock = MockOptions { step_time: Duration::from_millis(1), ..MockOptions::default() };
    let engine = start_with(mock, EngineOptions::default());
    let stream = engine.submit(Request { max_new_tokens: 4000, ..request("abc") }).unwrap();
    engine.drain(Duration::from_millis(20));
    assert_eq!(read(stream).reason(), FinishReason::Cancelled);
    wait_until("everything is given back", || is_empty(&engine));
}

#[test]
fn the_last_handle_ends_the_thread_and_every_stream() {
    let engine = start(letters());
    let other = engine.clone();
    let mut stream = engine.submit(Request { max_new_tokens: 4000, ..request("abc") }).unwrap();
    drop(engine);
    assert!(matches!(stream.next_blocking(), Some(Event::Token(_))), "one handle is left");
    drop(other);
    assert_eq!(read(stream).reason(), FinishReason::Cancelled);
}

#[test]
fn times_add_up() {
    let mock = MockOptions { step_time: Duration::from_millis(5), ..MockOptions::default() };
    let engine = start_with(mock, EngineOptions::default());
    let started = Instant::now();
    let timing = ask(&engine, request("abc")).finished.unwrap().timing;
    let total = timing.queue + timing.prefill + timing.decode;
    assert!(total <= started.elapsed());
    assert!(timing.prefill >= Duration::from_millis(5) && timing.decode >= Duration::from_millis(19 * 5));
}

fn texts(inputs: &[Vec<u32>]) -> EmbedRequest {
    let (model, caller) = ("vectors".to_owned(), crate::Caller::default());
    EmbedRequest { model, caller, inputs: inputs.to_vec() }
}

fn embed(engine: &Engine, inputs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
    engine.embed(texts(inputs))?.wait_blocking()
}

fn expected_vector(input: &[u32]) -> Vec<f32> {
    let sum: u32 = input.iter().sum();
    vec![input.len() as f32, input[0] as f32, input[input.len() - 1] as f32, sum as f32]
}

#[test]
fn embeds_in_the_order_asked_beside_a_chat() {
    let models = vec![embedding_model("vectors", 512, Duration::ZERO), chat_model(MockOptions::default())];
    let engine = Engine::start(models, EngineOptions::default()).unwrap();
    let chat = engine.submit(Request { max_new_tokens: 200, ..request("abc") }).unwrap();
    let inputs: Vec<Vec<u32>> =
        (0..300u32).map(|i| (0..1 + i * 37 % 200).map(|j| (i + j) % 250).collect()).collect();
    let vectors = embed(&engine, &inputs).unwrap();
    let expected: Vec<Vec<f32>> = inputs.iter().map(|input| expected_vector(input)).collect();
    assert_eq!(vectors, expected);
    assert_eq!(read(chat).tokens.len(), 200);
    assert!(matches!(embed(&engine, &[vec![1; 513]]), Err(EngineError::ContextLength { limit: 512, .. })));
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    assert_eq!(engine.stats().embedded_tokens, tokens as u64);
    wait_until("everything is given back", || is_empty(&engine));
}

#[test]
fn a_small_embedding_request_does_not_wait_for_a_large_one() {
    let model = embedding_model("vectors", 512, Duration::from_millis(1));
    let engine = Engine::start(vec![model], EngineOptions::default()).unwrap();
    let large = engine.embed(texts(&vec![vec![1; 512]; 2048])).unwrap();
    embed(&engine, &[vec![5]]).unwrap();
    assert!(engine.stats().embed_inputs_waiting > 0, "the large one is still at work");
    drop(large);
    wait_until("the large one is gone", || is_empty(&engine) && engine.stats().cancelled_requests == 1);
}

#[test]
fn token_ids_of_the_mock_are_bytes() {
    let tokenizer = crate::testing::tokenizer();
    assert_eq!(tokenizer.encode("a é!", false).unwrap(), tokens("a é!"));
    assert_eq!(tokenizer.decode(&tokens("a é!"), false), "a é!");
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(IM_END));
}

#[test]
fn a_prompt_whose_answer_is_one_token_leaves_all_of_its_full_pages() {
    let engine = start(letters());
    let ask = || ask(&engine, Request { max_new_tokens: 1, ..request(&"0123456789".repeat(10)) });
    let cached = [(); 2].map(|()| ask().finished.expect("it finished").cached_tokens);
    assert_eq!(cached, [0, 96]);
}

/// What the machine of the test below has left.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

#[test]
fn when_memory_is_short_new_work_is_refused_and_running_work_goes_on() {
    let available = || Some(LEFT.load(Ordering::SeqCst));
    let watch = WatchOptions { floor_bytes: 100, interval: Duration::ZERO, available };
    let options = EngineOptions { watch, ..EngineOptions::default() };
    let engine = start_with(MockOptions { next: repeats("x"), ..MockOptions::default() }, options);
    let long = Request { max_new_tokens: 40, ..request(&"abc".repeat(30)) };
    ask(&engine, long.clone());
    wait_until("its pages are kept", || engine.stats().kv_pages_cached == 4);

    LEFT.store(150, Ordering::SeqCst);
    let answer = ask(&engine, long.clone());
    assert_eq!(answer.finished.unwrap().cached_tokens, 0, "prefixes went before anything was refused");
    let running = engine.submit(long.clone()).unwrap();
    LEFT.store(99, Ordering::SeqCst);
    let refused = engine.submit(long.clone()).err().unwrap();
    assert!(matches!(refused, EngineError::LowMemory { available: 99, floor: 100 }), "{refused}");
    assert_eq!(read(running).reason(), FinishReason::Length);
    wait_until("nothing is kept", || engine.stats().kv_pages_cached == 0);

    LEFT.store(usize::MAX, Ordering::SeqCst);
    ask(&engine, long.clone());
    assert_eq!(ask(&engine, long).finished.unwrap().cached_tokens, 64);
}
