//! Log-probabilities of given texts, with products of int8 activations or of f32 throughout, or with keys
//! and values of 8 bits.
//!
//! `cargo run --release -p benches --bin score -- MODEL [--f32 | --kv-int8] < CHUNKS` reads a JSON list of lists of
//! token ids and prints, for each, a list with the log-probability of every token after the first.
//! `benches/peers/perplexity.py` makes perplexities of them. An instruction set is forced by
//! `KERNELS_ISA`.

use benches::{Failure, load_model};
use engine::{Caller, Engine, EngineOptions, Event, Request, SamplingParams, StopCriteria};
use kernels::{CpuOptions, Device, KvFormat};

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("give the path of a model")?;
    let device = Device::cpu(CpuOptions::default())?;
    let device = match arguments.next().as_deref() {
        Some("--f32") => device.in_f32(),
        Some("--kv-int8") => device.with_kv_format(KvFormat::Int8),
        None => device,
        Some(other) => return Err(format!("unknown option {other}").into()),
    };
    let engine = Engine::start(vec![load_model(&path, &device)?], EngineOptions::default())?;
    let chunks: Vec<Vec<u32>> = serde_json::from_reader(std::io::stdin().lock())?;
    let scored: Vec<Vec<f32>> =
        chunks.into_iter().map(|chunk| score(&engine, chunk)).collect::<Result<_, _>>()?;
    println!("{}", serde_json::to_string(&scored)?);
    Ok(())
}

/// The log-probability of each token of `prompt` but the first.
fn score(engine: &Engine, prompt: Vec<u32>) -> Result<Vec<f32>, Failure> {
    let request = Request {
        model: "model".into(),
        caller: Caller::default(),
        prompt,
        max_new_tokens: 0,
        sampling: SamplingParams::default(),
        stop: StopCriteria::default(),
        logprobs: None,
        cache: engine::CacheHint::default(),
        prompt_logprobs: Some(0),
    };
    let mut events = engine.submit(request)?;
    while let Some(event) = events.next_blocking() {
        match event {
            Event::PromptLogprobs(found) => {
                return Ok(found.into_iter().flatten().map(|token| token.logprob).collect());
            }
            Event::Failed(reason) => return Err(reason.into()),
            Event::Token(_) | Event::Finished(_) => {}
        }
    }
    Err("the engine scored nothing".into())
}
