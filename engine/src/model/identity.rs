//! What tells the files of models apart without reading all of them: lengths, beginnings, and samples
//! throughout. A model trained further or quantised otherwise differs nearly everywhere.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

/// Read from the beginning: metadata, vocabulary, the directory of tensors.
const HEAD_BYTES: u64 = 4 << 20;
/// Read throughout the rest.
const SAMPLES: u64 = 512;
const SAMPLE_BYTES: u64 = 4096;

/// SHA-256 over samples of a file, or of all files in a folder.
///
/// # Errors
/// As the file system says.
pub fn identity(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    if path.is_dir() {
        for file in files(path)? {
            let name = file.file_name().unwrap_or_default().as_encoded_bytes();
            hasher.update((name.len() as u64).to_le_bytes());
            hasher.update(name);
            add_samples(&mut hasher, &file)?;
        }
    } else {
        add_samples(&mut hasher, path)?;
    }
    Ok(hasher.finalize().into())
}

/// Files of a folder by name, without those that are hidden.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        if entry.path().is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// What changes whenever somebody writes to a file, or puts another one in its place: length, times of
/// change, and where the file system has it. Of all files in a folder.
///
/// # Errors
/// As the file system says.
pub fn stamp(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let files = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
    for file in files {
        let metadata = file.metadata()?;
        hasher.update(metadata.len().to_le_bytes());
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
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
    Ok(hasher.finalize().into())
}

fn add_samples(hasher: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    hasher.update(length.to_le_bytes());
    let mut add = |start: u64, bytes: u64| -> io::Result<()> {
        let mut sample = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::by_ref(&mut file).take(bytes).read_to_end(&mut sample)?;
        hasher.update(&sample);
        Ok(())
    };
    add(0, HEAD_BYTES)?;
    let rest = length.saturating_sub(HEAD_BYTES);
    for sample in 0..SAMPLES.min(rest) {
        let start = u128::from(rest) * u128::from(sample) / u128::from(SAMPLES);
        add(HEAD_BYTES + start as u64, SAMPLE_BYTES)?;
    }
    if rest > 0 { add(length - SAMPLE_BYTES.min(rest), SAMPLE_BYTES) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_changes_with_every_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        std::fs::write(&path, b"some weights").unwrap();
        let before = stamp(&path).unwrap();
        assert_eq!(stamp(&path).unwrap(), before);
        // Same length, and the time of the write set back: the place in the file system is another.
        let other = folder.path().join("b.gguf");
        std::fs::write(&other, b"same lengths").unwrap();
        let modified = path.metadata().unwrap().modified().unwrap();
        File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(stamp(&path).unwrap(), before);
        assert_ne!(stamp(folder.path()).unwrap(), before);
        assert!(stamp(&folder.path().join("nothing")).is_err());
    }

    #[test]
    fn tells_models_apart_wherever_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, content).unwrap();
            path
        };
        let weights: Vec<u8> = (0..6_000_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
        let mut trained = weights.clone();
        trained[HEAD_BYTES as usize..].iter_mut().for_each(|byte| *byte ^= 1);
        let mut other_end = weights.clone();
        *other_end.last_mut().unwrap() ^= 1;
        let base = identity(&write("a.gguf", &weights)).unwrap();
        assert_eq!(identity(&write("b.gguf", &weights)).unwrap(), base, "under another name");
        for other in [&trained, &other_end, &weights[..weights.len() - 1].to_vec(), &Vec::new()] {
            assert_ne!(identity(&write("c.gguf", other)).unwrap(), base);
        }
        let in_folder = |config: &[u8]| {
            write("m/model.safetensors", &weights);
            write("m/.lock", config);
            identity(write("m/config.json", config).parent().unwrap()).unwrap()
        };
        assert_eq!(in_folder(b"{}"), in_folder(b"{}"));
        assert_ne!(in_folder(b"{}"), in_folder(b"[]"));
        assert!(identity(&folder.path().join("nothing")).is_err());
    }
}
