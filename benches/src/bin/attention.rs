//! Attention over pages against this machine's limits.
//!
//! `cargo run --release -p benches --bin attention [heads] [key heads] [head_dim]` prints, for prompts
//! of several lengths, the time of the last 512 rows and their multiply-adds per second, and for one row
//! at several contexts the keys and values read per second, beside the measured read bandwidth.
//! `KERNELS_ISA=avx2` forces an instruction set.

use std::time::Instant;

use kernels::{
    AttentionParams, CpuOptions, Device, KvCache, KvFormat, KvLayout, PAGE_TOKENS, PagedRows, Tensor,
    roofline,
};

const CONTEXTS: [usize; 5] = [512, 1024, 2048, 8192, 32768];
const ROWS: usize = 512;
/// Layers of the cache: a decode goes through all, so that nothing stays in a core's cache.
const LAYERS: usize = 8;

fn main() -> Result<(), String> {
    let mut sizes =
        std::env::args().skip(1).map(|text| text.parse::<usize>().map_err(|e| format!("{text}: {e}")));
    let heads = sizes.next().unwrap_or(Ok(9))?;
    let kv_heads = sizes.next().unwrap_or(Ok(3))?;
    let head_dim = sizes.next().unwrap_or(Ok(64))?;
    let device = Device::cpu(CpuOptions::default())?;
    let limits = roofline::measure(&device);
    println!("{} on {} threads, {heads}/{kv_heads} heads of {head_dim}", device.isa(), device.threads());
    println!("read {:.1} GB/s", limits.read_bytes_per_s / 1e9);
    println!(
        "{:8} {:>8} {:>12} {:>10} {:>12} {:>8}",
        "format", "context", "ms, 512 rows", "GOP/s", "us, 1 row", "GB/s"
    );
    let params = AttentionParams { heads, kv_heads, head_dim, scale: 0.1, window: None };
    for format in KvFormat::ALL {
        let layout = KvLayout { layers: LAYERS, kv_heads, head_dim, format };
        let run = Run::new(device.clone(), layout, params);
        for context in CONTEXTS {
            let prefill = run.seconds(context, ROWS);
            let decode = run.seconds(context, 1);
            let seen = ROWS * (2 * context - ROWS + 1) / 2;
            let bytes = context / PAGE_TOKENS * layout.page_bytes() / LAYERS;
            println!(
                "{:8} {context:8} {:12.2} {:10.0} {:12.1} {:8.1}",
                format.name(),
                prefill * 1e3,
                4.0 * (seen * heads * head_dim) as f64 / prefill / 1e9,
                decode * 1e6,
                bytes as f64 / decode / 1e9,
            );
        }
    }
    Ok(())
}

struct Run {
    device: Device,
    params: AttentionParams,
    kv: KvCache,
}

impl Run {
    /// A cache full of keys and values that vary.
    fn new(device: Device, layout: KvLayout, params: AttentionParams) -> Run {
        let context = CONTEXTS[CONTEXTS.len() - 1];
        let mut kv = device.kv_cache(layout, context / PAGE_TOKENS);
        let (k, v) = (
            varied(ROWS, layout.kv_heads * layout.head_dim),
            varied(ROWS, layout.kv_heads * layout.head_dim),
        );
        for layer in 0..layout.layers {
            for past in (0..context).step_by(ROWS) {
                device.kv_write(&mut kv, layer, &k, &v, None, &[rows_after(past, ROWS)]);
            }
        }
        Run { device, params, kv }
    }

    /// Median time of one layer's attention of the last `rows` rows of a context.
    fn seconds(&self, context: usize, rows: usize) -> f64 {
        let q = varied(rows, self.params.heads * self.params.head_dim);
        let mut out = Tensor::default();
        let sequences = [rows_after(context - rows, rows)];
        let mut times: Vec<f64> = (0..7)
            .map(|_| {
                let start = Instant::now();
                for layer in 0..LAYERS {
                    self.device.attention(&q, None, &self.kv, layer, &sequences, &self.params, &mut out);
                }
                start.elapsed().as_secs_f64() / LAYERS as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

fn rows_after(past: usize, rows: usize) -> PagedRows {
    PagedRows { first_row: 0, rows, past, pages: (0..((past + rows) / PAGE_TOKENS) as u32).collect() }
}

fn varied(rows: usize, columns: usize) -> Tensor {
    let mut tensor = Tensor::zeros(rows, columns);
    let values = tensor.values_mut().iter_mut().enumerate();
    values.for_each(|(i, value)| *value = (i * 7919 % 4099) as f32 / 2048.0 - 1.0);
    tensor
}
