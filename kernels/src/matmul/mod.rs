//! y = x Wᵀ + b, the op that takes nearly all of the time.
//!
//! Weights are packed once at load into panels of 16 rows ([`layout`]); inputs are quantised to int8
//! once for all matrices that read them ([`activations`]) unless the weights are plain floats
//! ([`dense`]). A kernel takes one panel and up to a dozen rows of inputs and never expands a matrix to
//! floats. With many rows, codes of a few panels are first expanded to a byte each: on AVX2 and AVX-VNNI, which
//! have neither the registers nor the instructions to spare in the inner loop, and on AVX-512 where they are
//! more than nibbles. Which kernel takes what from how many rows on stands in [`kernel`]. [`scalar`] is the
//! specification; the other instruction sets give the same bits.
//!
//! Against a product in f32 with the same weights the error is that of rounding the inputs, in every
//! format: a squared error of 1.5e-5 of the products' power with int8 inputs that are spread evenly, and
//! 2.4e-10 with 15 bits (`tests::the_error_is_that_of_rounding_the_inputs`).
//!
//! Called by [`crate::Device::linear`].

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod dense;
mod input;
mod kernel;
mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod rounding;
mod scalar;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;

pub use activations::Precision;
pub(crate) use activations::SendPtr;
use activations::{Quantized, Room};
use dense::DenseKind;
use input::Source;
pub use input::{Addend, Input};
use kernel::{Expander, PanelArgs};
pub use layout::VERSION as PACKED_LAYOUT_VERSION;
use layout::{BLOCK, EXPANDED_BLOCK, PANEL_ROWS, Packing};
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{sdot, smmla};

use crate::memory::{Arena, Piece, SharedBytes};
use crate::pool::{WorkerPool, share};
use crate::quant::Format;
use crate::tensor::{Tensor, Vector, WeightView};
use crate::{Isa, KernelError};

/// Panels that share one pass over a group of inputs: together they fit beside it in L2.
const PANELS_TOGETHER: usize = 4;
/// How far ahead weights are asked for: more than a core reads within the latency of memory.
#[cfg(target_arch = "x86_64")]
pub(crate) const PREFETCH_BYTES: usize = 4096;
/// Expanded codes of panels that share a pass fit beside the inputs in the smallest L2 (Zen 3: 512 KiB).
const EXPANDED_BYTES: usize = 256 << 10;
/// Most columns any kernel takes.
const WIDTH_MAX: usize = 12;

/// Most layers that read one input together (q, k and v).
const LAYERS_MAX: usize = 4;

/// A dense layer with its weights packed.
pub struct Linear {
    kind: Kind,
    rows: usize,
    columns: usize,
    /// Of one panel.
    code_bytes: usize,
    scale_bytes: usize,
    codes: SharedBytes,
    scales: SharedBytes,
    bias: Option<Vector>,
    precision: Precision,
}

#[derive(Clone, Copy)]
enum Kind {
    Quantized(Packing),
    Dense(DenseKind),
}

impl Linear {
    /// Packs `weight`, on the calling thread.
    pub(crate) fn pack(
        weight: WeightView<'_>,
        bias: Option<Vector>,
        precision: Precision,
        memory: &Arena,
        isa: Isa,
    ) -> Result<Linear, KernelError> {
        let WeightView { format, rows, columns, bytes } = weight;
        crate::tensor::check_size(format, rows, columns, bytes.len())?;
        let size = PanelSize::of(kind_of(format), columns);
        let panels = rows.div_ceil(PANEL_ROWS);
        let mut codes = memory.zeroed(panels * size.codes)?;
        let mut scales = memory.zeroed(panels * size.scales)?;
        fill(weight, size, &mut codes, &mut scales, isa);
        Ok(Linear::of_packed(weight, [codes.freeze(), scales.freeze()], bias, precision))
    }

    /// A layer from what packing a weight of this shape and format gave before, unless these bytes cannot
    /// be that.
    pub(crate) fn from_packed(
        weight: WeightView<'_>,
        packed: [SharedBytes; 2],
        bias: Option<Vector>,
        precision: Precision,
    ) -> Option<Linear> {
        let size = PanelSize::of(kind_of(weight.format), weight.columns);
        let panels = weight.rows.div_ceil(PANEL_ROWS);
        let fits = [panels * size.codes, panels * size.scales] == [packed[0].len(), packed[1].len()];
        (fits && packed.iter().all(SharedBytes::is_aligned))
            .then(|| Linear::of_packed(weight, packed, bias, precision))
    }

    fn of_packed(
        weight: WeightView<'_>,
        [codes, scales]: [SharedBytes; 2],
        bias: Option<Vector>,
        precision: Precision,
    ) -> Linear {
        let WeightView { rows, columns, .. } = weight;
        let kind = kind_of(weight.format);
        let PanelSize { codes: code_bytes, scales: scale_bytes } = PanelSize::of(kind, columns);
        Linear { kind, rows, columns, code_bytes, scale_bytes, codes, scales, bias, precision }
    }

    /// Its packed weights: codes and scales.
    pub fn packed(&self) -> [&SharedBytes; 2] {
        [&self.codes, &self.scales]
    }

    /// Values a row of the result has.
    pub fn outputs(&self) -> usize {
        self.rows
    }

    /// Values a row of the argument has.
    pub fn inputs(&self) -> usize {
        self.columns
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.scales.len()
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    fn panel_codes(&self, panel: usize) -> &[u8] {
        &self.codes[panel * self.code_bytes..][..self.code_bytes]
    }

    fn panel_scales(&self, panel: usize) -> &[u8] {
        &self.scales[panel * self.scale_bytes..][..self.scale_bytes]
    }
}

/// Bytes of a panel's codes and scales.
#[derive(Clone, Copy)]
struct PanelSize {
    codes: usize,
    scales: usize,
}

impl PanelSize {
    fn of(kind: Kind, columns: usize) -> PanelSize {
        let (codes, scales) = match kind {
            Kind::Quantized(packing) => packing.panel_bytes(columns / BLOCK),
            Kind::Dense(kind) => ((columns * PANEL_ROWS * kind.bytes()).next_multiple_of(64), 0),
        };
        PanelSize { codes, scales }
    }
}

fn fill(weight: WeightView<'_>, size: PanelSize, codes: &mut Piece, scales: &mut Piece, isa: Isa) {
    if weight.bytes.is_empty() {
        return;
    }
    let panel_source = weight.bytes.len() / weight.rows * PANEL_ROWS;
    for (panel, source) in weight.bytes.chunks(panel_source).enumerate() {
        let codes = &mut codes[panel * size.codes..][..size.codes];
        let scales = &mut scales[panel * size.scales..][..size.scales];
        match kind_of(weight.format) {
            Kind::Quantized(_) => {
                pack::pack_panel(isa, weight.format, source, weight.columns, codes, scales);
            }
            Kind::Dense(kind) => dense::pack_panel(isa, kind, source, weight.columns, codes),
        }
    }
}

fn kind_of(format: Format) -> Kind {
    match (Packing::of(format), format) {
        (Some(packing), _) => Kind::Quantized(packing),
        (None, Format::F16) => Kind::Dense(DenseKind::F16),
        (None, Format::BF16) => Kind::Dense(DenseKind::BF16),
        (None, _) => Kind::Dense(DenseKind::F32),
    }
}

thread_local! {
    /// Codes of a few panels, expanded; of each thread that computes.
    static EXPANDED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Prepared inputs of a group; of each thread that computes.
    static PREPARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// For quantised inputs of the op at hand, by [`Precision`]; of the thread that calls ops, so kept from
    /// step to step.
    static ROOMS: RefCell<[Room; 2]> = RefCell::default();
    /// Inputs that are read as floats; of the same thread.
    static MADE: RefCell<Tensor> = RefCell::default();
}

/// Each `out = x Wᵀ + b`; all layers read the same `x`, which is made and quantised once.
///
/// # Panics
/// When a layer's inputs are not x's columns.
pub(crate) fn linear(isa: Isa, pool: &WorkerPool, x: Input<'_>, layers: &mut [(&Linear, &mut Tensor)]) {
    let x = Source::new(x);
    for (layer, out) in layers.iter_mut() {
        assert_eq!(x.columns(), layer.columns, "a layer of {} inputs", layer.columns);
        out.reshape(x.rows(), layer.rows);
    }
    if x.rows() == 0 {
        return;
    }
    assert!(layers.len() <= LAYERS_MAX, "{} layers in one call", layers.len());
    // On the stack: a step allocates nothing.
    let mut jobs: [Option<Job<'_>>; LAYERS_MAX] = [const { None }; LAYERS_MAX];
    for (job, (layer, out)) in jobs.iter_mut().zip(layers) {
        *job = Some(Job { layer, out: SendPtr(out.values_mut().as_mut_ptr()) });
    }
    let is_dense = jobs.iter().flatten().any(|job| matches!(job.layer.kind, Kind::Dense(_)));
    if x.tensor().is_some() || !is_dense {
        return multiply_all(isa, pool, x, &jobs);
    }
    MADE.with_borrow_mut(|made| {
        x.make(isa, pool, made);
        multiply_all(isa, pool, Source::new(Input::Rows(made)), &jobs);
    });
}

/// Threads quantise the rows, each its share, meet, and multiply them by their share of the weights.
fn multiply_all(isa: Isa, pool: &WorkerPool, x: Source<'_>, jobs: &[Option<Job<'_>>; LAYERS_MAX]) {
    let (rows, columns, threads) = (x.rows(), x.columns(), pool.threads());
    ROOMS.with_borrow_mut(|rooms| {
        let mut rooms = rooms.iter_mut();
        let fillings = PRECISIONS.map(|precision| {
            let room = rooms.next().expect("a room for each precision");
            let is_read = jobs.iter().flatten().any(|job| job.reads(precision));
            is_read
                .then(|| room.begin(rows, columns, precision, kernel::widths(isa, rows * precision.rows())))
        });
        let quantize = |rows: Range<usize>| {
            let put = |row: usize, values: &[f32]| {
                for filling in fillings.iter().flatten() {
                    // SAFETY: each row is in the range of one thread, and nobody reads before all have met.
                    unsafe { filling.put(isa, row, values) };
                }
            };
            // SAFETY: each row is in the range of one thread, once, and this function takes the source.
            unsafe { x.for_rows(isa, rows, &put) };
        };
        let is_shared = !x.is_small() && fillings.iter().any(Option::is_some);
        if !is_shared {
            quantize(0..rows);
        }
        pool.run_in_phases(&|thread, team| {
            if is_shared {
                quantize(share(rows, 1, thread, threads));
                team.meet();
            }
            // SAFETY: all rows were put: by the caller before this, or by threads that have met.
            let filled = |index: usize| unsafe { fillings[index].as_ref().map(|filling| filling.filled()) };
            let [int8, int15] = [filled(0), filled(1)];
            for_each_share(jobs, thread, threads, |job, panels| match job.layer.kind {
                Kind::Quantized(packing) => {
                    let x = match job.layer.precision {
                        Precision::Int8 => int8,
                        Precision::Int15 => int15,
                    };
                    job.quantized(isa, packing, &x.expect("what is read was quantised"), panels);
                }
                Kind::Dense(kind) => {
                    job.dense(isa, kind, x.tensor().expect("dense layers have a tensor"), panels);
                }
            });
        });
    });
}

/// In the order of [`ROOMS`].
const PRECISIONS: [Precision; 2] = [Precision::Int8, Precision::Int15];

/// One layer of a call, and where its result goes.
struct Job<'a> {
    layer: &'a Linear,
    out: SendPtr<f32>,
}

/// Cuts all panels of all jobs into equal amounts of bytes and calls `work` for the thread's part.
fn for_each_share(
    jobs: &[Option<Job<'_>>],
    thread: usize,
    threads: usize,
    work: impl Fn(&Job<'_>, Range<usize>),
) {
    let cost = |job: &Job<'_>| job.layer.code_bytes + job.layer.scale_bytes;
    let total: usize = jobs.iter().flatten().map(|job| job.layer.panels() * cost(job)).sum();
    let (from, to) = (total * thread / threads, total * (thread + 1) / threads);
    let mut start = 0;
    for job in jobs.iter().flatten() {
        // A panel belongs to the thread in whose share it begins.
        let cut = |at: usize| at.saturating_sub(start).div_ceil(cost(job).max(1)).min(job.layer.panels());
        let range = cut(from)..cut(to);
        if !range.is_empty() {
            work(job, range);
        }
        start += job.layer.panels() * cost(job);
    }
}

impl Job<'_> {
    /// Whether its inputs are quantised so.
    fn reads(&self, precision: Precision) -> bool {
        matches!(self.layer.kind, Kind::Quantized(_)) && self.layer.precision == precision
    }

    fn quantized(&self, isa: Isa, packing: Packing, x: &Quantized<'_>, panels: Range<usize>) {
        match kernel::expander(isa, packing) {
            Some(expander) if x.rows() >= expander.from_rows => EXPANDED.with_borrow_mut(|buffer| {
                self.quantized_expanded(isa, x, panels, &expander, buffer);
            }),
            _ => {
                for first in panels.clone().step_by(PANELS_TOGETHER) {
                    let last = (first + PANELS_TOGETHER).min(panels.end);
                    self.multiply(isa, x, first..last, None);
                }
            }
        }
    }

    fn quantized_expanded(
        &self,
        isa: Isa,
        x: &Quantized<'_>,
        panels: Range<usize>,
        expander: &Expander,
        buffer: &mut Vec<u8>,
    ) {
        let panel_bytes = self.layer.columns / BLOCK * EXPANDED_BLOCK;
        let together = (EXPANDED_BYTES / panel_bytes).clamp(1, PANELS_TOGETHER);
        buffer.resize(buffer.len().max(together * panel_bytes), 0);
        for first in panels.clone().step_by(together) {
            let last = (first + together).min(panels.end);
            for (panel, expanded) in (first..last).zip(buffer.chunks_exact_mut(panel_bytes)) {
                // SAFETY: an `Isa` in use was checked against this machine.
                unsafe { (expander.expand)(self.layer.panel_codes(panel), expanded) };
            }
            self.multiply(isa, x, first..last, Some((buffer, panel_bytes)));
        }
    }

    /// All groups of inputs times a few panels, which stay in the cache from group to group. `expanded`: their
    /// codes, and how many bytes a panel's take.
    fn multiply(&self, isa: Isa, x: &Quantized<'_>, panels: Range<usize>, expanded: Option<(&[u8], usize)>) {
        let Kind::Quantized(packing) = self.layer.kind else { unreachable!("only called for such layers") };
        let blocks = self.layer.columns / BLOCK;
        let (code_bytes, scale_bytes) = packing.panel_bytes(blocks);
        let code_bytes = expanded.map_or(code_bytes, |(_, panel_bytes)| panel_bytes);
        let preparation = kernel::preparation(isa, packing);
        let mut tile = [[0.0; PANEL_ROWS]; WIDTH_MAX];
        PREPARED.with_borrow_mut(|buffer| {
            for &group in x.groups() {
                let (x, headers) = x.group(group);
                let mut args = PanelArgs::of_group(blocks, group.count, x, headers);
                if let Some(preparation) = &preparation {
                    args.prepare(preparation, buffer);
                }
                let kernel = match expanded {
                    Some(_) => kernel::pick_expanded(isa, packing, group.count),
                    None => kernel::pick(isa, packing, group.count),
                };
                let tile = &mut tile[..group.count];
                for panel in panels.clone() {
                    let codes = match expanded {
                        Some((codes, bytes)) => &codes[(panel - panels.start) * bytes..][..bytes],
                        None => self.layer.panel_codes(panel),
                    };
                    args.set_panel(codes, self.layer.panel_scales(panel), (code_bytes, scale_bytes));
                    kernel.call(&args, tile);
                    match self.layer.precision {
                        Precision::Int8 => self.store(panel, group.first, tile),
                        Precision::Int15 => self.store(panel, group.first / 2, add_pairs(tile)),
                    }
                }
            }
        });
    }

    fn dense(&self, isa: Isa, kind: DenseKind, x: &Tensor, panels: Range<usize>) {
        let mut tile = [[0.0; PANEL_ROWS]; WIDTH_MAX];
        let step = PANEL_ROWS * kind.bytes();
        for panel in panels {
            let weights = &self.layer.panel_codes(panel)[..self.layer.columns * step];
            let mut first = 0;
            while first < x.rows() {
                let left = x.rows() - first;
                let count = dense::WIDTHS.iter().copied().find(|&width| width <= left).unwrap_or(1);
                let mut rows: [&[f32]; WIDTH_MAX] = [&[]; WIDTH_MAX];
                for (index, row) in rows[..count].iter_mut().enumerate() {
                    *row = x.row(first + index);
                }
                dense::panel(isa, kind, weights, &rows[..count], &mut tile[..count]);
                self.store(panel, first, &tile[..count]);
                first += count;
            }
        }
    }

    /// Adds the bias and writes `tile[column][row of panel]` to the result's rows.
    fn store(&self, panel: usize, first_row: usize, tile: &[[f32; PANEL_ROWS]]) {
        let start = panel * PANEL_ROWS;
        let count = PANEL_ROWS.min(self.layer.rows - start);
        for (index, values) in tile.iter().enumerate() {
            // SAFETY: `linear` shaped the result to x.rows() by layer.rows; `start + count` is within a
            // row, and no other thread has this panel's columns.
            let out = unsafe {
                let at = (first_row + index) * self.layer.rows + start;
                std::slice::from_raw_parts_mut(self.out.get().add(at), count)
            };
            match (&self.layer.bias, <&mut [f32; PANEL_ROWS]>::try_from(&mut *out)) {
                (Some(bias), _) => {
                    for ((out, value), bias) in out.iter_mut().zip(values).zip(&bias.values()[start..]) {
                        *out = value + bias;
                    }
                }
                (None, Ok(out)) => *out = *values,
                (None, Err(_)) => out.copy_from_slice(&values[..count]),
            }
        }
    }
}

/// Adds the two parts of each row's result; the sums take the first places.
fn add_pairs(tile: &mut [[f32; PANEL_ROWS]]) -> &[[f32; PANEL_ROWS]] {
    let rows = tile.len() / 2;
    for row in 0..rows {
        let (first, second) = (tile[2 * row], tile[2 * row + 1]);
        for ((sum, first), second) in tile[row].iter_mut().zip(first).zip(second) {
            *sum = first + second;
        }
    }
    &tile[..rows]
}
