//! Ops of rows, each on every instruction set, at many lengths, places in memory and seeds: the bits of the
//! specification, near the formula in f64, and nothing written beside the row. Attention has a suite of its
//! own.

use super::activation::{activate, gated_into, tests::exact};
use super::norm::{add, layer_norm, rms_norm, rms_norm_into};
use super::rope::rotate;
use super::*;
use crate::Isa;
use crate::rope::RopeStyle;
use crate::testing::{Seeded, for_each_isa};

const LENGTHS: [usize; 6] = [0, 1, 15, 16, 17, 53];
/// Values from where an allocation begins.
const OFFSETS: [usize; 4] = [0, 1, 2, 3];
const SEEDS: u64 = 3;
const EPS: f32 = 1e-5;
/// Around each row: no value that an op makes.
const GUARD: f32 = 1234.5;

/// Replaces x, given y and z of its length.
type Call = Box<dyn Fn(Isa, &mut [f32], &[f32], &[f32])>;
/// The same in f64.
type Formula = Box<dyn Fn(&[f64], &[f64], &[f64]) -> Vec<Exact>>;

/// A result, and the sum of the magnitudes of its terms: what its rounding is measured by.
struct Exact {
    value: f64,
    magnitude: f64,
}

impl Exact {
    fn product(value: f64) -> Exact {
        Exact { value, magnitude: value.abs() }
    }
}

struct Op {
    name: String,
    call: Call,
    formula: Formula,
    /// In units of `f32::EPSILON` of the magnitude.
    error_max: f64,
}

fn op(
    name: impl Into<String>,
    error_max: f64,
    call: impl Fn(Isa, &mut [f32], &[f32], &[f32]) + 'static,
    formula: impl Fn(&[f64], &[f64], &[f64]) -> Vec<Exact> + 'static,
) -> Op {
    Op { name: name.into(), call: Box::new(call), formula: Box::new(formula), error_max }
}

fn ops() -> Vec<Op> {
    let mut ops = vec![
        op("add", 0.5, |isa, x, y, _| add(isa, x, y), |x, y, _| each(x, |i| Exact::product(x[i] + y[i]))),
        op("rms_norm", 3.0, |isa, x, y, _| rms_norm(isa, x, y, EPS), |x, y, _| rms_normed(x, y)),
        op("rms_norm_into", 3.0, |isa, x, y, z| rms_norm_into(isa, y, z, EPS, x), |_, y, z| rms_normed(y, z)),
        op("layer_norm", 4.0, |isa, x, y, z| layer_norm(isa, x, y, z, EPS), layer_normed),
    ];
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
        ops.push(op(
            format!("{activation:?}"),
            4.0,
            move |isa, x, _, _| activate(isa, activation, x),
            move |x, _, _| each(x, |i| activated(activation, x[i], 1.0)),
        ));
        ops.push(op(
            format!("{activation:?}, gated"),
            4.0,
            move |isa, x, y, z| gated_into(isa, activation, y, z, x),
            move |_, y, z| each(y, |i| activated(activation, y[i], z[i])),
        ));
    }
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        // All of one head, and half of each of three.
        for (heads, turned) in [(1, 2), (3, 4)] {
            let shape = move |length: usize| {
                let head_dim = (length / heads).max(1);
                (head_dim, head_dim / turned)
            };
            let call = move |isa, x: &mut [f32], y: &[f32], z: &[f32]| {
                let (head_dim, pairs) = shape(x.len());
                rotate(isa, x, head_dim, style, &y[..pairs], &z[..pairs]);
            };
            let formula = move |x: &[f64], y: &[f64], z: &[f64]| {
                let (head_dim, pairs) = shape(x.len());
                each(x, |i| rotated(style, x, (head_dim, pairs), i, (y, z)))
            };
            ops.push(op(format!("rotate {style:?}, {heads} heads"), 1.5, call, formula));
        }
    }
    ops
}

fn each(x: &[f64], exact: impl Fn(usize) -> Exact) -> Vec<Exact> {
    (0..x.len()).map(exact).collect()
}

fn rms_normed(x: &[f64], gain: &[f64]) -> Vec<Exact> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    each(x, |i| Exact::product(x[i] / (mean + f64::from(EPS)).sqrt() * gain[i]))
}

fn layer_normed(x: &[f64], gain: &[f64], bias: &[f64]) -> Vec<Exact> {
    let count = x.len() as f64;
    let mean = x.iter().sum::<f64>() / count;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
    each(x, |i| Exact {
        value: (x[i] - mean) * factor * gain[i] + bias[i],
        magnitude: (x[i].abs() + mean.abs()) * factor * gain[i].abs() + bias[i].abs(),
    })
}

/// GELU is x times a probability that is known to so much of 1.
fn activated(activation: Activation, x: f64, up: f64) -> Exact {
    let value = f64::from(exact(activation, x as f32)) * up;
    match activation {
        Activation::Silu => Exact::product(value),
        Activation::GeluTanh | Activation::GeluErf => Exact { value, magnitude: (x * up).abs() },
    }
}

/// Value `i` of a row: (x, y) of a pair becomes (x cos - y sin, x sin + y cos).
fn rotated(
    style: RopeStyle,
    row: &[f64],
    (head_dim, pairs): (usize, usize),
    i: usize,
    (cosines, sines): (&[f64], &[f64]),
) -> Exact {
    let (head, d) = (i / head_dim * head_dim, i % head_dim);
    if d >= 2 * pairs || head + head_dim > row.len() {
        return Exact::product(row[i]);
    }
    let (pair, is_second, other) = match style {
        RopeStyle::Half => (d % pairs, d >= pairs, (d + pairs) % (2 * pairs)),
        RopeStyle::Interleaved => (d / 2, d % 2 == 1, d ^ 1),
    };
    let sine = if is_second { sines[pair] } else { -sines[pair] };
    let terms = [row[i] * cosines[pair], row[head + other] * sine];
    Exact { value: terms[0] + terms[1], magnitude: terms[0].abs() + terms[1].abs() }
}

/// `values` at `offset` of an allocation, in guards.
fn placed(values: &[f32], offset: usize) -> Vec<f32> {
    let mut room = vec![GUARD; offset + values.len() + 20];
    room[offset..][..values.len()].copy_from_slice(values);
    room
}

#[test]
fn ops_of_rows_give_the_bits_of_the_specification_at_every_length_and_place() {
    for Op { name, call, formula, error_max } in ops() {
        for (length, seed) in
            LENGTHS.into_iter().flat_map(|length| (0..SEEDS).map(move |seed| (length, seed)))
        {
            let mut random = Seeded::new(seed * 100 + length as u64);
            let rows: [Vec<f32>; 3] = std::array::from_fn(|_| {
                let mut values = vec![0.0; length];
                random.fill(&mut values, -6.0, 6.0);
                values
            });
            let run = |isa, offset: usize| {
                let places = [offset, (offset + 1) % 4, (offset + 3) % 4];
                let [mut x, y, z] = std::array::from_fn(|i| placed(&rows[i], places[i]));
                let [y, z] = [(&y, 1), (&z, 2)].map(|(room, i)| &room[places[i]..][..length]);
                call(isa, &mut x[offset..][..length], y, z);
                let around = x[..offset].iter().chain(&x[offset + length..]);
                assert!(
                    around.copied().all(|value| value == GUARD),
                    "{name} of {length} on {isa}: around it"
                );
                x[offset..][..length].to_vec()
            };
            let expected = run(Isa::Scalar, 0);
            let [x, y, z] =
                rows.each_ref().map(|row| row.iter().map(|&value| f64::from(value)).collect::<Vec<_>>());
            for (found, exact) in expected.iter().zip(formula(&x, &y, &z)) {
                let error = (f64::from(*found) - exact.value).abs();
                let unit = f64::from(f32::EPSILON) * exact.magnitude;
                assert!(
                    error <= error_max * unit,
                    "{name} of {length}, seed {seed}: {:.2} units",
                    error / unit
                );
            }
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            for_each_isa(|isa| {
                for offset in OFFSETS {
                    let found = run(isa, offset);
                    assert_eq!(
                        bits(&found),
                        bits(&expected),
                        "{name} of {length} at {offset} on {isa}, {seed}"
                    );
                }
            });
        }
    }
}
