//! A warm step allocates nothing, on any thread. One test in a file of its own, as the count is the whole
//! process's. It covers
//!
//! * the forward pass of every decoder of the golden models and of SmolLM2, 16-bit and quantised, with keys
//!   and values in either format, a prompt chunk and decodes together;
//! * the engine's whole loop while streams decode: looking at clients, planning, forward, sampling
//!   (greedy, truncated, penalised), text, stop strings, guesses of the text and of a draft model, turns
//!   between models, delivery of events, figures; over ends of pages, too.
//!
//! What may be allocated in these steps is the line to a client: a block for each 32 events that nobody has
//! read yet. Left out is what comes with a request, its prompt and its end, log-probabilities, a token's
//! text of more than 24 bytes, and the reading of the machine's free memory each second. A sequence has
//! room for 1024 generated tokens; beyond, its lists grow by doubling.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use engine::batch::Decoder;
use engine::model::{LoadOptions, LoadedModel, Network, load};
use engine::{
    Batch, CacheHint, Caller, Engine, EngineOptions, Event, EventStream, Request, SamplingParams,
    Speculation, StopCriteria, WatchOptions,
};
use kernels::allocations::CountingAllocator;
use kernels::{CpuOptions, Device, KvCache, KvFormat, KvLayout, PAGE_TOKENS, PagedRows, Tensor};
use support::{SMOLLM2, goldens, real_model, try_load};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Rows of the prompt chunk: more than a tile that is expanded at once has.
const CHUNK: usize = 40;

/// Three decodes after so many tokens and more, beside a chunk.
fn mixed_batch(past: usize) -> Batch {
    let sequence = |i: usize, first_row: usize, rows: usize, past: usize| {
        let pages = (past + rows).div_ceil(PAGE_TOKENS) as u32;
        PagedRows { first_row, rows, past, pages: (i as u32 * pages..(i as u32 + 1) * pages).collect() }
    };
    let mut sequences: Vec<PagedRows> = (0..3).map(|i| sequence(i, i, 1, past)).collect();
    let chunk = sequence(0, 3, CHUNK, 0);
    // Its pages come after those of the decodes.
    let used = 3 * sequences[0].pages.len() as u32;
    sequences.push(PagedRows { pages: chunk.pages.iter().map(|page| used + page).collect(), ..chunk });
    let positions = [past as u32; 3].into_iter().chain(0..CHUNK as u32).collect();
    let rows = 3 + CHUNK as u32;
    Batch {
        tokens: (0..rows).map(|i| 5 + i).collect(),
        positions,
        sequences,
        logit_rows: vec![0, 1, 2, rows - 1],
    }
}

fn steps(decoder: &mut dyn Decoder, kv: &mut KvCache, logits: &mut Tensor, batches: &[Batch]) -> usize {
    let before = CountingAllocator::count();
    for batch in batches {
        decoder.forward(batch, kv, logits);
    }
    CountingAllocator::count() - before
}

/// Whether it is a decoder, whose warm forward passes then allocate nothing.
fn forward_passes_of(path: &Path, pasts: std::ops::Range<usize>, format: KvFormat) -> bool {
    let device = Device::cpu(CpuOptions::default()).unwrap().with_kv_format(format);
    let mut model = load(&LoadOptions {
        path,
        name: None,
        context_tokens: None,
        device: &device,
        whole_identity: false,
        packed: None,
        progress: &|_| {},
    })
    .unwrap();
    let Network::Decoder(decoder) = &mut model.network else { return false };
    let pages = 3 * pasts.end.div_ceil(PAGE_TOKENS) + CHUNK.div_ceil(PAGE_TOKENS);
    let batches: Vec<Batch> = pasts.map(mixed_batch).collect();
    let mut kv = device.kv_cache(decoder.kv_layout(), pages);
    let mut logits = Tensor::default();
    assert!(steps(decoder.as_mut(), &mut kv, &mut logits, &batches) > 0, "the counter counts");
    let again = steps(decoder.as_mut(), &mut kv, &mut logits, &batches);
    assert_eq!(again, 0, "{} with keys of {format:?}", path.display());
    true
}

fn forward_passes() {
    let folders = std::fs::read_dir(goldens().join("models")).unwrap();
    let mut paths: Vec<PathBuf> = folders.map(|folder| folder.unwrap().path()).collect();
    paths.retain(|folder| folder.join("config.json").is_file());
    paths.push(goldens().join("models/llama/model-q8_0.gguf"));
    for format in KvFormat::ALL {
        let decoders = paths.iter().filter(|path| forward_passes_of(path, 3..7, format)).count();
        assert!(decoders >= 7, "{decoders} decoders");
        // Decodes that are cut into segments of positions, products of a real model's size.
        if let Some(path) = real_model(SMOLLM2) {
            assert!(forward_passes_of(&path, 600..604, format));
        }
    }
}

/// What the process had allocated when a forward pass began, and who was in it.
#[derive(Clone, Copy)]
struct Began {
    allocations: usize,
    sequences: usize,
    /// Tokens before this step's, summed over its sequences; 0 as long as one of them has none.
    past: usize,
}

/// Writes down each step of a model as it begins.
struct Logged {
    decoder: Box<dyn Decoder>,
    log: Arc<Mutex<Vec<Began>>>,
}

impl Decoder for Logged {
    fn kv_layout(&self) -> KvLayout {
        self.decoder.kv_layout()
    }

    fn vocabulary(&self) -> usize {
        self.decoder.vocabulary()
    }

    fn weight_bytes(&self) -> usize {
        self.decoder.weight_bytes()
    }

    fn forward(&mut self, batch: &Batch, kv: &mut KvCache, logits: &mut Tensor) {
        let begins = batch.sequences.iter().any(|sequence| sequence.past == 0);
        let past = batch.sequences.iter().map(|sequence| if begins { 0 } else { sequence.past }).sum();
        let mut log = self.log.lock().unwrap();
        let allocations = CountingAllocator::count();
        log.push(Began { allocations, sequences: batch.sequences.len(), past });
        drop(log);
        self.decoder.forward(batch, kv, logits);
    }
}

fn llama(name: &str) -> LoadedModel {
    let mut model = try_load(&goldens().join("models/llama"), None).unwrap();
    model.info.name = name.to_owned();
    model
}

/// A model that writes down its steps.
fn logged(name: &str, with_draft: bool) -> (LoadedModel, Arc<Mutex<Vec<Began>>>) {
    let log = Arc::new(Mutex::new(Vec::with_capacity(1024)));
    let mut model = llama(name);
    let Network::Decoder(decoder) = model.network else { panic!("llama generates") };
    model.network = Network::Decoder(Box::new(Logged { decoder, log: Arc::clone(&log) }));
    let model = if with_draft { model.with_draft(llama("draft")).unwrap() } else { model };
    (model, log)
}

/// One stream of each kind: greedy, drawn from all tokens, from few, with penalties, and until a text comes
/// that does not.
fn streams(engine: &Engine, model: &str, tenant: &str) -> Vec<EventStream> {
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let drawn = SamplingParams { seed: Some(1), ..SamplingParams::default() };
    let truncated = SamplingParams { top_k: 20, top_p: 0.9, ..drawn.clone() };
    let penalised = SamplingParams { repetition_penalty: 1.2, frequency_penalty: 0.3, ..drawn.clone() };
    let rows = [
        (greedy.clone(), None),
        (drawn.clone(), None),
        (truncated, None),
        (penalised, None),
        (SamplingParams { min_p: 0.05, ..drawn.clone() }, Some("no such text, ever")),
        (greedy, Some("nor this")),
    ];
    let submit = |(i, (sampling, stop)): (usize, (SamplingParams, Option<&str>))| {
        let strings = stop.map(str::to_owned).into_iter().collect();
        let request = Request {
            model: model.to_owned(),
            caller: Caller { tenant: tenant.into(), ..Caller::default() },
            prompt: vec![7 + i as u32, 20, 21, 7 + i as u32],
            max_new_tokens: 240,
            sampling,
            stop: StopCriteria { ignore_eos: true, strings, ..StopCriteria::default() },
            logprobs: None,
            cache: CacheHint::default(),
            prompt_logprobs: None,
        };
        engine.submit(request).expect("there is room")
    };
    rows.into_iter().enumerate().map(submit).collect()
}

/// Events in a block of a stream's line to its client.
const EVENTS_A_BLOCK: usize = 32;

/// Has streams decode, and looks at the steps in which all of them do. Returns whether those were many: of two
/// models one may be done before the other when the system takes away its time.
fn whole_steps(speculation: Speculation, with_draft: bool, names: &[&str]) -> bool {
    let what = format!("{speculation:?}, with a draft: {with_draft}, models {names:?}");
    let (models, logs): (Vec<_>, Vec<_>) = names.iter().map(|name| logged(name, with_draft)).unzip();
    let options = EngineOptions {
        speculation,
        // Nobody need read meanwhile.
        stream_backlog: 1024,
        watch: WatchOptions { floor_bytes: 0, ..WatchOptions::default() },
        ..EngineOptions::default()
    };
    let engine = Engine::start(models, options).unwrap();
    let run = |tenant: &str| {
        // No step begins before all are submitted.
        let mut held: Vec<_> = logs.iter().map(|log| log.lock().unwrap()).collect();
        held.iter_mut().for_each(|log| log.clear());
        let streams: Vec<EventStream> =
            names.iter().flat_map(|name| streams(&engine, name, tenant)).collect();
        let (each, submitted) = (streams.len() / names.len(), CountingAllocator::count());
        drop(held);
        for mut stream in streams {
            while let Some(event) = stream.next_blocking() {
                assert!(!matches!(event, Event::Failed(_)), "{event:?}");
            }
        }
        (each, submitted)
    };
    // The same again: buffers have their size by then. Another tenant finds none of its pages.
    run("first");
    let (each, submitted) = run("second");
    // The allocations so far serve as a clock: from when all streams of all models decode to when one ends.
    let all = |began: &Began| began.sequences == each && began.past > 0 && began.allocations > submitted;
    let steps = |log: &Arc<Mutex<Vec<Began>>>| -> Vec<Began> {
        log.lock().unwrap().iter().copied().filter(all).collect()
    };
    let logs: Vec<Vec<Began>> = logs.iter().map(steps).collect();
    let from = logs.iter().filter_map(|steps| Some(steps.first()?.allocations)).max().unwrap_or(0);
    let to = logs.iter().filter_map(|steps| Some(steps.last()?.allocations)).min().unwrap_or(0);
    let allocated = to.saturating_sub(from);
    let (mut tokens, mut steps_min) = (0, usize::MAX);
    for steps in &logs {
        let steps = || steps.iter().filter(|began| (from..=to).contains(&began.allocations));
        let past = |began: Option<&Began>| began.map_or(0, |began| began.past);
        tokens += past(steps().next_back()) - past(steps().next());
        steps_min = steps_min.min(steps().count());
    }
    println!("{what}: {allocated} allocations in {steps_min} steps, {tokens} tokens");
    let blocks = tokens / EVENTS_A_BLOCK + names.len() * each;
    assert!(allocated <= blocks, "{what}: {allocated} allocations, {blocks} for events");
    steps_min > 32 && tokens > 64 * names.len() * each
}

#[test]
fn a_warm_step_allocates_nothing() {
    forward_passes();
    assert!(whole_steps(Speculation::Off, false, &["one"]));
    assert!(whole_steps(Speculation::Always, false, &["one"]));
    assert!(whole_steps(Speculation::Always, true, &["one"]));
    assert!((0..20).any(|_| whole_steps(Speculation::Off, false, &["one", "two"])));
}
