//! What tells models apart: the bytes of their files as they were mapped, and what their configuration says
//! of the network. A sample tells a model trained further or quantised otherwise, which differs nearly
//! everywhere; pages that outlive the process need every byte.

use std::thread;
use std::time::UNIX_EPOCH;

use kernels::Mapping;
use sha2::{Digest, Sha256};

use crate::EngineError;
use crate::files::TensorEntry;
use crate::models::parallel;

/// Hashed at a time. A sample has one of these from the beginning: metadata, vocabulary, the directory of
/// tensors.
const PIECE_BYTES: usize = 4 << 20;
/// Sampled throughout the rest.
const SAMPLES: usize = 512;
const SAMPLE_BYTES: usize = 4096;

/// SHA-256 over digests of the pieces of files, `whole` or sampled, and over what is said of the network.
/// All cores take part.
pub fn identity(files: &[&[u8]], network: &str, whole: bool) -> Result<[u8; 32], EngineError> {
    let pieces: Vec<&[u8]> = files.iter().flat_map(|file| pieces(file, whole)).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let digests = parallel::each(threads, pieces.len(), |piece| Ok(Sha256::digest(pieces[piece])))?;
    let mut hasher = Sha256::new();
    hasher.update((network.len() as u64).to_le_bytes());
    hasher.update(network);
    files.iter().for_each(|file| hasher.update((file.len() as u64).to_le_bytes()));
    digests.iter().for_each(|digest| hasher.update(digest));
    Ok(hasher.finalize().into())
}

fn pieces(file: &[u8], whole: bool) -> Vec<&[u8]> {
    if whole {
        return file.chunks(PIECE_BYTES).collect();
    }
    let (head, rest) = file.split_at(file.len().min(PIECE_BYTES));
    let start = |sample: usize| (rest.len() as u128 * sample as u128 / SAMPLES as u128) as usize;
    let samples =
        (0..SAMPLES).map(|sample| &rest[start(sample)..rest.len().min(start(sample) + SAMPLE_BYTES)]);
    let end = &rest[rest.len().saturating_sub(SAMPLE_BYTES)..];
    [head, end].into_iter().chain(samples).collect()
}

/// What changes whenever somebody writes to a file, or puts another one in its place: length, times of
/// change, and where the file system has it. Of the files that were mapped, not of those that have their
/// paths by now. And which tensor is where, as some other file may say. `None` where the system does not
/// tell.
pub fn stamp<'a>(mappings: &[&Mapping], tensors: impl Iterator<Item = &'a TensorEntry>) -> Option<[u8; 32]> {
    let mut hasher = Sha256::new();
    for mapping in mappings {
        let metadata = mapping.metadata()?;
        hasher.update(metadata.len().to_le_bytes());
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        hasher.update(modified.as_nanos().to_le_bytes());
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            // The time of the last change cannot be set back as that of the last write can.
            let numbers = [metadata.ctime(), metadata.ctime_nsec()];
            numbers.iter().for_each(|number| hasher.update(number.to_le_bytes()));
            [metadata.dev(), metadata.ino()].iter().for_each(|number| hasher.update(number.to_le_bytes()));
        }
    }
    for tensor in tensors {
        for number in [tensor.name.len(), tensor.range.start, tensor.range.end] {
            hasher.update((number as u64).to_le_bytes());
        }
        hasher.update(&tensor.name);
    }
    Some(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_stamp_changes_with_every_write_and_is_that_of_the_mapped_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        std::fs::write(&path, b"some weights").unwrap();
        let open = || Mapping::open(&path).unwrap();
        let of = |mappings: &[&Mapping], tensors: &[TensorEntry]| stamp(mappings, tensors.iter()).unwrap();
        let mapped = open();
        let before = of(&[&mapped], &[]);
        assert_eq!(of(&[&open()], &[]), before);
        // Same length, and the time of the write set back: the place in the file system is another.
        let other = folder.path().join("b.gguf");
        std::fs::write(&other, b"same lengths").unwrap();
        let modified = path.metadata().unwrap().modified().unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!((of(&[&mapped], &[]), &mapped[..]), (before, &b"some weights"[..]));
        assert_ne!(of(&[&open()], &[]), before);
        assert_ne!(of(&[&mapped, &open()], &[]), before);
        let kind = crate::files::tensor_type::of_safetensors_name("F32").unwrap();
        let tensor = |name: &str, start| TensorEntry {
            name: name.into(),
            kind,
            shape: vec![1],
            range: start..start + 4,
        };
        let tensors = [tensor("a", 0), tensor("b", 4)];
        let found = of(&[&mapped], &tensors);
        assert_ne!(found, before);
        assert_ne!(found, of(&[&mapped], &[tensor("b", 0), tensor("a", 4)]));
    }

    #[test]
    fn tells_models_apart_by_their_bytes_and_their_network() {
        let weights: Vec<u8> = (0..6_000_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        let changed = |range: std::ops::Range<usize>| {
            let mut changed = weights.clone();
            changed[range].iter_mut().for_each(|byte| *byte ^= 1);
            changed
        };
        let end = weights.len();
        let rows = [
            changed(PIECE_BYTES..end),
            changed(0..1),
            changed(end - 1..end),
            weights[..end - 1].to_vec(),
            Vec::new(),
        ];
        for whole in [false, true] {
            let of = |files: &[&[u8]], network: &str| identity(files, network, whole).unwrap();
            let base = of(&[&weights], "network");
            assert_eq!(of(&[&weights.clone()], "network"), base);
            for (row, other) in rows.iter().enumerate() {
                assert_ne!(of(&[other], "network"), base, "row {row}");
            }
            assert_ne!(of(&[&weights], "network of another rope"), base);
            assert_ne!(of(&[&weights[..100], &weights[100..]], "network"), base);
        }
    }

    #[test]
    fn the_whole_tells_what_a_sample_does_not() {
        let weights = vec![7; PIECE_BYTES + 4 * SAMPLES * SAMPLE_BYTES];
        let mut other = weights.clone();
        other[PIECE_BYTES + SAMPLE_BYTES + 1] = 8;
        let of = |file: &[u8], whole| identity(&[file], "", whole).unwrap();
        assert_ne!(of(&weights, true), of(&other, true));
        assert_eq!(of(&weights, false), of(&other, false), "the row tests nothing");
    }
}
