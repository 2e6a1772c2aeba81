//! Every format on every instruction set: near the product of the dequantised weights, and the same
//! bits as the specification.

use super::*;
use crate::quant::dequantize;
use crate::testing::{Seeded, for_each_isa};

const FORMATS: [Format; 16] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q2_K,
    Format::Q3_K,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
    Format::IQ4_NL,
    Format::IQ4_XS,
    Format::MXFP4,
];

/// Random blocks with sane scales.
fn random_weights(format: Format, rows: usize, columns: usize, random: &mut Seeded) -> Vec<u8> {
    weights_of(format, rows, columns, random, |random| random.next() as u8)
}

/// Blocks of bytes that `byte` gives, with factors of a sane size written over theirs.
fn weights_of(
    format: Format,
    rows: usize,
    columns: usize,
    random: &mut Seeded,
    byte: impl Fn(&mut Seeded) -> u8,
) -> Vec<u8> {
    let (values, block_bytes) = format.block();
    let mut bytes = Vec::new();
    for _ in 0..rows * columns / values {
        let start = bytes.len();
        bytes.extend((0..block_bytes).map(|_| byte(random)));
        let factor = |random: &mut Seeded| half::f16::from_f32(random.uniform(-0.1, 0.1)).to_le_bytes();
        let at: &[usize] = match format {
            Format::F32 => {
                let value = random.uniform(-1.0, 1.0);
                bytes[start..].copy_from_slice(&value.to_le_bytes());
                continue;
            }
            Format::BF16 => {
                let value = half::bf16::from_f32(random.uniform(-1.0, 1.0));
                bytes[start..].copy_from_slice(&value.to_le_bytes());
                continue;
            }
            Format::MXFP4 => {
                bytes[start] = 120 + (random.next() % 8) as u8;
                continue;
            }
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q6_K => &[208],
            Format::Q3_K => &[108],
            Format::Q2_K => &[80, 82],
            _ => &[0],
        };
        for offset in at {
            bytes[start + offset..][..2].copy_from_slice(&factor(random));
        }
    }
    bytes
}

fn product(isa: Isa, threads: usize, weight: WeightView<'_>, x: &Tensor) -> Vec<f32> {
    let pool = WorkerPool::new(threads);
    let layer = Linear::pack(weight, None, Precision::Int8, &Arena::default(), isa).unwrap();
    let mut out = Tensor::default();
    linear(isa, &pool, x.into(), &mut [(&layer, &mut out)]);
    out.values().to_vec()
}

#[test]
fn every_format_is_near_the_float_product_and_equal_on_every_isa() {
    for format in FORMATS {
        let shapes = [(1, 256, 1), (16, 256, 2), (33, 512, 7), (48, 768, 13)];
        let shapes = shapes.into_iter().chain([(33, 512, 16), (20, 256, 40), (70, 512, 35)]);
        // An odd number of blocks, and for plain floats parts of 16 columns and rows that begin anywhere.
        let odd = [(18, 96, 5), (1, 1, 1), (20, 53, 7), (16, 17, 1), (33, 15, 6)];
        let fits = |&(_, columns, _): &(usize, usize, usize)| columns.is_multiple_of(format.block().0);
        for (rows, columns, batch) in shapes.chain(odd.into_iter().filter(fits)) {
            for (seed, threads) in [(0, 1), (1, 2), (2, 3)] {
                check(format, (rows, columns, batch), seed, threads);
            }
        }
    }
}

fn check(format: Format, (rows, columns, batch): (usize, usize, usize), seed: u64, threads: usize) {
    let what = format!("{} {rows}x{columns} batch {batch}, seed {seed}", format.name());
    let mut random = Seeded::new((rows * columns + batch) as u64 + (seed << 32));
    let bytes = random_weights(format, rows, columns, &mut random);
    let weight = WeightView::new(format, rows, columns, &bytes).unwrap();
    let mut x = Tensor::zeros(batch, columns);
    random.fill(x.values_mut(), -2.0, 2.0);

    let mut floats = vec![0.0; rows * columns];
    dequantize(format, &bytes, &mut floats);
    let scalar = product(Isa::Scalar, 1, weight, &x);
    let error = error_power(&scalar, &floats, &x);
    // int8 inputs: a uniform error of 1/127 of each block's maximum, about 1e-5 of its power.
    let bound = if Packing::of(format).is_some() { 1e-4 } else { 1e-11 };
    assert!(error < bound, "{what}: {error:e}");
    for_each_isa(|isa| {
        assert_eq!(product(isa, threads, weight, &x), scalar, "{what} on {isa} with {threads} threads");
    });
}

#[test]
fn no_rows_have_no_products() {
    for format in FORMATS {
        let bytes = random_weights(format, 16, 256, &mut Seeded::new(1));
        let weight = WeightView::new(format, 16, 256, &bytes).unwrap();
        for_each_isa(|isa| {
            assert_eq!(product(isa, 2, weight, &Tensor::zeros(0, 256)), [0.0; 0]);
            assert_eq!(product(isa, 2, weight.slice_rows(3, 0), &Tensor::zeros(2, 256)), [0.0; 0]);
        });
    }
}

/// Inputs spread evenly over ±2 differ from their codes by at most half a step of 2/127, whatever the format
/// of the weights: (2/127)² / 12 over a power of 4/3 is 1.55e-5, and 254² times less with 15 bits.
#[test]
fn the_error_is_that_of_rounding_the_inputs() {
    for (precision, expected) in [(Precision::Int8, 1.55e-5), (Precision::Int15, 1.55e-5 / (254.0 * 254.0))] {
        for format in FORMATS.into_iter().filter(|&format| Packing::of(format).is_some()) {
            let (rows, columns, batch) = (64, 1024, 32);
            let mut random = Seeded::new(3);
            let bytes = random_weights(format, rows, columns, &mut random);
            let weight = WeightView::new(format, rows, columns, &bytes).unwrap();
            let mut x = Tensor::zeros(batch, columns);
            random.fill(x.values_mut(), -2.0, 2.0);
            let mut floats = vec![0.0; rows * columns];
            dequantize(format, &bytes, &mut floats);
            let pool = WorkerPool::new(1);
            let layer = Linear::pack(weight, None, precision, &Arena::default(), Isa::best()).unwrap();
            let mut out = Tensor::default();
            linear(Isa::best(), &pool, (&x).into(), &mut [(&layer, &mut out)]);
            let error = error_power(out.values(), &floats, &x);
            println!("{} with {precision:?}: {error:.3e}", format.name());
            assert!((0.5..1.5).contains(&(error / expected)), "{} {precision:?}: {error:e}", format.name());
        }
    }
}

/// Squared error against the exact product, over the power of the products summed: a sum that happens to
/// cancel to nothing does not make its error look large.
fn error_power(found: &[f32], weights: &[f32], x: &Tensor) -> f64 {
    let (mut error, mut power) = (0.0, 0.0);
    let rows = weights.len() / x.columns();
    for (i, &found) in found.iter().enumerate() {
        let weights = &weights[i % rows * x.columns()..][..x.columns()];
        let terms = weights.iter().zip(x.row(i / rows)).map(|(&w, &x)| f64::from(w) * f64::from(x));
        let (sum, squares) = terms.fold((0.0, 0.0), |(sum, squares), t| (sum + t, squares + t * t));
        error += (f64::from(found) - sum).powi(2);
        power += squares;
    }
    error / power
}

#[test]
fn fifteen_bits_of_inputs_are_nearly_exact_and_equal_on_every_isa() {
    for format in FORMATS.into_iter().filter(|&format| Packing::of(format).is_some()) {
        for (rows, batch) in [(33, 1), (48, 7), (16, 30)] {
            let columns = 512;
            let mut random = Seeded::new((rows + batch) as u64);
            let bytes = random_weights(format, rows, columns, &mut random);
            let weight = WeightView::new(format, rows, columns, &bytes).unwrap();
            let mut x = Tensor::zeros(batch, columns);
            random.fill(x.values_mut(), -2.0, 2.0);
            let mut floats = vec![0.0; rows * columns];
            dequantize(format, &bytes, &mut floats);
            let mut reference: Option<Vec<f32>> = None;
            for_each_isa(|isa| {
                let pool = WorkerPool::new(2);
                let layer = Linear::pack(weight, None, Precision::Int15, &Arena::default(), isa).unwrap();
                let mut out = Tensor::default();
                linear(isa, &pool, (&x).into(), &mut [(&layer, &mut out)]);
                let error = error_power(out.values(), &floats, &x);
                assert!(error < 1e-8, "{} {rows} batch {batch} on {isa}: {error:e}", format.name());
                let reference = reference.get_or_insert_with(|| out.values().to_vec());
                assert_eq!(out.values(), reference, "{} on {isa}", format.name());
            });
        }
    }
}

#[test]
fn layers_of_different_formats_share_one_call() {
    let mut random = Seeded::new(7);
    let (columns, batch) = (256, 3);
    let mut x = Tensor::zeros(batch, columns);
    x.values_mut().iter_mut().for_each(|value| *value = random.uniform(-1.0, 1.0));
    let a = random_weights(Format::Q4_K, 40, columns, &mut random);
    let b = random_weights(Format::Q6_K, 24, columns, &mut random);
    let c = random_weights(Format::F16, 5, columns, &mut random);
    let views = [
        WeightView::new(Format::Q4_K, 40, columns, &a).unwrap(),
        WeightView::new(Format::Q6_K, 24, columns, &b).unwrap(),
        WeightView::new(Format::F16, 5, columns, &c).unwrap(),
    ];
    for_each_isa(|isa| {
        let pool = WorkerPool::new(2);
        let bias = Vector::new((0..24).map(|i| i as f32).collect());
        let layers = [
            Linear::pack(views[0], None, Precision::Int8, &Arena::default(), isa).unwrap(),
            Linear::pack(views[1], Some(bias.clone()), Precision::Int8, &Arena::default(), isa).unwrap(),
            Linear::pack(views[2], None, Precision::Int8, &Arena::default(), isa).unwrap(),
        ];
        let (mut out_a, mut out_b, mut out_c) = (Tensor::default(), Tensor::default(), Tensor::default());
        linear(
            isa,
            &pool,
            (&x).into(),
            &mut [(&layers[0], &mut out_a), (&layers[1], &mut out_b), (&layers[2], &mut out_c)],
        );
        assert_eq!(out_a.values(), product(isa, 1, views[0], &x));
        assert_eq!(out_c.values(), product(isa, 1, views[2], &x));
        let plain = product(isa, 1, views[1], &x);
        let expected: Vec<f32> =
            plain.iter().enumerate().map(|(i, value)| value + bias.values()[i % 24]).collect();
        assert_eq!(out_b.values(), expected);
    });
}

/// With few rows, and with so many that codes are expanded.
#[test]
fn a_row_does_not_depend_on_the_batch_around_it() {
    // 17 blocks are no whole number of super-blocks.
    let table: [(usize, usize); 3] = [(512, 31), (512, 45), (544, 31)];
    for (format, (columns, batch)) in
        FORMATS.into_iter().flat_map(|format| table.map(|shape| (format, shape)))
    {
        if !columns.is_multiple_of(format.block().0) {
            continue;
        }
        let (rows, mut random) = (20, Seeded::new(11));
        let bytes = random_weights(format, rows, columns, &mut random);
        let weight = WeightView::new(format, rows, columns, &bytes).unwrap();
        let mut x = Tensor::zeros(batch, columns);
        random.fill(x.values_mut(), -1.0, 1.0);
        for_each_isa(|isa| {
            let together = product(isa, 2, weight, &x);
            for row in 0..batch {
                let mut alone = Tensor::zeros(1, columns);
                alone.row_mut(0).copy_from_slice(x.row(row));
                let same = &together[row * rows..][..rows];
                assert_eq!(product(isa, 1, weight, &alone), same, "{} on {isa}: row {row}", format.name());
            }
        });
    }
}

/// Where sums in 16 bits come nearest to an overflow: every byte of codes and every input alike, with packed
/// codes and with expanded ones.
#[test]
fn extreme_codes_and_inputs_are_equal_on_every_isa() {
    let (rows, columns) = (16, 256);
    for format in FORMATS.into_iter().filter(|&format| Packing::of(format).is_some()) {
        for code in [0x00, 0x7F, 0x80, 0xFF] {
            let bytes = weights_of(format, rows, columns, &mut Seeded::new(1), |_| code);
            let weight = WeightView::new(format, rows, columns, &bytes).unwrap();
            let signs = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]];
            for (signs, batch) in signs.into_iter().flat_map(|signs| [(signs, 8), (signs, 40)]) {
                let mut x = Tensor::zeros(batch, columns);
                x.values_mut().iter_mut().zip(signs.iter().cycle()).for_each(|(x, sign)| *x = *sign);
                let scalar = product(Isa::Scalar, 1, weight, &x);
                for_each_isa(|isa| {
                    let result = product(isa, 1, weight, &x);
                    assert_eq!(
                        result,
                        scalar,
                        "{} of {code:#x} times {signs:?} x{batch} on {isa}",
                        format.name()
                    );
                });
            }
        }
    }
}

/// Packed weights are kept on disk, and found again by the version of their layout.
#[test]
fn the_version_stands_for_these_bytes() {
    // FNV-1a, over all formats.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for format in FORMATS {
        let bytes = random_weights(format, 20, 512, &mut Seeded::new(5));
        let weight = WeightView::new(format, 20, 512, &bytes).unwrap();
        let packed =
            |weight, isa| Linear::pack(weight, None, Precision::Int8, &Arena::default(), isa).unwrap();
        let scalar = packed(weight, Isa::Scalar);
        // From where no value would be aligned, as in a file.
        let shifted = [&[0], &bytes[..]].concat();
        let shifted = WeightView { bytes: &shifted[1..], ..weight };
        for_each_isa(|isa| {
            let other = packed(shifted, isa);
            assert!(
                *other.codes == *scalar.codes && *other.scales == *scalar.scales,
                "{isa} packs otherwise"
            );
        });
        for byte in scalar.packed().into_iter().flat_map(|part| part.iter()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    let known = (1, 6_785_706_265_601_186_718);
    assert_eq!((layout::VERSION, hash), known, "with other bytes, raise VERSION and write both here");
}

#[test]
fn packed_bytes_make_the_same_layer_again_or_none() {
    let (rows, columns) = (20, 512);
    let arena = Arena::default();
    let mut x = Tensor::zeros(1, columns);
    Seeded::new(7).fill(x.values_mut(), -1.0, 1.0);
    let multiply = |layer: &Linear| {
        let mut out = Tensor::default();
        linear(Isa::best(), &WorkerPool::new(1), (&x).into(), &mut [(layer, &mut out)]);
        out.values().to_vec()
    };
    for format in FORMATS {
        let bytes = random_weights(format, rows, columns, &mut Seeded::new(6));
        let weight = WeightView::new(format, rows, columns, &bytes).unwrap();
        let bias = Vector::new((0..rows).map(|row| row as f32).collect());
        let layer = Linear::pack(weight, Some(bias.clone()), Precision::Int15, &arena, Isa::best()).unwrap();
        let again = |packed: [SharedBytes; 2]| {
            Linear::from_packed(weight, packed, Some(bias.clone()), Precision::Int15)
        };
        let [codes, scales] = layer.packed().map(SharedBytes::clone);
        let other = again([codes.clone(), scales.clone()]).expect("the very bytes");
        assert_eq!(multiply(&other), multiply(&layer), "{}", format.name());
        assert_eq!((other.bytes(), other.outputs(), other.inputs()), (layer.bytes(), rows, columns));

        let copy = |bytes: &[u8], length: usize| {
            let mut piece = arena.zeroed(length).unwrap();
            let common = length.min(bytes.len());
            piece[..common].copy_from_slice(&bytes[..common]);
            piece.freeze()
        };
        assert!(again([copy(&codes, codes.len() - 64), scales.clone()]).is_none(), "too short");
        assert!(again([codes.clone(), copy(&scales, scales.len() + 64)]).is_none(), "too long");
        let whole = copy(&codes, codes.len() + 64);
        // SAFETY: the piece holds the bytes, and nobody writes to it.
        let shifted = unsafe {
            SharedBytes::new(std::sync::Arc::new(whole.clone()), &raw const whole[1..][..codes.len()])
        };
        assert!(again([shifted, scales]).is_none(), "in the middle of a cache line");
    }
}
