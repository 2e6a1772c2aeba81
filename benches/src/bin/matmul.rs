//! Products with packed weights against this machine's limits.
//!
//! `cargo run --release -p benches --bin matmul [rows] [columns]` prints, for each format, the weights
//! read per second with one row of inputs and the multiply-adds per second with 512 rows, beside the
//! measured read bandwidth and int8 peak. `KERNELS_ISA=avx2` forces an instruction set.

use std::time::Instant;

use kernels::{CpuOptions, Device, Format, Precision, Tensor, WeightView, roofline};

const FORMATS: [Format; 14] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::IQ4_NL,
    Format::IQ4_XS,
    Format::MXFP4,
    Format::F16,
    Format::BF16,
    Format::F32,
];

fn main() -> Result<(), String> {
    let mut sizes =
        std::env::args().skip(1).map(|text| text.parse::<usize>().map_err(|e| format!("{text}: {e}")));
    let rows = sizes.next().unwrap_or(Ok(8192))?;
    let columns = sizes.next().unwrap_or(Ok(2048))?;
    let device = Device::cpu(CpuOptions::default())?;
    let limits = roofline::measure(&device);
    println!("{} on {} threads, weights {rows} x {columns}", device.isa(), device.threads());
    println!("read {:.1} GB/s, int8 {:.0} GOP/s", limits.read_bytes_per_s / 1e9, limits.int8_ops_per_s / 1e9);
    println!(
        "{:8} {:>10} {:>8} {:>12} {:>8} {:>12}",
        "format", "GB/s", "of read", "GOP/s x512", "of int8", "GOP/s x16"
    );
    for format in FORMATS {
        let row = measure(&device, format, rows, columns);
        println!(
            "{:8} {:10.1} {:7.0}% {:12.0} {:7.0}% {:12.0}",
            format.name(),
            row.bytes_per_s / 1e9,
            100.0 * row.bytes_per_s / limits.read_bytes_per_s,
            row.ops_512 / 1e9,
            100.0 * row.ops_512 / limits.int8_ops_per_s,
            row.ops_16 / 1e9,
        );
    }
    Ok(())
}

struct Row {
    bytes_per_s: f64,
    ops_512: f64,
    ops_16: f64,
}

fn measure(device: &Device, format: Format, rows: usize, columns: usize) -> Row {
    // Speed does not depend on the values; small ones keep every format's factors finite.
    let bytes = vec![0x11; format.bytes(rows * columns).expect("sizes of whole blocks")];
    let weight = WeightView::new(format, rows, columns, &bytes).expect("bytes of that size");
    let layer = device.pack(weight, None, Precision::Int8).expect("a supported format");
    let seconds = |batch: usize| {
        let mut x = Tensor::zeros(batch, columns);
        x.values_mut().iter_mut().enumerate().for_each(|(i, value)| *value = (i % 13) as f32 - 6.0);
        let mut out = Tensor::default();
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                device.linear(&x, &mut [(&layer, &mut out)]);
                start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let ops = |batch: usize| 2.0 * (rows * columns * batch) as f64 / seconds(batch);
    Row { bytes_per_s: layer.bytes() as f64 / seconds(1), ops_512: ops(512), ops_16: ops(16) }
}
