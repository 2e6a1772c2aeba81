//! What a step costs besides its forward pass: `cargo run --release -p benches --bin scheduler [-- MODEL]`.
//!
//! Planning alone, for streams of several principals while others wait: decodes, and decodes beside prompts
//! that come and go. The target is 50 microseconds a step at 256 streams. With a model, also all that lies
//! between the end of a forward pass and the beginning of the next, on the engine itself: what a long prompt
//! that arrives takes there and on its caller's thread, and for streams that decode sampling, text, guesses,
//! delivery, planning.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use engine::batch::Decoder;
use engine::model::{LoadOptions, Network, load};
use engine::pages::{ChainHash, Keep, PrefixScope};
use engine::scheduler::{Actions, OutputKind, Scheduler, SchedulerEvent, SchedulerLimits, SequenceId};
use engine::{
    Band, Batch, CacheHint, Caller, Engine, EngineOptions, Event, EventStream, Request, SamplingParams,
    StopCriteria,
};
use kernels::{CpuOptions, Device, KvCache, KvLayout, Tensor};

type Failure = Box<dyn std::error::Error>;

const PRINCIPALS: u64 = 16;
const PROMPT_TOKENS: usize = 100;
const STEPS: usize = 1000;

/// Tokens that each stream of the engine generates.
const NEW_TOKENS: usize = 64;

/// Arrivals of a long prompt that are measured, its tokens as far as the context allows, and those it
/// generates.
const ARRIVALS: usize = 21;
const ARRIVAL_TOKENS: usize = 8192;
const ARRIVAL_NEW_TOKENS: usize = 4;

/// Steps of a stream alone, before anything arrives.
const ALONE_STEPS: usize = 64;

fn main() -> Result<(), Failure> {
    println!("| streams | planning, median, us a step | p99, us | with prompts, median, us | p99, us |");
    println!("|---|---|---|---|---|");
    for streams in [32, 256, 1024] {
        let [decodes, mixed] = [false, true].map(|with_prompts| step_times(streams, with_prompts));
        let micros = |times: &[Duration], part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
        let [a, b] = [decodes, mixed].map(|times| [micros(&times, 50), micros(&times, 99)]);
        println!("| {streams} | {:.1} | {:.1} | {:.1} | {:.1} |", a[0], a[1], b[0], b[1]);
    }
    let Some(path) = std::env::args().nth(1) else { return Ok(()) };
    let Arrival { tokens, caller, engine } = arrival_times(Path::new(&path))?;
    let [caller, engine] = [caller, engine].map(|time| time.as_secs_f64() * 1e6);
    println!(
        "\nA prompt of {tokens} tokens, from arrival to end, besides what its steps compute: \
         {engine:.0} us on the engine's thread, {caller:.0} us on its caller's"
    );
    println!("\n| streams | tokens chosen | step, ms | between forward passes, us | share, % |");
    println!("|---|---|---|---|---|");
    for streams in [1, 16, 64, 256] {
        for (how, temperature) in [("most likely", 0.0), ("drawn, top_p 0.95", 0.8)] {
            let sampling = SamplingParams { temperature, top_p: 0.95, seed: Some(1), ..Default::default() };
            let (step, between) = engine_times(Path::new(&path), streams, &sampling)?;
            let share = 100.0 * between.as_secs_f64() / step.as_secs_f64();
            println!(
                "| {streams} | {how} | {:.2} | {:.0} | {share:.1} |",
                step.as_secs_f64() * 1e3,
                between.as_secs_f64() * 1e6
            );
        }
    }
    Ok(())
}

/// Times of steps in which all places are taken and as many sequences wait. With prompts, one of the streams
/// ends in each step, and another begins and one more arrives.
fn step_times(streams: usize, with_prompts: bool) -> Vec<Duration> {
    let tokens_each = 2 * PROMPT_TOKENS + if with_prompts { 2 * streams } else { 2 * STEPS };
    let pages_each = tokens_each / kernels::PAGE_TOKENS + 2;
    let mut scheduler = Scheduler::new(limits(streams, pages_each * streams * 2));
    let mut arrived = 2 * streams as u64;
    let mut events: Vec<SchedulerEvent> = (0..arrived).map(arrival).collect();
    let (mut times, mut actions) = (Vec::with_capacity(STEPS), Actions::default());
    let (mut now, mut steps, mut oldest) = (Duration::ZERO, 0, 0);
    while times.len() < STEPS && steps < 100 * STEPS {
        let started = Instant::now();
        scheduler.step_into(now, events.drain(..), &mut actions);
        let took = started.elapsed();
        // Prompts first; then every step is one token of every stream that found a place.
        let decodes = actions.outputs.len() == actions.batch.tokens.len();
        if if with_prompts { oldest > 0 } else { decodes } {
            times.push(took);
        }
        now += Duration::from_millis(10);
        steps += 1;
        answer(&actions, &mut events);
        if with_prompts && (decodes || oldest > 0) {
            events.push(SchedulerEvent::Ended { id: SequenceId(oldest) });
            events.push(arrival(arrived));
            (oldest, arrived) = (oldest + 1, arrived + 1);
        }
    }
    times.sort();
    times
}

fn answer(actions: &Actions, events: &mut Vec<SchedulerEvent>) {
    let rows = actions.batch.tokens.len();
    events.push(SchedulerEvent::Ran { rows, took: Duration::from_millis(10) });
    let next = actions.outputs.iter().filter(|output| output.kind == OutputKind::Next);
    events.extend(next.map(|output| SchedulerEvent::Sampled { id: output.id, token: 1 }));
}

fn arrival(id: u64) -> SchedulerEvent {
    let principal = (id % PRINCIPALS).to_string();
    let caller = Caller {
        tenant: principal.as_str().into(),
        principal: principal.as_str().into(),
        weight: NonZeroU32::MIN,
        band: Band::Interactive,
    };
    let root = ChainHash::tenant_root(b"model", &principal);
    let scope = PrefixScope { root, public_root: root, public_tokens: 0, keep: Keep::Usual, shares: true };
    // Of all lengths over a page, so that they do not all fill one in the same step.
    let prompt = vec![id as u32; PROMPT_TOKENS + (id * 7) as usize % kernels::PAGE_TOKENS];
    SchedulerEvent::Arrived { id: SequenceId(id), caller, prompt, score_prompt: false, chain: scope.into() }
}

fn limits(streams: usize, pages: usize) -> SchedulerLimits {
    SchedulerLimits {
        pages,
        running_sequences_max: streams,
        step_tokens_max: streams + 512,
        mixed_prefill_tokens_max: 256,
        prefill_time_max: Duration::from_secs(3600),
        mixed_prefill_time_max: Duration::from_secs(3600),
        scored_rows_max: 32,
        scrub_pages_max: 32,
        idle_scrub_pages_max: 128,
        share_prefixes: true,
        disk: None,
        stalled_client_max: Duration::from_secs(60),
    }
}

/// When a forward pass of so many sequences began and ended.
#[derive(Clone, Copy)]
struct Pass {
    sequences: usize,
    began: Instant,
    ended: Instant,
}

/// A decoder that writes down when it ran.
struct Timed {
    decoder: Box<dyn Decoder>,
    passes: Arc<Mutex<Vec<Pass>>>,
}

impl Decoder for Timed {
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
        let began = Instant::now();
        self.decoder.forward(batch, kv, logits);
        let pass = Pass { sequences: batch.sequences.len(), began, ended: Instant::now() };
        self.passes.lock().expect("nobody panics with it").push(pass);
    }
}

/// An engine over a model, its context, and the passes it runs.
struct TimedEngine {
    engine: Engine,
    context_tokens: usize,
    passes: Arc<Mutex<Vec<Pass>>>,
}

fn timed_engine(path: &Path, streams: usize) -> Result<TimedEngine, Failure> {
    let device = Device::cpu(CpuOptions::default())?;
    let mut model = load(&LoadOptions {
        path,
        name: Some("model"),
        context_tokens: None,
        device: &device,
        whole_identity: false,
        packed: None,
        progress: &|_| {},
    })?;
    let Network::Decoder(decoder) = model.network else {
        return Err("this model makes embeddings; give one that generates text".into());
    };
    let passes = Arc::new(Mutex::new(Vec::with_capacity(4096)));
    model.network = Network::Decoder(Box::new(Timed { decoder, passes: Arc::clone(&passes) }));
    let context_tokens = model.info.context_tokens;
    let options = EngineOptions {
        running_sequences_max: streams.max(8),
        step_tokens_max: streams + 512,
        waiting_requests_max: streams + 1,
        ..EngineOptions::default()
    };
    Ok(TimedEngine { engine: Engine::start(vec![model], options)?, context_tokens, passes })
}

fn request(prompt: Vec<u32>, max_new_tokens: usize, sampling: &SamplingParams) -> Request {
    Request {
        model: "model".to_owned(),
        caller: Caller::default(),
        prompt,
        max_new_tokens,
        sampling: sampling.clone(),
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: None,
        cache: CacheHint::default(),
        prompt_logprobs: None,
    }
}

/// Medians of a step and of what lies between two forward passes, while so many streams decode.
fn engine_times(
    path: &Path,
    streams: usize,
    sampling: &SamplingParams,
) -> Result<(Duration, Duration), Failure> {
    let TimedEngine { engine, passes, .. } = timed_engine(path, streams)?;
    let submit = |stream: usize| {
        let prompt = (0..4).map(|i| (1000 + 37 * stream + 7 * i) as u32).collect();
        engine.submit(request(prompt, NEW_TOKENS, sampling))
    };
    read((0..streams).map(submit).collect::<Result<Vec<_>, _>>()?);
    let passes = passes.lock().expect("nobody panics with it");
    let whole = passes.windows(2).filter(|pair| pair.iter().all(|pass| pass.sequences == streams));
    let (steps, between): (Vec<Duration>, Vec<Duration>) =
        whole.map(|pair| (pair[1].began - pair[0].began, pair[1].began - pair[0].ended)).unzip();
    Ok((median(steps), median(between)))
}

/// What a long prompt takes besides its forward passes, median.
struct Arrival {
    tokens: usize,
    /// On the thread that submits it.
    caller: Duration,
    /// Between passes, from its arrival to its end, beyond what a stream alone takes there.
    engine: Duration,
}

/// Measures prompts that arrive beside a stream that decodes. All but the first find their pages in the
/// cache: they are named, looked up and indexed all the same.
fn arrival_times(path: &Path) -> Result<Arrival, Failure> {
    let TimedEngine { engine, context_tokens, passes } = timed_engine(path, 1)?;
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let tokens = context_tokens.min(ARRIVAL_TOKENS).saturating_sub(kernels::PAGE_TOKENS);
    // Ids of plain text in vocabularies of 32,000 and more, in no order.
    let prompt: Vec<u32> =
        (0..tokens as u32).map(|i| 1000 + i.wrapping_mul(2_654_435_761) % 31_000).collect();
    let long = || engine.submit(request(prompt.clone(), ARRIVAL_NEW_TOKENS, &greedy));
    read(vec![long()?]);
    let mut beside = engine.submit(request(vec![1000, 2000, 3000], usize::MAX, &greedy))?;
    let count = || passes.lock().expect("nobody panics with it").len();
    let mut step = || match beside.next_blocking() {
        None | Some(Event::Finished(_) | Event::Failed(_)) => Err("the stream beside them ended early"),
        Some(_) => Ok(()),
    };
    let start = count();
    (0..ALONE_STEPS).try_for_each(|_| step())?;
    let gaps = |from: usize| -> Vec<Duration> {
        let passes = passes.lock().expect("nobody panics with it");
        passes[from..].windows(2).map(|pair| pair[1].began - pair[0].ended).collect()
    };
    let alone = median(gaps(start));
    let (mut callers, mut engines) = (Vec::new(), Vec::new());
    for _ in 0..ARRIVALS {
        let (from, began) = (count().saturating_sub(1), Instant::now());
        let mut stream = long()?;
        callers.push(began.elapsed());
        // Its last event comes from between two passes: the next one has to be seen, too.
        while !matches!(stream.next_blocking(), None | Some(Event::Finished(_) | Event::Failed(_))) {
            step()?;
        }
        let ended = count();
        while count() < ended + 2 {
            step()?;
        }
        let gaps = gaps(from);
        let all: Duration = gaps.iter().sum();
        engines.push(all.saturating_sub(alone * gaps.len() as u32));
    }
    Ok(Arrival { tokens, caller: median(callers), engine: median(engines) })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Reads all streams on this thread as a server would: woken by each event.
fn read(mut streams: Vec<EventStream>) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    while !streams.is_empty() {
        streams.retain_mut(|stream| {
            loop {
                match stream.poll_next(&mut context) {
                    Poll::Pending => return true,
                    Poll::Ready(None | Some(Event::Failed(_))) => return false,
                    Poll::Ready(Some(_)) => {}
                }
            }
        });
        if !streams.is_empty() {
            std::thread::park();
        }
    }
}
