//! Products with packed weights against this machine's limits.
//!
//! `cargo run --release -p benches --bin matmul [--size ROWSxCOLUMNS] [FORMAT...]` prints for each format
//! the packed weights read per second with 1, 2, 4, 8 and 16 rows of inputs, as a part of the measured
//! read bandwidth, and the multiply-adds per second with 16, 32, 128 and 512 rows, as a part of the
//! measured int8 peak. Few rows go through many matrices in turn, more than the caches hold; many rows
//! through one. `KERNELS_ISA=avx2` forces an instruction set.

use std::time::Instant;

use kernels::{CpuOptions, Device, Format, Linear, Precision, Tensor, WeightView, roofline};

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

/// Rows of inputs whose speed the memory decides, and those where arithmetic does.
const FEW: [usize; 5] = [1, 2, 4, 8, 16];
const MANY: [usize; 4] = [16, 32, 128, 512];
/// Packed bytes that few rows go through: more than any cache.
const STREAMED_BYTES: usize = 128 << 20;

fn main() -> Result<(), String> {
    let mut size = (8192, 2048);
    let mut formats = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--size" {
            size = parse_size(&arguments.next().unwrap_or_default())?;
        } else {
            let known = FORMATS.into_iter().find(|format| format.name() == argument);
            formats.push(known.ok_or_else(|| format!("unknown format `{argument}`"))?);
        }
    }
    if formats.is_empty() {
        formats = FORMATS.to_vec();
    }
    let (rows, columns) = size;
    let device = Device::cpu(CpuOptions::default())?;
    println!("{} on {} threads, weights {rows} x {columns}", device.isa(), device.threads());
    println!("{:7} {:>6}  {:>30}  {:>6}  {:>24}", "", "read", "of it with rows", "int8", "of it with rows");
    println!(
        "{:7} {:>6}  {}  {:>6}  {}",
        "format",
        "GB/s",
        FEW.map(|rows| format!("{rows:>6}")).concat(),
        "GOP/s",
        MANY.map(|rows| format!("{rows:>6}")).concat()
    );
    for format in formats {
        // Measured for each line anew: a shared machine changes within seconds.
        let limits = roofline::measure(&device);
        let (few, many) = measure(&device, format, rows, columns);
        println!(
            "{:7} {:6.1}  {}  {:6.0}  {}",
            format.name(),
            limits.read_bytes_per_s / 1e9,
            few.map(|rate| format!("{:5.0}%", 100.0 * rate / limits.read_bytes_per_s)).concat(),
            limits.int8_ops_per_s / 1e9,
            many.map(|rate| format!("{:5.0}%", 100.0 * rate / limits.int8_ops_per_s)).concat()
        );
    }
    Ok(())
}

fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let sizes =
        text.split_once('x').and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
    sizes.ok_or_else(|| format!("`{text}` is no size such as 8192x2048"))
}

/// Bytes a second for [`FEW`] and operations a second for [`MANY`].
fn measure(device: &Device, format: Format, rows: usize, columns: usize) -> ([f64; 5], [f64; 4]) {
    // Speed does not depend on the values; small ones keep every format's factors finite.
    let bytes = vec![0x11; format.bytes(rows * columns).expect("sizes of whole blocks")];
    let pack = || {
        let weight = WeightView::new(format, rows, columns, &bytes).expect("bytes of that size");
        device.pack(weight, None, Precision::Int8).expect("a supported format")
    };
    let first = pack();
    let copies = STREAMED_BYTES.div_ceil(first.bytes());
    let layers: Vec<Linear> = std::iter::once(first).chain((1..copies).map(|_| pack())).collect();
    let total: usize = layers.iter().map(Linear::bytes).sum();
    let few = FEW.map(|batch| total as f64 / seconds(device, &layers, batch, 6));
    let ops = |batch: usize| 2.0 * (rows * columns * batch) as f64;
    let many = MANY
        .map(|batch| ops(batch) / seconds(device, &layers[..1], batch, if batch < 100 { 200 } else { 40 }));
    (few, many)
}

/// Best time of `runs` of one product with each of `layers`, as the limits are the best of several: other tenants
/// of the machine only ever take away.
fn seconds(device: &Device, layers: &[Linear], batch: usize, runs: usize) -> f64 {
    let mut x = Tensor::zeros(batch, layers[0].inputs());
    x.values_mut().iter_mut().enumerate().for_each(|(i, value)| *value = (i % 13) as f32 - 6.0);
    let mut out = Tensor::default();
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        for layer in layers {
            device.linear(&x, &mut [(layer, &mut out)]);
        }
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}
