//! A network's tensors by their GGUF names, shapes checked, packed for a device as they are taken, from
//! several threads if need be.
//!
//! Names are given without `.weight`; a `.bias` beside a matrix is taken along where the file has one.

use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::{Device, KernelError, Linear, Precision, Table, Vector, WeightView};

use crate::EngineError;
use crate::files::{ModelFiles, WeightTensor, bad_file};
use crate::models::config::Hyperparameters;
use crate::models::names::Names;
use crate::packed::PackedModel;

/// See [`Weights::query_key_value`].
const QKV: Precision = Precision::Int15;

/// An opened model's tensors.
pub struct Weights<'a> {
    files: &'a ModelFiles,
    device: &'a Device,
    /// What the file calls tensors; `None` for GGUF, whose names are ours.
    names: Option<(&'static Names, &'static str)>,
    packed: Option<&'a PackedModel>,
    progress: &'a (dyn Fn(f32) + Sync),
    taken_bytes: AtomicUsize,
    all_bytes: usize,
}

impl<'a> Weights<'a> {
    /// `names` are those of the architecture's Hugging Face checkpoints; a GGUF file needs none. What
    /// `packed` has need not be packed.
    pub fn new(
        files: &'a ModelFiles,
        names: &'static Names,
        device: &'a Device,
        packed: Option<&'a PackedModel>,
        progress: &'a (dyn Fn(f32) + Sync),
    ) -> Weights<'a> {
        let names = match files {
            ModelFiles::Gguf(_) => None,
            ModelFiles::Folder(_) => Some((names, root_of(files, names))),
        };
        let all_bytes = files.entries().map(|entry| entry.range.len()).sum();
        Weights { files, device, names, packed, progress, taken_bytes: AtomicUsize::new(0), all_bytes }
    }

    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// Whether tensors are as GGUF converters leave them: llama's q and k permuted for interleaved
    /// rotation, gemma's norm gains already one larger.
    pub fn is_gguf(&self) -> bool {
        self.names.is_none()
    }

    /// Whether the file has matrix or vector `name`.
    pub fn has(&self, name: &str) -> Result<bool, EngineError> {
        Ok(self.find(&format!("{name}.weight"))?.is_some())
    }

    /// Whether matrix `name` has a bias.
    pub fn has_bias(&self, name: &str) -> Result<bool, EngineError> {
        Ok(self.find(&format!("{name}.bias"))?.is_some())
    }

    /// Matrix `name`, `outputs` x `inputs`, packed, with its bias if there is one.
    pub fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, EngineError> {
        self.linear_rows(name, outputs, 0, outputs, inputs)
    }

    /// Rows `start..start + outputs` of matrix `name`, which has `rows` (several layers stored as one).
    pub fn linear_rows(
        &self,
        name: &str,
        rows: usize,
        start: usize,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear, EngineError> {
        self.packed_rows(name, rows, start, outputs, inputs, Precision::Int8)
    }

    fn packed_rows(
        &self,
        name: &str,
        rows: usize,
        start: usize,
        outputs: usize,
        inputs: usize,
        precision: Precision,
    ) -> Result<Linear, EngineError> {
        let tensor = self.shaped(&format!("{name}.weight"), &[rows, inputs])?;
        let bias = self.bias(name, rows)?.map(|bias| Vector::new(bias[start..][..outputs].to_vec()));
        let view = self.view(&tensor)?.slice_rows(start, outputs);
        let linear = match self.packed {
            Some(packed) => {
                let id = format!("{} {start}+{outputs}x{inputs} {}", tensor.name, view.format.name());
                let found = self.find_packed(packed, &id, view, bias.as_ref(), precision);
                let was_found = found.is_some();
                let linear = found.map_or_else(|| self.pack(&tensor, view, bias, precision), Ok)?;
                packed.note(id, &linear, was_found);
                linear
            }
            None => self.pack(&tensor, view, bias, precision)?,
        };
        self.advance(tensor.bytes.len() / rows * outputs);
        Ok(linear)
    }

    fn find_packed(
        &self,
        packed: &PackedModel,
        id: &str,
        view: WeightView<'_>,
        bias: Option<&Vector>,
        precision: Precision,
    ) -> Option<Linear> {
        let linear = self.device.linear_from_packed(view, packed.find(id)?, bias.cloned(), precision);
        if linear.is_none() {
            packed.refuse(id);
        }
        linear
    }

    fn pack(
        &self,
        tensor: &WeightTensor,
        view: WeightView<'_>,
        bias: Option<Vector>,
        precision: Precision,
    ) -> Result<Linear, EngineError> {
        let linear = self.device.pack(view, bias, precision);
        // The packed copy serves from now on.
        tensor.bytes.release();
        linear.map_err(|error| self.bad_tensor(tensor, &error))
    }

    /// The projections of layer `layer` to queries, keys and values, stored apart or as one matrix.
    ///
    /// They read the normed residual stream, whose few large channels leave int8 too little for the rest:
    /// of all matrices these lose most by it, and they are small, so they alone read 15 bits.
    pub fn query_key_value(&self, h: &Hyperparameters, layer: usize) -> Result<[Linear; 3], EngineError> {
        let (queries, keys) = (h.heads * h.head_dim, h.kv_heads * h.head_dim);
        let fused = format!("blk.{layer}.attn_qkv");
        if self.has(&fused)? {
            let part =
                |start, outputs| self.packed_rows(&fused, queries + 2 * keys, start, outputs, h.hidden, QKV);
            return Ok([part(0, queries)?, part(queries, keys)?, part(queries + keys, keys)?]);
        }
        let one = |name: &str, outputs| {
            self.packed_rows(&format!("blk.{layer}.{name}"), outputs, 0, outputs, h.hidden, QKV)
        };
        Ok([one("attn_q", queries)?, one("attn_k", keys)?, one("attn_v", keys)?])
    }

    fn bias(&self, name: &str, rows: usize) -> Result<Option<Vec<f32>>, EngineError> {
        let name = format!("{name}.bias");
        if self.find(&name)?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.shaped(&name, &[rows])?.to_f32()))
    }

    /// Gains or biases: `name` is complete (`blk.0.attn_norm.weight`). `offset` is added to each value.
    pub fn vector(&self, name: &str, length: usize, offset: f32) -> Result<Vector, EngineError> {
        let mut values = self.shaped(name, &[length])?.to_f32();
        values.iter_mut().for_each(|value| *value += offset);
        Ok(Vector::new(values))
    }

    /// Embedding table `name` of rows of `columns` values, read from the map as rows are asked for.
    /// `rows` is checked where it is known.
    pub fn table(&self, name: &str, rows: Option<usize>, columns: usize) -> Result<Table, EngineError> {
        let name = format!("{name}.weight");
        let tensor = match rows {
            Some(rows) => self.shaped(&name, &[rows, columns])?,
            None => {
                let tensor = self.tensor(&name)?;
                let rows = tensor.shape.first().copied().unwrap_or(0);
                self.check_shape(&name, &tensor, &[rows, columns])?;
                tensor
            }
        };
        self.advance(tensor.bytes.len());
        let (rows, format) = (tensor.rows(), tensor.format);
        Ok(Table::new(format, rows, columns, tensor.bytes)?)
    }

    /// An error about this file.
    pub fn bad(&self, reason: impl Into<String>) -> EngineError {
        bad_file(self.files.path(), reason)
    }

    fn shaped(&self, name: &str, shape: &[usize]) -> Result<WeightTensor, EngineError> {
        let tensor = self.tensor(name)?;
        self.check_shape(name, &tensor, shape)?;
        Ok(tensor)
    }

    fn check_shape(&self, name: &str, tensor: &WeightTensor, shape: &[usize]) -> Result<(), EngineError> {
        if tensor.shape == shape && !shape.contains(&0) {
            return Ok(());
        }
        let known_as = if tensor.name == name { String::new() } else { format!(" (`{}`)", tensor.name) };
        Err(self.bad(format!(
            "tensor `{name}`{known_as} has shape {:?}, {shape:?} is expected from the metadata",
            tensor.shape
        )))
    }

    fn tensor(&self, name: &str) -> Result<WeightTensor, EngineError> {
        self.find(name)?.ok_or_else(|| match self.candidates(name).first() {
            Some(other) => self.bad(format!("tensor `{other}` is missing (`{name}` in GGUF files)")),
            None => self.bad(format!("tensor `{name}` is missing")),
        })
    }

    fn find(&self, name: &str) -> Result<Option<WeightTensor>, EngineError> {
        if self.names.is_none() {
            return self.files.tensor(name);
        }
        for candidate in self.candidates(name) {
            if let Some(tensor) = self.files.tensor(&candidate)? {
                return Ok(Some(tensor));
            }
        }
        Ok(None)
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        self.names.map_or_else(Vec::new, |(names, root)| names.candidates(root, name))
    }

    fn view<'t>(&self, tensor: &'t WeightTensor) -> Result<WeightView<'t>, EngineError> {
        tensor.view().map_err(|error| self.bad_tensor(tensor, &error))
    }

    fn bad_tensor(&self, tensor: &WeightTensor, error: &KernelError) -> EngineError {
        self.bad(format!("tensor `{}`: {error}", tensor.name))
    }

    fn advance(&self, bytes: usize) {
        let taken_bytes = self.taken_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // A tied output projection takes the embedding twice, hence the cap.
        (self.progress)((taken_bytes as f32 / self.all_bytes.max(1) as f32).min(1.0));
    }
}

/// The root under which this file has its embedding.
fn root_of(files: &ModelFiles, names: &'static Names) -> &'static str {
    let present = |root: &&&'static str| {
        let candidates = names.candidates(root, "token_embd.weight");
        files.tensor_names().any(|name| candidates.iter().any(|candidate| candidate == name))
    };
    names.roots.iter().find(present).copied().unwrap_or("")
}
