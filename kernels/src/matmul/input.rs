//! Where a product's inputs come from: rows of a tensor, or what is made of them on the way.
//!
//! A made row is never stored: it is made in a core's nearest cache and quantised from there.

use std::cell::RefCell;
use std::ops::Range;

use super::SendPtr;
use crate::Isa;
use crate::ops::{Activation, activation, norm};
use crate::pool::WorkerPool;
use crate::tensor::{Tensor, Vector};

/// What [`crate::Device::linear`] multiplies.
pub enum Input<'a> {
    /// x
    Rows(&'a Tensor),
    /// x += addend, then x / √(mean(x²) + eps) · gain
    Normed { x: &'a mut Tensor, addend: Option<Addend<'a>>, gain: &'a Vector, eps: f32 },
    /// x = (x + addend - mean) / √(variance + eps) · gain + bias
    LayerNormed { x: &'a mut Tensor, addend: &'a Tensor, gain: &'a Vector, bias: &'a Vector, eps: f32 },
    /// activation(x)
    Active { activation: Activation, x: &'a Tensor },
    /// activation(gate) · up
    Gated { activation: Activation, gate: &'a Tensor, up: &'a Tensor },
}

/// What is added to the residual stream.
pub struct Addend<'a> {
    pub values: &'a Tensor,
    /// Gain of an RMS norm over the values, before they are added.
    pub gain: Option<&'a Vector>,
}

impl<'a> From<&'a Tensor> for Input<'a> {
    fn from(x: &'a Tensor) -> Input<'a> {
        Input::Rows(x)
    }
}

impl<'a> From<&'a mut Tensor> for Input<'a> {
    fn from(x: &'a mut Tensor) -> Input<'a> {
        Input::Rows(x)
    }
}

/// An [`Input`] that threads may share, each for rows of its own.
pub(super) struct Source<'a> {
    rows: usize,
    columns: usize,
    making: Making<'a>,
}

enum Making<'a> {
    Rows(&'a Tensor),
    Normed { x: SendPtr<f32>, addend: Option<Addend<'a>>, gain: &'a [f32], eps: f32 },
    LayerNormed { x: SendPtr<f32>, addend: &'a Tensor, gain: &'a [f32], bias: &'a [f32], eps: f32 },
    Active { activation: Activation, x: &'a Tensor },
    Gated { activation: Activation, gate: &'a Tensor, up: &'a Tensor },
}

thread_local! {
    /// The row at hand, and one that is added to it.
    static ROOM: RefCell<[Vec<f32>; 2]> = RefCell::default();
}

/// Rows with fewer values in all are made by the caller: sharing them costs more.
const PARALLEL_VALUES: usize = 8192;

impl<'a> Source<'a> {
    /// # Panics
    /// When tensors that belong together have different shapes.
    pub fn new(input: Input<'a>) -> Source<'a> {
        match input {
            Input::Rows(x) => Source { rows: x.rows(), columns: x.columns(), making: Making::Rows(x) },
            Input::Normed { x, addend, gain, eps } => {
                let (rows, columns) = (x.rows(), x.columns());
                assert_eq!(gain.len(), columns, "a gain for each column");
                if let Some(Addend { values, gain }) = &addend {
                    assert_eq!((values.rows(), values.columns()), (rows, columns));
                    assert!(gain.is_none_or(|gain| gain.len() == columns), "a gain for each column");
                }
                let x = SendPtr(x.values_mut().as_mut_ptr());
                Source { rows, columns, making: Making::Normed { x, addend, gain: gain.values(), eps } }
            }
            Input::LayerNormed { x, addend, gain, bias, eps } => {
                let (rows, columns) = (x.rows(), x.columns());
                assert_eq!((addend.rows(), addend.columns()), (rows, columns));
                assert_eq!((gain.len(), bias.len()), (columns, columns), "a gain and a bias for each column");
                let (gain, bias, x) = (gain.values(), bias.values(), SendPtr(x.values_mut().as_mut_ptr()));
                Source { rows, columns, making: Making::LayerNormed { x, addend, gain, bias, eps } }
            }
            Input::Active { activation, x } => {
                Source { rows: x.rows(), columns: x.columns(), making: Making::Active { activation, x } }
            }
            Input::Gated { activation, gate, up } => {
                let (rows, columns) = (gate.rows(), gate.columns());
                assert_eq!((up.rows(), up.columns()), (rows, columns));
                Source { rows, columns, making: Making::Gated { activation, gate, up } }
            }
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Its rows, where they are stored.
    pub fn tensor(&self) -> Option<&'a Tensor> {
        match self.making {
            Making::Rows(x) => Some(x),
            _ => None,
        }
    }

    /// Stores all rows in `out`.
    pub fn make(self, isa: Isa, pool: &WorkerPool, out: &mut Tensor) {
        let columns = self.columns;
        out.reshape(self.rows, columns);
        let target = SendPtr(out.values_mut().as_mut_ptr());
        let work = |rows: Range<usize>| {
            let store = |row: usize, values: &[f32]| {
                // SAFETY: `out` has the source's shape, and each row is one call's alone.
                let target =
                    unsafe { std::slice::from_raw_parts_mut(target.get().add(row * columns), columns) };
                target.copy_from_slice(values);
            };
            // SAFETY: each row is in the range of one thread, once, and this function takes the source.
            unsafe { self.for_rows(isa, rows, &store) };
        };
        if self.is_small() {
            work(0..self.rows);
        } else {
            pool.split(self.rows, 1, &work);
        }
    }

    /// Whether one thread makes all rows sooner than several that have to wait for each other.
    pub fn is_small(&self) -> bool {
        self.rows * self.columns < PARALLEL_VALUES
    }

    /// Calls `use_row(index, values)` for each of `rows`.
    ///
    /// # Safety
    /// No row is given out twice, to this thread or another: it would be added twice what is to be added.
    pub unsafe fn for_rows(&self, isa: Isa, rows: Range<usize>, use_row: &dyn Fn(usize, &[f32])) {
        ROOM.with_borrow_mut(|room| {
            room.iter_mut().for_each(|values| values.resize(values.len().max(self.columns), 0.0));
            for row in rows {
                // SAFETY: the caller's promise.
                use_row(row, unsafe { self.row(isa, row, room) });
            }
        });
    }

    /// The values of a row: its own, or made in `room`.
    ///
    /// # Safety
    /// No other thread has this row, and it was not made before.
    unsafe fn row<'r>(&'r self, isa: Isa, index: usize, room: &'r mut [Vec<f32>; 2]) -> &'r [f32] {
        assert!(index < self.rows);
        let [made, added] = room.each_mut().map(|values| &mut values[..self.columns]);
        match &self.making {
            Making::Rows(x) => return x.row(index),
            Making::Normed { x, addend, gain, eps } => {
                // SAFETY: x has `rows` rows of `columns` values, which the source borrows mutably; that this
                // one is nobody else's is the caller's promise.
                let x = unsafe {
                    std::slice::from_raw_parts_mut(x.get().add(index * self.columns), self.columns)
                };
                match addend {
                    Some(Addend { values, gain: Some(gain) }) => {
                        norm::rms_norm_into(isa, values.row(index), gain.values(), *eps, added);
                        norm::add(isa, x, added);
                    }
                    Some(Addend { values, gain: None }) => norm::add(isa, x, values.row(index)),
                    None => {}
                }
                norm::rms_norm_into(isa, x, gain, *eps, made);
            }
            Making::LayerNormed { x, addend, gain, bias, eps } => {
                // SAFETY: x has `rows` rows of `columns` values, which the source borrows mutably; that this
                // one is nobody else's is the caller's promise.
                let x = unsafe {
                    std::slice::from_raw_parts_mut(x.get().add(index * self.columns), self.columns)
                };
                norm::add(isa, x, addend.row(index));
                norm::layer_norm(isa, x, gain, bias, *eps);
                return x;
            }
            Making::Active { activation, x } => {
                made.copy_from_slice(x.row(index));
                activation::activate(isa, *activation, made);
            }
            Making::Gated { activation, gate, up } => {
                activation::gated_into(isa, *activation, gate.row(index), up.row(index), made);
            }
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Arena;
    use crate::testing::{Seeded, for_each_isa};
    use crate::{Format, Linear, Precision, WeightView};

    const COLUMNS: usize = 64;
    const EPS: f32 = 1e-5;

    fn random_tensor(rows: usize, random: &mut Seeded) -> Tensor {
        let mut tensor = Tensor::zeros(rows, COLUMNS);
        random.fill(tensor.values_mut(), -2.0, 2.0);
        tensor
    }

    fn random_vector(random: &mut Seeded) -> Vector {
        let mut values = vec![0.0; COLUMNS];
        random.fill(&mut values, -2.0, 2.0);
        Vector::new(values)
    }

    /// Layers of every way to read inputs: 8 and 15 bits, and floats.
    fn layers(random: &mut Seeded, isa: Isa) -> [Linear; 3] {
        let arena = Arena::default();
        let pack = |format: Format, precision, bytes: &[u8]| {
            let weight = WeightView::new(format, 16, COLUMNS, bytes).unwrap();
            Linear::pack(weight, None, precision, &arena, isa).unwrap()
        };
        let mut floats = vec![0.0; 16 * COLUMNS];
        random.fill(&mut floats, -1.0, 1.0);
        let floats: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut blocks: Vec<u8> = (0..16 * COLUMNS / 32 * 34).map(|_| random.next() as u8).collect();
        blocks.chunks_exact_mut(34).for_each(|block| block[..2].copy_from_slice(&[0, 0x2C]));
        [
            pack(Format::Q8_0, Precision::Int8, &blocks),
            pack(Format::Q8_0, Precision::Int15, &blocks),
            pack(Format::F32, Precision::Int8, &floats),
        ]
    }

    /// What the products with `layers` are.
    fn products(isa: Isa, threads: usize, input: Input<'_>, layers: &[&Linear]) -> Vec<Vec<f32>> {
        let mut outs: Vec<Tensor> = layers.iter().map(|_| Tensor::default()).collect();
        let mut pairs: Vec<(&Linear, &mut Tensor)> = layers.iter().copied().zip(&mut outs).collect();
        super::super::linear(isa, &WorkerPool::new(threads), input, &mut pairs);
        outs.iter().map(|out| out.values().to_vec()).collect()
    }

    /// `input` gives each set of layers what they make of the rows that `made` computes, whoever reads it
    /// beside them; `left` is what it leaves in x.
    fn check(
        random: &mut Seeded,
        rows: usize,
        made: impl Fn(Isa, &mut [f32], usize),
        left: impl Fn(Isa, &mut [f32], usize),
        input: impl for<'a> Fn(&'a mut Tensor) -> Input<'a>,
    ) {
        let x = random_tensor(rows, random);
        for_each_isa(|isa| {
            let layers = layers(random, isa);
            let stored = |make: &dyn Fn(Isa, &mut [f32], usize)| {
                let mut tensor = Tensor::zeros(rows, COLUMNS);
                tensor.values_mut().copy_from_slice(x.values());
                (0..rows).for_each(|row| make(isa, tensor.row_mut(row), row));
                tensor
            };
            let (expected, left) = (stored(&made), stored(&left));
            for chosen in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[2, 1, 0]] {
                let chosen: Vec<&Linear> = chosen.iter().map(|&layer| &layers[layer]).collect();
                let mut read = Tensor::zeros(rows, COLUMNS);
                read.values_mut().copy_from_slice(x.values());
                let found = products(isa, 2, input(&mut read), &chosen);
                assert!(found == products(isa, 1, (&expected).into(), &chosen), "{isa}, {rows} rows");
                assert!(read.values() == left.values(), "{isa}, {rows} rows: x");
            }
        });
    }

    #[test]
    fn made_rows_are_those_of_the_ops_one_by_one() {
        for rows in [1, 5, 150] {
            let random = &mut Seeded::new(rows as u64);
            // Inputs of any lifetime borrow them.
            let [gain, bias]: [&Vector; 2] = [(); 2].map(|()| &*Box::leak(Box::new(random_vector(random))));
            let other: &Tensor = Box::leak(Box::new(random_tensor(rows, random)));
            let same = |_: Isa, _: &mut [f32], _: usize| {};
            let norm = |isa: Isa, x: &mut [f32], _: usize| norm::rms_norm(isa, x, gain.values(), EPS);
            check(random, rows, norm, same, |x| Input::Normed { x, addend: None, gain, eps: EPS });

            let add = |isa: Isa, x: &mut [f32], row: usize| norm::add(isa, x, other.row(row));
            let add_and_norm = |isa: Isa, x: &mut [f32], row: usize| {
                add(isa, x, row);
                norm(isa, x, row);
            };
            check(random, rows, add_and_norm, add, |x| Input::Normed {
                x,
                addend: Some(Addend { values: other, gain: None }),
                gain,
                eps: EPS,
            });

            let add_normed = |isa: Isa, x: &mut [f32], row: usize| {
                let mut normed = other.row(row).to_vec();
                norm::rms_norm(isa, &mut normed, bias.values(), EPS);
                norm::add(isa, x, &normed);
            };
            let add_normed_and_norm = |isa: Isa, x: &mut [f32], row: usize| {
                add_normed(isa, x, row);
                norm(isa, x, row);
            };
            check(random, rows, add_normed_and_norm, add_normed, |x| Input::Normed {
                x,
                addend: Some(Addend { values: other, gain: Some(bias) }),
                gain,
                eps: EPS,
            });

            let layer_norm = |isa: Isa, x: &mut [f32], row: usize| {
                add(isa, x, row);
                norm::layer_norm(isa, x, gain.values(), bias.values(), EPS);
            };
            check(random, rows, layer_norm, layer_norm, |x| Input::LayerNormed {
                x,
                addend: other,
                gain,
                bias,
                eps: EPS,
            });

            let activation = Activation::GeluTanh;
            let active = |isa: Isa, x: &mut [f32], _: usize| activation::activate(isa, activation, x);
            check(random, rows, active, same, |x| Input::Active { activation, x });
            let gated = |isa: Isa, x: &mut [f32], row: usize| {
                activation::activate(isa, activation, x);
                x.iter_mut().zip(other.row(row)).for_each(|(x, up)| *x *= up);
            };
            check(random, rows, gated, same, |x| Input::Gated { activation, gate: x, up: other });
        }
    }
}
