//! Activations and weights as the ops see them.

use crate::quant::{Format, dequantize};
use crate::{KernelError, MappedBytes};

/// Activations: `rows` x `columns` of f32, row-major, in device memory.
///
/// Keeps its allocation when it shrinks or regrows, so a step loop that reuses tensors allocates only
/// until it has seen its largest batch.
#[derive(Default)]
pub struct Tensor {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Tensor {
    /// Zeros.
    pub fn zeros(rows: usize, columns: usize) -> Tensor {
        Tensor { values: vec![0.0; rows * columns], rows, columns }
    }

    /// Takes on a shape; contents are unspecified afterwards.
    pub fn reshape(&mut self, rows: usize, columns: usize) {
        self.values.resize(rows * columns, 0.0);
        self.rows = rows;
        self.columns = columns;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// One row, readable by the host.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    /// One row, writable by the host.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..][..self.columns]
    }

    /// All rows, one after another.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All rows, one after another, writable.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

/// A small weight kept as f32: a norm's gain, a bias.
#[derive(Clone)]
pub struct Vector {
    values: Vec<f32>,
}

impl Vector {
    pub fn new(values: Vec<f32>) -> Vector {
        Vector { values }
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// A weight matrix as a file holds it: `rows` outputs of `columns` inputs, row-major, in `format`.
#[derive(Clone, Copy)]
pub struct WeightView<'a> {
    pub format: Format,
    pub rows: usize,
    pub columns: usize,
    pub bytes: &'a [u8],
}

impl<'a> WeightView<'a> {
    /// Checks that the byte count is exactly what shape and format need.
    pub fn new(format: Format, rows: usize, columns: usize, bytes: &'a [u8]) -> Result<Self, KernelError> {
        check_size(format, rows, columns, bytes.len())?;
        Ok(WeightView { format, rows, columns, bytes })
    }

    /// Rows `start..start + rows` (phi3 stores q, k and v in one matrix).
    ///
    /// # Panics
    /// When the range leaves the matrix.
    pub fn slice_rows(&self, start: usize, rows: usize) -> WeightView<'a> {
        assert!(start + rows <= self.rows, "rows {start}..{} of {}", start + rows, self.rows);
        let row_bytes = self.bytes.len() / self.rows.max(1);
        WeightView { rows, bytes: &self.bytes[start * row_bytes..][..rows * row_bytes], ..*self }
    }

    /// All values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        dequantize(self.format, self.bytes, &mut values);
        values
    }
}

pub(crate) fn check_size(
    format: Format,
    rows: usize,
    columns: usize,
    found: usize,
) -> Result<(), KernelError> {
    let partial = KernelError::PartialBlock { columns, block: format.block().0, format: format.name() };
    let row_bytes = format.bytes(columns).ok_or(partial)?;
    match row_bytes.checked_mul(rows) {
        Some(needed) if needed == found => Ok(()),
        needed => Err(KernelError::SizeMismatch {
            rows,
            columns,
            format: format.name(),
            needed: needed.unwrap_or(usize::MAX),
            found,
        }),
    }
}

/// An embedding table: rows are dequantised from the mapped file as they are asked for, so only the
/// pages of tokens in use are ever resident.
pub struct Table {
    pub(crate) bytes: MappedBytes,
    pub(crate) format: Format,
    rows: usize,
    columns: usize,
}

impl Table {
    /// `rows` entries of `columns` values.
    pub fn new(
        format: Format,
        rows: usize,
        columns: usize,
        bytes: MappedBytes,
    ) -> Result<Table, KernelError> {
        check_size(format, rows, columns, bytes.len())?;
        Ok(Table { bytes, format, rows, columns })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Entry `row` into `out`.
    ///
    /// # Panics
    /// When `row` is out of range or `out` has another length than a row.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.columns);
        let row_bytes = self.bytes.len() / self.rows;
        dequantize(self.format, &self.bytes[row * row_bytes..][..row_bytes], out);
    }
}
