//! What planning a step costs: `cargo run --release -p benches --bin scheduler`. Streams of several
//! principals decode together; others wait. The target is 50 microseconds a step at 256 streams.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use engine::pages::{ChainHash, Keep, PrefixScope};
use engine::scheduler::{Actions, OutputKind, Scheduler, SchedulerEvent, SchedulerLimits, SequenceId};
use engine::{Band, Caller};

const PRINCIPALS: u64 = 16;
const PROMPT_TOKENS: usize = 100;
const STEPS: usize = 1000;

fn main() {
    println!("| streams | median, us a step | 99th percentile, us |");
    println!("|---|---|---|");
    for streams in [32, 256, 1024] {
        let mut times = step_times(streams);
        times.sort();
        let micros = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e6;
        println!("| {streams} | {:.1} | {:.1} |", micros(50), micros(99));
    }
}

/// Times of steps in which all places are taken and as many sequences wait.
fn step_times(streams: usize) -> Vec<Duration> {
    let pages_each = (PROMPT_TOKENS + 2 * STEPS) / kernels::PAGE_TOKENS + 2;
    let mut scheduler = Scheduler::new(limits(streams, pages_each * streams * 2));
    let mut events: Vec<SchedulerEvent> = (0..2 * streams as u64).map(arrival).collect();
    let mut times = Vec::new();
    let mut actions = Actions::default();
    let (mut now, mut decoding) = (Duration::ZERO, 0);
    while times.len() < STEPS && decoding < 100 * STEPS {
        let started = Instant::now();
        scheduler.step_into(now, events.drain(..), &mut actions);
        let took = started.elapsed();
        // Prompts first; then every step is one token of every stream that found a place.
        if actions.outputs.len() == actions.batch.tokens.len() {
            times.push(took);
        }
        now += Duration::from_millis(10);
        decoding += 1;
        answer(&actions, &mut events);
    }
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
    let prompt = vec![id as u32; PROMPT_TOKENS];
    SchedulerEvent::Arrived { id: SequenceId(id), caller, prompt, score_prompt: false, scope }
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
        has_disk: false,
        stalled_client_max: Duration::from_secs(60),
    }
}
