//! SmolLM2 loaded beside itself and unloaded again: what becomes of the memory. Alone in its process,
//! whose memory it measures.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use engine::model::{LoadOptions, load};
use engine::{
    Engine, EngineError, EngineOptions, Event, EventStream, LoadPlan, Request, SamplingParams, StopCriteria,
    UnloadMode,
};
use kernels::{CpuOptions, Device};

use support::{SMOLLM2, real_model};

const MIB: usize = 1 << 20;

fn request(engine: &Engine, name: &str, max_new_tokens: usize) -> Request {
    let model = engine.model(name).expect("it is served");
    Request {
        model: name.to_owned(),
        prompt: model.tokenizer.encode("Once upon a time", true).unwrap(),
        max_new_tokens,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopCriteria { ignore_eos: true, ..StopCriteria::default() },
        logprobs: None,
        cache: engine::CacheHint::default(),
        prompt_logprobs: None,
        caller: engine::Caller::default(),
    }
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

/// Memory of this process that is no file's.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

#[test]
fn memory_comes_back_when_a_model_goes_while_another_runs() {
    let Some(path) = real_model(SMOLLM2) else { return };
    kernels::host::return_buffers_when_freed();
    let device = Device::cpu(CpuOptions { threads: Some(2), isa: None }).unwrap();
    let aside = device.clone().packing_aside();
    let open = |name: &'static str, device: &Device| {
        load(&LoadOptions {
            path: &path,
            name: Some(name),
            context_tokens: Some(2048),
            device,
            whole_identity: false,
            packed: None,
            progress: &|_| {},
        })
    };
    let options = EngineOptions { memory_bytes_max: 600 * MIB, ..EngineOptions::default() };
    let engine = Engine::start(vec![open("first", &device).unwrap()], options).unwrap();
    let expected = read(engine.submit(request(&engine, "first", 100)).unwrap());

    let mut streams = Vec::new();
    // What later rounds may leave is what the first one left, about.
    let mut before = usize::MAX / 2;
    for round in 0..3 {
        streams.push(engine.submit(request(&engine, "first", 100)).unwrap());
        let plan = LoadPlan { name: "second", weight_bytes: 100 * MIB, pinned: false };
        engine.load(&plan, || open("second", &aside)).unwrap();
        assert_eq!(read(engine.submit(request(&engine, "second", 100)).unwrap()), expected);
        let loaded = resident_bytes();
        let used = engine.stats().memory_bytes_used;
        let unloading = engine.unload("second", UnloadMode::Finish).unwrap();
        assert!(unloading.bytes() > 80 * MIB);
        assert!(unloading.wait(Duration::from_secs(30)));
        assert_eq!(engine.stats().memory_bytes_used, used - unloading.bytes());
        // The last of it goes back to the system a moment later, and the allocator keeps the tops of its
        // arenas, where loading had its small buffers: less than the weights of a model that stays.
        let most = (loaded - 40 * MIB).min(before + 60 * MIB);
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut after = resident_bytes();
        while after > most && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            after = resident_bytes();
        }
        println!("round {round}: {} MiB with it, {} MiB without", loaded / MIB, after / MIB);
        assert!(after <= most, "{after} bytes are still there of {loaded}, {before} after the first round");
        before = before.min(after);
    }
    for stream in streams {
        assert_eq!(read(stream), expected, "it ran beside loads and unloads");
    }

    // No room for a third beside two caches of this size: refused, and the first is as it was.
    let plan = LoadPlan { name: "large", weight_bytes: 500 * MIB, pinned: false };
    let refused = engine.load(&plan, || open("large", &aside)).err().unwrap();
    assert!(matches!(refused, EngineError::NoMemory { .. }), "{refused}");
    assert_eq!(read(engine.submit(request(&engine, "first", 100)).unwrap()), expected);
}
