//! What zeroing freed pages costs: `cargo run --release -p benches --bin zeroing -- MODEL`. Every page that
//! is filled is zeroed once; the time for that is set against the time its tokens take to compute, so that
//! throughput without it is known too. The target is 1 % at most.

use std::time::Instant;

use benches::{Failure, load_model};
use engine::bench::{BenchOptions, bench};
use engine::model::Network;
use kernels::{CpuOptions, Device, KvCache, PAGE_TOKENS};

/// More than caches of the processor hold.
const CACHE_BYTES: usize = 512 << 20;
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("give the path of a model")?;
    let device = Device::cpu(CpuOptions::default())?;
    let mut model = load_model(&path, &device)?;
    let Network::Decoder(decoder) = &mut model.network else {
        return Err("this model makes embeddings; give one that generates text".into());
    };
    let (prompt_tokens, step_tokens, streams) = (512, 512, vec![16]);
    let speeds = BenchOptions { prompt_tokens, decode_tokens: 64, streams, step_tokens, runs: 3 };
    let report = bench(decoder.as_mut(), &device, &speeds);
    let page_bytes = decoder.kv_layout().page_bytes();
    let zero_s = zero_seconds(&mut device.kv_cache(decoder.kv_layout(), CACHE_BYTES / page_bytes));
    println!("a page of {page_bytes} bytes is zeroed in {:.1} us", zero_s * 1e6);
    println!("| | tokens/s, zeroing off | on | cost, % |\n|---|---|---|---|");
    let rows =
        [("prompt of 512", report.prefill.tokens_per_s), ("16 streams", report.decode[0].tokens_per_s)];
    for (what, off) in rows {
        let page_s = PAGE_TOKENS as f64 / off;
        let on = PAGE_TOKENS as f64 / (page_s + zero_s);
        println!("| {what} | {off:.0} | {on:.0} | {:.2} |", 100.0 * (1.0 - on / off));
    }
    Ok(())
}

/// The least of several rounds over a cache that was touched before, a page.
fn zero_seconds(kv: &mut KvCache) -> f64 {
    let pages = kv.pages() as u32;
    let round = |_| {
        let started = Instant::now();
        (0..pages).for_each(|page| kv.zero_page(page));
        started.elapsed().as_secs_f64() / f64::from(pages)
    };
    // The first round touches the memory.
    let rounds: Vec<f64> = (0..=ROUNDS).map(round).collect();
    rounds[1..].iter().copied().fold(f64::INFINITY, f64::min)
}
