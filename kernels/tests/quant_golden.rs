//! Every format's scalar dequantiser against the `gguf` Python package, bit for bit.
//! Refresh: `python kernels/tests/goldens/make_quant.py`.

// Helpers of an integration test are tests too, which clippy does not see.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use kernels::Format;
use kernels::quant::dequantize;

const GOLDEN: &[u8] = include_bytes!("goldens/quant.bin");

struct Record {
    format: Format,
    blocks: &'static [u8],
    values: Vec<f32>,
}

fn records() -> Vec<Record> {
    let mut rest = GOLDEN;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let name = std::str::from_utf8(take(&mut rest, 8)).unwrap().trim_end_matches('\0');
        let block_bytes = u32(take(&mut rest, 4)) as usize;
        let value_count = u32(take(&mut rest, 4)) as usize;
        let format = Format::from_name(name).unwrap_or_else(|| panic!("{name} has no row"));
        let blocks = take(&mut rest, block_bytes);
        let values = take(&mut rest, 4 * value_count).chunks_exact(4).map(|raw| f32::from_bits(u32(raw)));
        records.push(Record { format, blocks, values: values.collect() });
    }
    records
}

fn take(rest: &mut &'static [u8], count: usize) -> &'static [u8] {
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    head
}

fn u32(raw: &[u8]) -> u32 {
    u32::from_le_bytes(raw.try_into().unwrap())
}

#[test]
fn equals_the_reference_bit_for_bit() {
    for record in records() {
        let mut values = vec![f32::NAN; record.values.len()];
        dequantize(record.format, record.blocks, &mut values);
        for (index, (found, expected)) in values.iter().zip(&record.values).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{} value {index}: {found} instead of {expected}",
                record.format.name()
            );
        }
    }
}

#[test]
fn covers_every_format() {
    let golden: BTreeSet<_> = records().iter().map(|record| record.format.name()).collect();
    let known: BTreeSet<_> = Format::all().map(Format::name).collect();
    assert_eq!(golden, known);
}

/// Sizes as the format's specification gives them: (values, bytes) of a block.
#[test]
fn byte_counts() {
    let check = |name: &str, values: usize, expected: Option<usize>| {
        assert_eq!(Format::from_name(name).unwrap().bytes(values), expected, "{name} x {values}");
    };
    check("F32", 3, Some(12));
    check("Q4_1", 64, Some(40));
    check("Q4_1", 63, None);
    check("Q4_K", 512, Some(288));
    check("Q4_K", 32, None);
    check("MXFP4", 0, Some(0));
    check("F32", usize::MAX, None);
}
