//! Where tensors live and ops run. Model code is written against this type alone.

use std::ops::Range;
use std::sync::Arc;

use crate::cores::Cores;
use crate::kv::{KvCache, KvFormat, KvLayout, PagedRows};
use crate::matmul::{self, Input, Linear, Precision, SendPtr};
use crate::memory::Arena;
use crate::ops::{AttentionParams, AttentionSpan, HeadTurn, Softmax, attention, norm, rope};
use crate::pool::WorkerPool;
use crate::rope::RopeStyle;
use crate::tensor::{Table, Tensor, Vector, WeightView};
use crate::{Format, Isa, KernelError, MappedBytes};

/// How to set up the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Worker threads; `None` takes one for each physical core this process may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes `KERNELS_ISA` or the best one here.
    pub isa: Option<Isa>,
}

/// A place that runs ops. Cheap to clone; clones share the workers. Ops of clones must come from one
/// thread at a time (the engine's).
#[derive(Clone)]
pub struct Device {
    pool: Arc<WorkerPool>,
    /// Of packed weights.
    memory: Arc<Arena>,
    isa: Isa,
    /// See [`Device::in_f32`].
    f32_weights: bool,
    /// See [`Device::packing_aside`].
    packs_aside: bool,
    /// See [`Device::with_kv_format`].
    kv_format: KvFormat,
}

impl Device {
    /// The CPU. Fails with a sentence for the user when the instruction set cannot be had.
    pub fn cpu(options: CpuOptions) -> Result<Device, String> {
        let isa = match options.isa {
            Some(isa) => Isa::parse(isa.name())?,
            None => Isa::from_environment()?,
        };
        let threads = options.threads.unwrap_or_else(|| Cores::of_this_process().threads());
        Ok(Device {
            pool: Arc::new(WorkerPool::new(threads)),
            memory: Arc::default(),
            isa,
            f32_weights: false,
            packs_aside: false,
            kv_format: KvFormat::default(),
        })
    }

    /// The same device, packing every matrix as f32: nothing is rounded to int8. Many times slower and
    /// larger; what quantised products are judged against.
    pub fn in_f32(self) -> Device {
        Device { f32_weights: true, ..self }
    }

    /// The same device for a load that happens while ops of its clones go on: [`Device::packing_threads`]
    /// is 1.
    pub fn packing_aside(self) -> Device {
        Device { packs_aside: true, ..self }
    }

    /// The same device, whose packed weights share no memory with those packed before: dropping all of them
    /// gives all of it back.
    pub fn with_own_memory(&self) -> Device {
        Device { memory: Arc::default(), ..self.clone() }
    }

    /// The same device, keeping keys and values of models built for it from now on in `format`.
    pub fn with_kv_format(self, format: KvFormat) -> Device {
        Device { kv_format: format, ..self }
    }

    pub fn kv_format(&self) -> KvFormat {
        self.kv_format
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// For the thread that runs ops: keeps it off the CPUs of those that share them.
    pub fn leave_cpus_to_workers(&self) {
        self.pool.leave_cpus_to_workers();
    }

    /// Takes that back, for a thread that such a one started.
    pub fn use_all_cpus(&self) {
        self.pool.use_all_cpus();
    }

    /// Threads that should call [`Device::pack`] at the same time.
    pub fn packing_threads(&self) -> usize {
        if self.packs_aside { 1 } else { self.threads() }
    }

    /// Packs a weight matrix for this device's [`Device::linear`]; quantised ones read their inputs with
    /// `precision`. Runs on the calling thread: whoever has many calls it from several.
    pub fn pack(
        &self,
        weight: WeightView<'_>,
        bias: Option<Vector>,
        precision: Precision,
    ) -> Result<Linear, KernelError> {
        if let Some(bias) = &bias {
            assert_eq!(bias.len(), weight.rows, "one bias an output");
        }
        if self.f32_weights {
            let bytes: Vec<u8> = weight.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect();
            let weight = WeightView { format: Format::F32, bytes: &bytes, ..weight };
            return Linear::pack(weight, bias, precision, &self.memory, self.isa);
        }
        Linear::pack(weight, bias, precision, &self.memory, self.isa)
    }

    /// What [`Device::pack`] would give, from bytes that it gave before for this very weight: codes and
    /// scales, as [`Linear::packed`] has them. `None` when they cannot be that, by their lengths or places.
    /// The weight's own bytes are not read.
    ///
    /// # Panics
    /// As [`Device::pack`], and on a device in f32, which has no [`Device::packed_layout`].
    pub fn linear_from_packed(
        &self,
        weight: WeightView<'_>,
        packed: [MappedBytes; 2],
        bias: Option<Vector>,
        precision: Precision,
    ) -> Option<Linear> {
        assert!(!self.f32_weights, "weights in f32 are not kept");
        if let Some(bias) = &bias {
            assert_eq!(bias.len(), weight.rows, "one bias an output");
        }
        Linear::from_packed(weight, packed.map(MappedBytes::share), bias, precision)
    }

    /// A number for how weights are packed here, the same wherever packed bytes are; `None` where they are
    /// not worth keeping.
    pub fn packed_layout(&self) -> Option<u32> {
        (!self.f32_weights).then_some(matmul::PACKED_LAYOUT_VERSION)
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

    /// x = (x - mean) / √(variance + eps) · weight + bias, row by row.
    pub fn layer_norm(&self, x: &mut Tensor, weight: &Vector, bias: &Vector, eps: f32) {
        assert_eq!((weight.len(), bias.len()), (x.columns(), x.columns()));
        self.over_rows(x, &|_, row| norm::layer_norm(self.isa, row, weight.values(), bias.values(), eps));
    }

    /// Several layers that read the same input: each out = x Wᵀ + b. The input is made and quantised once.
    pub fn linear<'a>(&self, x: impl Into<Input<'a>>, layers: &mut [(&Linear, &mut Tensor)]) {
        matmul::linear(self.isa, &self.pool, x.into(), layers);
    }

    /// Turns each head of each row by the row's angles (see [`crate::RopeTable::angles`]). Values past
    /// the turned pairs pass through.
    pub fn rope(&self, x: &mut Tensor, head_dim: usize, style: RopeStyle, angles: &Tensor) {
        assert_eq!(x.rows(), angles.rows());
        assert!(angles.columns() <= head_dim && x.columns().is_multiple_of(head_dim));
        let pairs = angles.columns() / 2;
        self.over_rows(x, &|index, row| {
            let (cosines, sines) = angles.row(index).split_at(pairs);
            rope::rotate(self.isa, row, head_dim, style, cosines, sines);
        });
    }

    /// Stores a step's keys and values (`rows` x `kv_heads * head_dim`) in their sequences' pages; keys are
    /// turned on the way.
    pub fn kv_write(
        &self,
        kv: &mut KvCache,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        turn: Option<&HeadTurn<'_>>,
        sequences: &[PagedRows],
    ) {
        kv.write_rows(self.isa, &self.pool, layer, [k, v], turn, sequences);
    }

    /// Causal attention of a step's queries (`rows` x `heads * head_dim`) over their sequences' pages,
    /// which already hold this step's keys and values. Queries are turned on the way; `out` takes q's shape.
    pub fn attention(
        &self,
        q: &Tensor,
        turn: Option<&HeadTurn<'_>>,
        kv: &KvCache,
        layer: usize,
        sequences: &[PagedRows],
        params: &AttentionParams,
        out: &mut Tensor,
    ) {
        attention::paged(self.isa, &self.pool, q, turn, kv, layer, sequences, params, out);
    }

    /// Attention of encoders: each span's queries, rows of q, see all of its keys, rows of k and v. `out`
    /// takes q's shape.
    pub fn attention_bidirectional(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &[AttentionSpan],
        params: &AttentionParams,
        out: &mut Tensor,
    ) {
        attention::bidirectional(self.isa, &self.pool, [q, k, v], spans, params, out);
    }

    /// x += y
    pub fn add(&self, x: &mut Tensor, y: &Tensor) {
        assert_eq!((x.rows(), x.columns()), (y.rows(), y.columns()));
        self.over_rows(x, &|index, row| norm::add(self.isa, row, y.row(index)));
    }

    /// out[i] = x[rows[i]]
    pub fn gather_rows(&self, x: &Tensor, rows: &[u32], out: &mut Tensor) {
        out.reshape(rows.len(), x.columns());
        for (i, &row) in rows.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(row as usize));
        }
    }

    /// Passes over a row of logits, for any thread.
    pub fn softmax(&self) -> Softmax {
        Softmax { isa: self.isa }
    }

    /// Calls `work` with every item, on all threads: see [`WorkerPool::for_each_mut`].
    pub fn for_each_mut<T: Send, S: Send>(
        &self,
        items: &mut [T],
        states: &mut [S],
        work: impl Fn(&mut T, &mut S) + Sync,
    ) {
        self.pool.for_each_mut(items, states, work);
    }

    /// Splits `items` evenly over all threads.
    pub(crate) fn on_all_threads(&self, items: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        self.pool.split(items, 1, work);
    }

    /// Calls `work(index, row)` for every row, on all threads when there is enough of it.
    fn over_rows(&self, x: &mut Tensor, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let (rows, columns) = (x.rows(), x.columns());
        if rows * columns < PARALLEL_VALUES {
            return (0..rows).for_each(|row| work(row, x.row_mut(row)));
        }
        let values = SendPtr(x.values_mut().as_mut_ptr());
        self.pool.split(rows, 1, &|range| {
            for row in range {
                // SAFETY: each row is one thread's alone and lies within the tensor.
                let row_values =
                    unsafe { std::slice::from_raw_parts_mut(values.get().add(row * columns), columns) };
                work(row, row_values);
            }
        });
    }
}

/// Element-wise work below this many values costs less than handing it out.
const PARALLEL_VALUES: usize = 16_384;
