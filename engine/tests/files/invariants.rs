//! What must be true of every file a reader accepts; shared by the mutation tests and `fuzz/`.
#![allow(dead_code, reason = "each fuzz target uses one of the two")]

use engine::files::gguf::{Directory, FromValue};
use engine::files::{TensorEntry, safetensors};

/// Parses `bytes` as GGUF; whether they were accepted.
pub fn read_gguf(bytes: &[u8]) -> bool {
    let Ok(directory) = Directory::parse(bytes) else { return false };
    check_entries(&directory.tensors, bytes.len());
    for value in directory.metadata.values() {
        let decoded = [
            <&str>::from_value(value, bytes).is_some(),
            u64::from_value(value, bytes).is_some(),
            i32::from_value(value, bytes).is_some(),
            f32::from_value(value, bytes).is_some(),
            bool::from_value(value, bytes).is_some(),
            <Vec<&str>>::from_value(value, bytes).is_some(),
            <Vec<f32>>::from_value(value, bytes).is_some(),
            <Vec<bool>>::from_value(value, bytes).is_some(),
        ];
        assert!(decoded.contains(&true), "{value:?} cannot be asked for");
    }
    true
}

/// Parses `bytes` as safetensors; whether they were accepted.
pub fn read_safetensors(bytes: &[u8]) -> bool {
    let Ok(entries) = safetensors::parse(bytes) else { return false };
    check_entries(&entries, bytes.len());
    true
}

/// Every tensor lies in the file, overlaps no other, and has the bytes its shape and type need.
fn check_entries(entries: &[TensorEntry], file_bytes: usize) {
    let mut ranges: Vec<_> = entries.iter().map(|entry| entry.range.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.iter().all(|range| range.start < range.end && range.end <= file_bytes));
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
    for entry in entries {
        assert_eq!(entry.kind.bytes(&entry.shape), Ok(entry.range.len()), "{}", entry.name);
    }
}
