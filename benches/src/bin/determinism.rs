//! What it costs that a request has the same tokens whatever else is in the batch, and whether it has.
//!
//! `cargo run --release -p benches --bin determinism -- MODEL [--json] [--heads N] [--hidden N]`; heads and
//! width are SmolLM2-135M's unless given.
//!
//! First it checks: requests, greedy and sampled, alone, beside random others and with a prefix found in the
//! cache, at one thread and at all, and counts tokens that differ. Then it measures the choices that this
//! rests on and that another engine could make otherwise:
//!
//! * Attention is cut at fixed positions (every 512) and by heads, never by how many threads there are: what
//!   a step's attention takes beyond its time on one thread divided by the threads. This is more than a free
//!   cut would save, as waking the threads is in it too.
//! * Sums over rows (norms) have 16 running totals on every instruction set: all such sums of a step, of
//!   which another order could save a part. They are compiled for this program's target, which is slower than
//!   the instruction set that the engine picks.
//!
//! What has no price to be measured here: products are exact sums of integers in blocks, with one order of
//! the blocks for any number of rows, split over threads by outputs only; no kernel with another order was
//! written to compare with.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use benches::{Failure, load_model};
use engine::model::Network;
use engine::{Batch, CacheHint, Caller, Engine, EngineOptions, Event, Request, SamplingParams, StopCriteria};
use kernels::{AttentionParams, CpuOptions, Device, KvCache, PAGE_TOKENS, PagedRows, Tensor};
use serde_json::json;

const HELP: &str = "determinism MODEL [--json] [--heads N] [--hidden N]: checks that a request has the same \
tokens whatever else is in the batch, and measures what that costs";

/// Contexts a token is decoded after, and the prompt of a prefill step.
const CONTEXTS: [usize; 4] = [100, 400, 1000, 2000];
const PREFILL_ROWS: usize = 256;
const ROUNDS: usize = 15;

const REQUESTS: u64 = 8;
const NEW_TOKENS: usize = 24;
/// More than one segment of attention in some, less than a page in others.
const PROMPT_TOKENS: [usize; 4] = [20, 90, 300, 700];

struct Arguments {
    model: String,
    json: bool,
    heads: usize,
    hidden: usize,
}

fn arguments() -> Result<Option<Arguments>, Failure> {
    let mut parsed = Arguments { model: String::new(), json: false, heads: 9, hidden: 576 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().ok_or("give a number")?.parse::<usize>().map_err(Failure::from);
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--json" => parsed.json = true,
            "--heads" => parsed.heads = number()?,
            "--hidden" => parsed.hidden = number()?,
            other if other.starts_with('-') => return Err(format!("unknown option {other}").into()),
            path => parsed.model = path.to_owned(),
        }
    }
    if parsed.model.is_empty() {
        return Err("give the path of a model".into());
    }
    Ok(Some(parsed))
}

fn main() -> Result<(), Failure> {
    let Some(arguments) = arguments()? else {
        println!("{HELP}");
        return Ok(());
    };
    let checked = check(&arguments.model)?;
    let costs = costs(&arguments)?;
    if arguments.json {
        println!("{}", json!({ "checked": checked, "costs": costs }));
        return verdict(&checked);
    }
    println!("| threads | what | tokens compared | found in the cache | different |\n|---|---|---|---|---|");
    for row in &checked {
        let [threads, what, tokens, cached, different] =
            ["threads", "what", "tokens", "cached", "different"].map(|key| text(&row[key]));
        println!("| {threads} | {what} | {tokens} | {cached} | {different} |");
    }
    println!(
        "\n| step | ms | attention cut at fixed positions, at most % | sums in one order, at most % |\n|---|---|---|---|"
    );
    for row in &costs {
        let percent = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let (step, ms) = (text(&row["step"]), percent("ms"));
        println!(
            "| {step} | {ms:.2} | {:.2} | {:.2} |",
            percent("attention_percent"),
            percent("sums_percent")
        );
    }
    verdict(&checked)
}

fn verdict(checked: &[serde_json::Value]) -> Result<(), Failure> {
    match checked.iter().any(|row| row["different"] != 0) {
        true => {
            Err("tokens depend on what else is in the batch: the engine promises that they do not".into())
        }
        false => Ok(()),
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Devices of one thread, and of all.
fn devices() -> Result<Vec<Device>, String> {
    let device = |threads| Device::cpu(CpuOptions { threads, ..CpuOptions::default() });
    let all = device(None)?;
    Ok(if all.threads() == 1 { vec![all] } else { vec![device(Some(1))?, all] })
}

/// Prompt tokens found, and the tokens that came.
type Outcome = (usize, Vec<u32>);

fn check(path: &str) -> Result<Vec<serde_json::Value>, Failure> {
    let mut expected: BTreeMap<u64, Outcome> = BTreeMap::new();
    let mut rows = Vec::new();
    for device in devices()? {
        for (what, beside, prefixes) in [
            ("alone", 0, false),
            ("beside others", 12, false),
            ("alone again", 0, true),
            ("beside others again", 12, true),
        ] {
            let mut options = EngineOptions::default();
            options.prefix.enabled = prefixes;
            let engine = Engine::start(vec![load_model(path, &device)?], options)?;
            if prefixes {
                // So that all of them are found.
                together(&engine, 0)?;
            }
            let got = if beside > 0 { together(&engine, beside)? } else { one_by_one(&engine)? };
            if expected.is_empty() {
                expected.clone_from(&got);
            }
            let pairs = || got.iter().map(|(id, (_, tokens))| (tokens, &expected[id].1));
            let different: usize = pairs().map(|(got, expected)| differences(got, expected)).sum();
            rows.push(json!({
                "threads": device.threads(),
                "what": what,
                "tokens": pairs().map(|(got, _)| got.len()).sum::<usize>(),
                "cached": got.values().map(|(cached, _)| cached).sum::<usize>(),
                "different": different,
            }));
        }
    }
    Ok(rows)
}

fn differences(got: &[u32], expected: &[u32]) -> usize {
    got.iter().zip(expected).filter(|(a, b)| a != b).count() + got.len().abs_diff(expected.len())
}

fn one_by_one(engine: &Engine) -> Result<BTreeMap<u64, Outcome>, Failure> {
    (0..REQUESTS).map(|id| Ok((id, read(engine.submit(request(id))?)?))).collect()
}

/// All at once, among so many others of which half are cancelled.
fn together(engine: &Engine, others: u64) -> Result<BTreeMap<u64, Outcome>, Failure> {
    let mut streams = Vec::new();
    let mut beside = Vec::new();
    for id in 0..REQUESTS.max(others) {
        if id < others {
            beside.push(engine.submit(request(1000 + id))?);
        }
        if id < REQUESTS {
            streams.push((id, engine.submit(request(id))?));
        }
    }
    // Those dropped are cancelled in the middle.
    beside.truncate(others as usize / 2);
    streams.into_iter().map(|(id, stream)| Ok((id, read(stream)?))).collect()
}

fn read(mut stream: engine::EventStream) -> Result<Outcome, Failure> {
    let mut tokens = Vec::new();
    while let Some(event) = stream.next_blocking() {
        match event {
            Event::Token(token) => tokens.push(token.token),
            Event::Finished(finished) => return Ok((finished.cached_tokens, tokens)),
            Event::Failed(reason) => return Err(reason.into()),
            Event::PromptLogprobs(_) => {}
        }
    }
    Err("the engine ended a stream early".into())
}

/// The same for the same id: half are greedy, half are sampled.
fn request(id: u64) -> Request {
    let length = PROMPT_TOKENS[id as usize % PROMPT_TOKENS.len()];
    let token =
        |i: u64| ((id + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i * i * 7919) >> 20) % 20_000;
    let temperature = if id.is_multiple_of(2) { 0.0 } else { 0.9 };
    Request {
        model: "model".into(),
        caller: Caller::default(),
        cache: CacheHint::default(),
        prompt: (0..length as u64).map(|i| 100 + token(i) as u32).collect(),
        max_new_tokens: NEW_TOKENS,
        sampling: SamplingParams { temperature, seed: Some(id), ..SamplingParams::default() },
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: None,
        prompt_logprobs: None,
    }
}

fn costs(arguments: &Arguments) -> Result<Vec<serde_json::Value>, Failure> {
    let devices = devices()?;
    let all = devices.last().ok_or("there is a device")?;
    let mut model = load_model(&arguments.model, all)?;
    let Network::Decoder(decoder) = &mut model.network else {
        return Err("this model makes embeddings; give one that generates text".into());
    };
    let layout = decoder.kv_layout();
    let mut kv = all.kv_cache(layout, (CONTEXTS[CONTEXTS.len() - 1] + PREFILL_ROWS).div_ceil(PAGE_TOKENS));
    // Two norms a layer, and the last one.
    let norms = 2 * layout.layers + 1;
    let sum = sum_seconds(arguments.hidden);
    let mut logits = Tensor::default();
    let mut rows = Vec::new();
    let steps = [(0, PREFILL_ROWS)].into_iter().chain(CONTEXTS.map(|context| (context, 1)));
    for (past, count) in steps {
        // Fills the cache up to there.
        (0..past).step_by(PREFILL_ROWS).for_each(|from| {
            decoder.forward(&batch(from, PREFILL_ROWS.min(past - from)), &mut kv, &mut logits);
        });
        let step = median(|| decoder.forward(&batch(past, count), &mut kv, &mut logits));
        let lost = attention_lost(&devices, &kv, arguments.heads, past, count).max(0.0);
        // Rows of a step are normed by all threads.
        let sums = sum * (norms * count.div_ceil(all.threads())) as f64;
        rows.push(json!({
            "step": if count == 1 { format!("a token after {past}") } else { format!("a prompt of {count}") },
            "threads": all.threads(),
            "ms": step * 1e3,
            "attention_percent": 100.0 * lost / step,
            "sums_percent": 100.0 * sums / step,
        }));
    }
    Ok(rows)
}

fn batch(past: usize, rows: usize) -> Batch {
    let positions = past as u32..(past + rows) as u32;
    Batch {
        tokens: positions.clone().map(|position| 100 + position * 31 % 20_000).collect(),
        positions: positions.collect(),
        sequences: vec![rows_after(past, rows)],
        logit_rows: vec![rows as u32 - 1],
    }
}

fn rows_after(past: usize, rows: usize) -> PagedRows {
    let pages = 0..(past + rows).div_ceil(PAGE_TOKENS) as u32;
    PagedRows { first_row: 0, rows, past, pages: pages.collect() }
}

/// What attention of all layers of a step takes beyond its time on one thread divided by the threads: both
/// in turn, as machines are noisy.
fn attention_lost(devices: &[Device], kv: &KvCache, heads: usize, past: usize, rows: usize) -> f64 {
    let layout = kv.layout();
    let (kv_heads, head_dim) = (layout.kv_heads, layout.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let params = AttentionParams { heads, kv_heads, head_dim, scale, window: None };
    let mut q = Tensor::zeros(rows, heads * head_dim);
    q.values_mut().iter_mut().enumerate().for_each(|(i, value)| *value = (i % 17) as f32 / 16.0 - 0.5);
    let (sequences, mut out) = ([rows_after(past, rows)], Tensor::default());
    let mut seconds = |device: &Device| {
        let started = Instant::now();
        (0..layout.layers)
            .for_each(|layer| device.attention(&q, None, kv, layer, &sequences, &params, &mut out));
        started.elapsed().as_secs_f64()
    };
    let (one, all) = (&devices[0], &devices[devices.len() - 1]);
    let threads = all.threads() as f64;
    middle((0..4 * ROUNDS).map(|_| seconds(all) - seconds(one) / threads).collect())
}

/// A sum of squares over a row, in the order of the engine's.
fn sum_seconds(width: usize) -> f64 {
    const TOTALS: usize = 16;
    const TIMES: usize = 10_000;
    let row: Vec<f32> = (0..width).map(|i| (i % 13) as f32).collect();
    let round = || {
        let mut totals = [0.0_f32; TOTALS];
        for chunk in black_box(&row).chunks_exact(TOTALS) {
            totals.iter_mut().zip(chunk).for_each(|(total, x)| *total += x * x);
        }
        black_box(totals);
    };
    median(|| (0..TIMES).for_each(|_| round())) / TIMES as f64
}

/// Seconds, after one run that does not count.
fn median(mut run: impl FnMut()) -> f64 {
    let times = (0..=ROUNDS).map(|_| {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64()
    });
    middle(times.skip(1).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
