//! Where tensors live and ops run. Model code is written against this type alone.

use std::ops::Range;
use std::sync::Arc;

use half::f16;

use crate::kv::{KvCache, KvLayout, PAGE_TOKENS, PagedRows};
use crate::matmul::{self, Linear};
use crate::ops::{Activation, AttentionParams};
use crate::pool::WorkerPool;
use crate::rope::RopeStyle;
use crate::tensor::{Table, Tensor, Vector, WeightView};
use crate::{Isa, KernelError};

/// How to set up the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Worker threads; `None` takes the cores this process may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes `KERNELS_ISA` or the best one here.
    pub isa: Option<Isa>,
}

/// A place that runs ops. Cheap to clone; clones share the workers. Ops of clones must come from one
/// thread at a time (the engine's).
#[derive(Clone)]
pub struct Device {
    pool: Arc<WorkerPool>,
    isa: Isa,
}

impl Device {
    /// The CPU. Fails with a sentence for the user when the instruction set cannot be had.
    pub fn cpu(options: CpuOptions) -> Result<Device, String> {
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::from_environment()?,
        };
        let threads =
            options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        Ok(Device { pool: Arc::new(WorkerPool::new(threads)), isa })
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Packs a weight matrix for this device's [`Device::linear`].
    pub fn pack(&self, weight: WeightView<'_>, bias: Option<Vector>) -> Result<Linear, KernelError> {
        if let Some(bias) = &bias {
            assert_eq!(bias.len(), weight.rows, "one bias an output");
        }
        Linear::pack(weight, bias, &self.pool)
    }

    /// A cache of `pages` pages.
    pub fn kv_cache(&self, layout: KvLayout, pages: usize) -> KvCache {
        KvCache::new(layout, pages)
    }

    /// out[i] = table[ids[i]] · scale
    ///
    /// # Panics
    /// When an id is out of range: tokens are checked where they enter the engine.
    pub fn embed(&self, table: &Table, ids: &[u32], scale: f32, out: &mut Tensor) {
        out.reshape(ids.len(), table.columns());
        for (row, &id) in ids.iter().enumerate() {
            let values = out.row_mut(row);
            table.read(id as usize, values);
            if scale != 1.0 {
                values.iter_mut().for_each(|value| *value *= scale);
            }
        }
    }

    /// out = x / √(mean(x²) + eps) · weight, over groups of `weight.len()` values: whole rows, or each
    /// head of a row (`out` takes x's shape).
    pub fn rms_norm(&self, x: &Tensor, weight: &Vector, eps: f32, out: &mut Tensor) {
        out.reshape(x.rows(), x.columns());
        out.values_mut().copy_from_slice(x.values());
        self.rms_norm_in_place(out, weight, eps);
    }

    /// [`Device::rms_norm`] over the argument itself.
    pub fn rms_norm_in_place(&self, x: &mut Tensor, weight: &Vector, eps: f32) {
        assert_eq!(x.columns() % weight.len(), 0);
        for group in x.values_mut().chunks_exact_mut(weight.len()) {
            let mean = group.iter().map(|v| v * v).sum::<f32>() / group.len() as f32;
            let factor = 1.0 / (mean + eps).sqrt();
            for (value, gain) in group.iter_mut().zip(weight.values()) {
                *value *= factor * gain;
            }
        }
    }

    /// out = (x - mean) / √(variance + eps) · weight + bias, row by row.
    pub fn layer_norm(&self, x: &Tensor, weight: &Vector, bias: &Vector, eps: f32, out: &mut Tensor) {
        out.reshape(x.rows(), x.columns());
        for row in 0..x.rows() {
            let source = x.row(row);
            // Two passes: one-pass variance cancels when |mean| >> std.
            let mean = source.iter().sum::<f32>() / source.len() as f32;
            let variance = source.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / source.len() as f32;
            let factor = 1.0 / (variance + eps).sqrt();
            for (i, value) in out.row_mut(row).iter_mut().enumerate() {
                *value = (source[i] - mean) * factor * weight.values()[i] + bias.values()[i];
            }
        }
    }

    /// Several layers that read the same input: each out = x Wᵀ + b. The input is quantised once.
    pub fn linear(&self, x: &Tensor, layers: &mut [(&Linear, &mut Tensor)]) {
        matmul::linear(self.isa, &self.pool, x, layers);
    }

    /// Turns each head of each row by the row's angles (see [`crate::RopeTable::angles`]). Values past
    /// the turned pairs pass through.
    pub fn rope(&self, x: &mut Tensor, head_dim: usize, style: RopeStyle, angles: &Tensor) {
        assert_eq!(x.rows(), angles.rows());
        let pairs = angles.columns() / 2;
        for row in 0..x.rows() {
            let (cosines, sines) = angles.row(row).split_at(pairs);
            for head in x.row_mut(row).chunks_exact_mut(head_dim) {
                for i in 0..pairs {
                    let (a, b) = match style {
                        RopeStyle::Half => (i, i + pairs),
                        RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let (x, y) = (head[a], head[b]);
                    head[a] = x * cosines[i] - y * sines[i];
                    head[b] = x * sines[i] + y * cosines[i];
                }
            }
        }
    }

    /// Stores a step's keys and values (`rows` x `kv_heads * head_dim`) in their sequences' pages.
    pub fn kv_write(&self, kv: &mut KvCache, layer: usize, k: &Tensor, v: &Tensor, sequences: &[PagedRows]) {
        let KvLayout { kv_heads, head_dim, .. } = kv.layout();
        for sequence in sequences {
            for i in 0..sequence.rows {
                let position = sequence.past + i;
                let page = sequence.pages[position / PAGE_TOKENS];
                for head in 0..kv_heads {
                    let keys = kv.offset(page, layer, head) + position % PAGE_TOKENS * head_dim;
                    let values = keys + PAGE_TOKENS * head_dim;
                    let row = sequence.first_row + i;
                    for d in 0..head_dim {
                        kv.values[keys + d] = f16::from_f32(k.row(row)[head * head_dim + d]);
                        kv.values[values + d] = f16::from_f32(v.row(row)[head * head_dim + d]);
                    }
                }
            }
        }
    }

    /// Causal attention of a step's queries (`rows` x `heads * head_dim`) over their sequences' pages,
    /// which already hold this step's keys and values. `out` takes q's shape.
    pub fn attention(
        &self,
        q: &Tensor,
        kv: &KvCache,
        layer: usize,
        sequences: &[PagedRows],
        params: &AttentionParams,
        out: &mut Tensor,
    ) {
        let AttentionParams { heads, kv_heads, head_dim, scale, window } = *params;
        out.reshape(q.rows(), heads * head_dim);
        for sequence in sequences {
            for i in 0..sequence.rows {
                let last = sequence.past + i;
                let first = window.map_or(0, |window| (last + 1).saturating_sub(window));
                let row = sequence.first_row + i;
                for head in 0..heads {
                    let query = &q.row(row)[head * head_dim..][..head_dim];
                    let at = |position: usize| {
                        let page = sequence.pages[position / PAGE_TOKENS];
                        kv.offset(page, layer, head / (heads / kv_heads)) + position % PAGE_TOKENS * head_dim
                    };
                    let mut scores: Vec<f32> = (first..=last)
                        .map(|p| {
                            let key = &kv.values[at(p)..][..head_dim];
                            query.iter().zip(key).map(|(q, k)| q * k.to_f32()).sum::<f32>() * scale
                        })
                        .collect();
                    softmax(&mut scores);
                    let result = &mut out.row_mut(row)[head * head_dim..][..head_dim];
                    result.fill(0.0);
                    for (weight, p) in scores.iter().zip(first..=last) {
                        let value = &kv.values[at(p) + PAGE_TOKENS * head_dim..][..head_dim];
                        for (r, v) in result.iter_mut().zip(value) {
                            *r += weight * v.to_f32();
                        }
                    }
                }
            }
        }
    }

    /// Bidirectional attention inside each segment of rows (encoders). q, k, v have the same rows;
    /// `out` takes q's shape.
    pub fn attention_bidirectional(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        segments: &[Range<usize>],
        params: &AttentionParams,
        out: &mut Tensor,
    ) {
        let AttentionParams { heads, kv_heads, head_dim, scale, .. } = *params;
        out.reshape(q.rows(), heads * head_dim);
        for segment in segments {
            for row in segment.clone() {
                for head in 0..heads {
                    let shared = head / (heads / kv_heads);
                    let query = &q.row(row)[head * head_dim..][..head_dim];
                    let mut scores: Vec<f32> = segment
                        .clone()
                        .map(|p| {
                            let key = &k.row(p)[shared * head_dim..][..head_dim];
                            query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>() * scale
                        })
                        .collect();
                    softmax(&mut scores);
                    let result = &mut out.row_mut(row)[head * head_dim..][..head_dim];
                    result.fill(0.0);
                    for (weight, p) in scores.iter().zip(segment.clone()) {
                        for (r, v) in result.iter_mut().zip(&v.row(p)[shared * head_dim..][..head_dim]) {
                            *r += weight * v;
                        }
                    }
                }
            }
        }
    }

    /// x = activation(x)
    pub fn activate(&self, activation: Activation, x: &mut Tensor) {
        x.values_mut().iter_mut().for_each(|value| *value = activation.scalar(*value));
    }

    /// gate = activation(gate) · up
    pub fn gated(&self, activation: Activation, gate: &mut Tensor, up: &Tensor) {
        for (gate, up) in gate.values_mut().iter_mut().zip(up.values()) {
            *gate = activation.scalar(*gate) * up;
        }
    }

    /// x += y
    pub fn add(&self, x: &mut Tensor, y: &Tensor) {
        for (x, y) in x.values_mut().iter_mut().zip(y.values()) {
            *x += y;
        }
    }

    /// out[i] = x[rows[i]]
    pub fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) {
        out.reshape(rows.len(), x.columns());
        for (i, &row) in rows.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(row as usize));
        }
    }
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        sum += *score;
    }
    scores.iter_mut().for_each(|score| *score /= sum);
}
