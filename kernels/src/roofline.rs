//! This machine's limits, measured the way the kernels would hit them: reading memory once, and the
//! int8 dot-product instruction with everything in registers.
//!
//! Other tenants take bandwidth away and give it back within seconds, so a speed belongs beside limits
//! measured right before and after it: [`Probe`] measures in windows of some milliseconds.

use std::time::Instant;

use crate::simd::{LANES, Simd, per_isa};
use crate::{Device, Isa};

/// Limits with all of a device's threads.
#[derive(Clone, Copy, Debug)]
pub struct Roofline {
    pub read_bytes_per_s: f64,
    /// Multiplications and additions of int8 values.
    pub int8_ops_per_s: f64,
}

/// Far more than any cache: what one of 32 MiB keeps from pass to pass adds little.
const BUFFER_BYTES: usize = 512 << 20;
/// Best of this many: other tenants of the machine only ever take away.
const RUNS: usize = 20;
/// A millisecond or two: short enough that some run goes undisturbed.
const STEPS: usize = 300_000;
/// Of one [`Probe::int8_ops_per_s`]: a core's peak is its own, whatever interrupted one of them.
const INT8_RUNS: usize = 3;

/// Takes about a second.
pub fn measure(device: &Device) -> Roofline {
    let probe = Probe::new(device);
    let best = |measure: &dyn Fn() -> f64| (0..RUNS).map(|_| measure()).fold(0.0, f64::max);
    Roofline {
        read_bytes_per_s: best(&|| probe.read_bytes_per_s()),
        int8_ops_per_s: best(&|| probe.int8_ops_per_s()),
    }
}

/// What measures a device's limits again and again, in short windows between others.
pub struct Probe<'a> {
    device: &'a Device,
    buffer: Vec<f32>,
}

impl<'a> Probe<'a> {
    pub fn new(device: &'a Device) -> Probe<'a> {
        // As weights lie in memory: in huge pages, and each touched before.
        let mut buffer = crate::host::vec_in_huge_pages(BUFFER_BYTES / 4);
        buffer.resize(BUFFER_BYTES / 4, 1.0_f32);
        Probe { device, buffer }
    }

    /// Memory that all threads read in one pass over the buffer, which takes 5 to 30 ms.
    pub fn read_bytes_per_s(&self) -> f64 {
        let (device, buffer) = (self.device, &self.buffer);
        let seconds = seconds(|| {
            device.on_all_threads(buffer.len(), &|range| {
                std::hint::black_box(sum(device.isa(), &buffer[range]));
            });
        });
        BUFFER_BYTES as f64 / seconds
    }

    /// The int8 peak of all threads, which takes some milliseconds.
    pub fn int8_ops_per_s(&self) -> f64 {
        let device = self.device;
        let once = || {
            device.on_all_threads(device.threads(), &|_| {
                std::hint::black_box(dot_steps(device.isa(), STEPS));
            });
        };
        let best = (0..INT8_RUNS).map(|_| seconds(once)).fold(f64::INFINITY, f64::min);
        (2 * STEPS * ops_per_step(device.isa()) * device.threads()) as f64 / best
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

per_isa!(fn sum = sum_body(values: &[f32]) -> f32);

/// Two streams, as codes and scales are.
#[inline(always)]
fn sum_body<S: Simd>(values: &[f32]) -> f32 {
    let mut totals = [[0.0; LANES]; 4];
    let (first, second) = values.split_at(values.len() / 2);
    let streams = [first, second].map(|stream| stream.as_chunks::<{ 4 * LANES }>().0);
    for (first, second) in streams[0].iter().zip(streams[1]) {
        for four in [first, second] {
            prefetch(four);
            for part in 0..4 {
                for lane in 0..LANES {
                    totals[part][lane] += four[part * LANES + lane];
                }
            }
        }
    }
    totals.as_flattened().iter().sum()
}

/// Asks for what comes a while after `values`, as the kernels do.
#[inline(always)]
fn prefetch(values: &[f32; 4 * LANES]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.as_chunks::<16>().0 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let ahead = line.as_ptr().wrapping_byte_add(crate::matmul::PREFETCH_BYTES);
        // SAFETY: prefetching has no effect but on caches, wherever it points; every x86_64 has SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Multiply-adds in one step of [`dot_steps`].
fn ops_per_step(isa: Isa) -> usize {
    match isa {
        Isa::Avx512Vnni => 8 * 64,
        Isa::Avx2 | Isa::AvxVnni => 8 * 32,
        Isa::NeonI8mm => 16 * 32,
        Isa::NeonDotprod => 16 * 16,
        Isa::Neon => 8 * 16,
        Isa::Scalar => 8,
    }
}

fn dot_steps(isa: Isa, steps: usize) -> i32 {
    match isa {
        // SAFETY: a device's instruction set was checked against this machine.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => unsafe { x86::vnni_steps(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => unsafe { x86::vnni_256_steps(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::maddubs_steps(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm => unsafe { neon::smmla_steps(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => unsafe { neon::sdot_steps(steps) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::smlal_steps(steps) },
        _ => scalar_steps(steps),
    }
}

fn scalar_steps(steps: usize) -> i32 {
    let mut sums = [0_i32; 8];
    for step in 0..steps {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = sum.wrapping_add(i32::from(std::hint::black_box(step as i8)) * lane as i32);
        }
    }
    sums.iter().fold(0, |sum, value| sum.wrapping_add(*value))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Eight independent `vpdpbusd` a step: more than latency times throughput anywhere.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn vnni_steps(steps: usize) -> i32 {
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(std::hint::black_box(5)));
        let mut sums = [_mm512_setzero_si512(); 8];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.into_iter().fold(0, |total, sum| total ^ _mm512_reduce_add_epi32(sum))
    }

    /// As [`vnni_steps`] with registers of 256 bits.
    #[target_feature(enable = "avxvnni,avx2")]
    pub fn vnni_256_steps(steps: usize) -> i32 {
        let (a, b) = (_mm256_set1_epi8(3), _mm256_set1_epi8(std::hint::black_box(5)));
        let mut sums = [_mm256_setzero_si256(); 8];
        for _ in 0..steps {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        sums.into_iter().fold(0, |total, sum| total ^ _mm256_extract_epi32::<0>(sum))
    }

    /// Eight `vpmaddubsw` a step, four at a time summed in 16 bits before one `vpmaddwd` widens them: what
    /// the kernels do with codes of four or five bits.
    #[target_feature(enable = "avx2")]
    pub fn maddubs_steps(steps: usize) -> i32 {
        let ones = _mm256_set1_epi16(1);
        let weights: [__m256i; 8] = std::array::from_fn(|i| _mm256_set1_epi8(std::hint::black_box(i as i8)));
        let mut input = _mm256_set1_epi8(std::hint::black_box(5));
        let mut sums = [_mm256_setzero_si256(); 2];
        for _ in 0..steps {
            // The input changes, or the products would be computed once.
            input = _mm256_add_epi8(input, ones);
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                let products = weights.map(|weight| _mm256_maddubs_epi16(weight, input));
                let [a, b, c, d] = products;
                let narrow = _mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(narrow, ones));
            }
        }
        sums.into_iter().fold(0, |total, sum| total ^ _mm256_extract_epi32::<0>(sum))
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use crate::matmul::{sdot, smmla};

    /// Sums that start apart, or the compiler would compute one of them.
    #[target_feature(enable = "neon")]
    fn sums() -> [int32x4_t; 16] {
        let mut sums = [vdupq_n_s32(0); 16];
        sums.iter_mut().enumerate().for_each(|(i, sum)| *sum = vdupq_n_s32(black_box(i as i32)));
        sums
    }

    #[target_feature(enable = "neon")]
    fn total(sums: [int32x4_t; 16]) -> i32 {
        sums.into_iter().fold(0, |total, sum| total ^ vaddvq_s32(sum))
    }

    /// Sixteen independent `smmla` a step: latency times throughput of the widest cores.
    #[target_feature(enable = "neon,i8mm")]
    pub fn smmla_steps(steps: usize) -> i32 {
        let (a, b) = (vdupq_n_s8(3), vdupq_n_s8(black_box(5)));
        let mut sums = sums();
        for _ in 0..steps {
            for sum in &mut sums {
                smmla(sum, a, b);
            }
        }
        total(sums)
    }

    /// Sixteen independent `sdot` a step.
    #[target_feature(enable = "neon,dotprod")]
    pub fn sdot_steps(steps: usize) -> i32 {
        let (a, b) = (vdupq_n_s8(3), vdupq_n_s8(black_box(5)));
        let mut sums = sums();
        for _ in 0..steps {
            for sum in &mut sums {
                sdot::<0>(sum, a, b);
            }
        }
        total(sums)
    }

    /// Eight registers of weights a step, the products of four at a time summed in 16 bits before they are
    /// widened: what the kernels do with codes of four or five bits.
    #[target_feature(enable = "neon")]
    pub fn smlal_steps(steps: usize) -> i32 {
        let mut weights = [vdupq_n_s8(0); 8];
        weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = vdupq_n_s8(black_box(i as i8)));
        // Inputs differ and change, or the compiler would add weights first and multiply once.
        let mut inputs = [vdupq_n_s8(0); 4];
        inputs.iter_mut().enumerate().for_each(|(i, input)| *input = vdupq_n_s8(black_box(i as i8)));
        let mut sums = [vdupq_n_s32(0); 2];
        for _ in 0..steps {
            for input in &mut inputs {
                *input = vaddq_s8(*input, vdupq_n_s8(1));
            }
            for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                let mut narrow = [vdupq_n_s16(0); 2];
                for (weight, input) in weights.iter().zip(inputs) {
                    narrow[0] = vmlal_s8(narrow[0], vget_low_s8(*weight), vget_low_s8(input));
                    narrow[1] = vmlal_high_s8(narrow[1], *weight, input);
                }
                *sum = vpadalq_s16(*sum, vpaddq_s16(narrow[0], narrow[1]));
            }
        }
        vaddvq_s32(veorq_s32(sums[0], sums[1]))
    }
}
