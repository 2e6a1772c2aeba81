//! Packed weights on disk: found they give the same bits, and whatever happens to them they are packed
//! again.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use engine::batch::Decoder;
use engine::model::{LoadOptions, LoadedModel, Network, load};
use engine::packed::Pace;
use engine::{Batch, PackedCache, PackedOptions};
use kernels::{CpuOptions, Device, KvCache, PagedRows, Tensor};
use support::goldens;

/// Decoders with biases, with q, k and v in one matrix, quantised ones, and an encoder.
const MODELS: [&str; 5] = [
    "llama/model-q8_0.gguf",
    "qwen2/model.gguf",
    "phi3/model.safetensors",
    "gemma3/model.safetensors",
    "bert/model.gguf",
];

/// A model in a folder of its own, beside a folder for what it is packed to.
struct Place {
    home: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new(model: &str) -> Place {
        let home = tempfile::tempdir().unwrap();
        let source = goldens().join("models").join(model);
        let folder = home.path().join("model");
        fs::create_dir(&folder).unwrap();
        let model = folder.join(source.file_name().unwrap());
        for file in fs::read_dir(source.parent().unwrap()).unwrap().map(|file| file.unwrap().path()) {
            if file == source || file.extension().is_some_and(|extension| extension == "json") {
                fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
            }
        }
        Place { home, model }
    }

    fn cache(&self) -> PackedCache {
        self.cache_of(1 << 30)
    }

    fn cache_of(&self, bytes_max: u64) -> PackedCache {
        PackedCache::new(PackedOptions { folder: self.packed(), bytes_max, model_bytes_min: 0 })
    }

    fn packed(&self) -> PathBuf {
        self.home.path().join("cache/packed")
    }

    /// Its files, without the lock.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.packed()).into_iter().flatten().map(|file| file.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|path| !path.ends_with("lock")).collect();
        files.sort();
        files
    }

    fn file(&self) -> PathBuf {
        match self.files().as_slice() {
            [file] => file.clone(),
            files => panic!("{files:?}"),
        }
    }
}

fn open(path: &Path, cache: Option<&PackedCache>) -> LoadedModel {
    let device = Device::cpu(CpuOptions { threads: Some(2), isa: None }).unwrap();
    let progress = &|_| {};
    let options = LoadOptions {
        path,
        name: None,
        context_tokens: None,
        device: &device,
        whole_identity: false,
        packed: cache,
        progress,
    };
    load(&options).unwrap()
}

/// Bits of the results for a few tokens.
fn bits(model: &mut LoadedModel) -> Vec<u32> {
    let tokens = [3, 7, 5, 11, 2];
    let mut out = Tensor::default();
    match &mut model.network {
        Network::Encoder(encoder) => encoder.forward(&[&tokens], &mut out),
        Network::Decoder(decoder) => forward(decoder.as_mut(), &tokens, &mut out),
    }
    out.values().iter().map(|value| value.to_bits()).collect()
}

fn forward(decoder: &mut dyn Decoder, tokens: &[u32], out: &mut Tensor) {
    let rows = tokens.len();
    let mut kv = KvCache::new(decoder.kv_layout(), 1);
    let batch = Batch {
        tokens: tokens.to_vec(),
        positions: (0..rows as u32).collect(),
        sequences: vec![PagedRows { first_row: 0, rows, past: 0, pages: vec![0] }],
        logit_rows: (0..rows as u32).collect(),
    };
    decoder.forward(&batch, &mut kv, out);
}

/// Loads, and writes what has to be written; whether it found everything, and its results.
fn start(place: &Place) -> (bool, Vec<u32>) {
    let mut model = open(&place.model, Some(&place.cache()));
    let found = model.unwritten.is_empty();
    for writer in &model.unwritten {
        assert!(writer.write(Pace::Full).unwrap());
    }
    (found, bits(&mut model))
}

#[test]
fn what_is_found_gives_the_same_bits() {
    for model in MODELS {
        let place = Place::new(model);
        let expected = bits(&mut open(&place.model, None));
        assert_eq!(start(&place), (false, expected.clone()), "{model}: packed");
        let bytes = open(&place.model, None).weight_bytes();
        let mut found = open(&place.model, Some(&place.cache()));
        assert!(found.unwritten.is_empty(), "{model}: found");
        assert_eq!((bits(&mut found), found.weight_bytes()), (expected.clone(), bytes), "{model}");
        // A process goes on with a file that another one removes.
        fs::remove_file(place.file()).unwrap();
        assert_eq!(bits(&mut found), expected, "{model}");
        assert_eq!(start(&place), (false, expected), "{model}: removed");
    }
}

#[test]
fn only_the_owner_can_read_or_write_and_files_of_others_are_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(MODELS[0]);
    start(&place);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place.file()), mode(&place.packed())), (0o600, 0o700));
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o620)).unwrap();
    assert!(!open(&place.model, Some(&place.cache())).unwritten.is_empty());
}

#[test]
fn damage_is_found_and_mended() {
    let place = Place::new(MODELS[0]);
    let (_, expected) = start(&place);
    let file = place.file();
    let whole = fs::read(&file).unwrap();
    let header = u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
    assert!(header < whole.len() / 4, "the directory comes first: {header}");
    let flips = (0..header).step_by(7).chain((header.next_multiple_of(64)..whole.len()).step_by(4999));
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    for at in flips {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        damaged.push((format!("byte {at}"), bytes));
    }
    for length in [0, 1, 8, 47, header - 1, header, whole.len() / 2, whole.len() - 1] {
        damaged.push((format!("the first {length} bytes"), whole[..length].to_vec()));
    }
    damaged.push(("one byte more".into(), [whole.as_slice(), &[0]].concat()));
    damaged.push(("something else".into(), b"GGUF something else".repeat(1000)));
    for (what, bytes) in damaged {
        fs::write(&file, bytes).unwrap();
        assert_eq!(start(&place), (false, expected.clone()), "{what}");
        assert!(fs::read(&file).unwrap() == whole, "{what}: it is written again, the same");
    }
    assert_eq!(start(&place), (true, expected));
}

#[test]
fn a_file_under_another_models_name_is_not_believed() {
    let (place, other) = (Place::new(MODELS[0]), Place::new(MODELS[0]));
    let (_, expected) = start(&place);
    start(&other);
    assert_ne!(place.file().file_name(), other.file().file_name(), "copies are told apart");
    fs::copy(other.file(), place.file()).unwrap();
    assert_eq!(start(&place), (false, expected));
}

#[test]
fn a_model_that_changed_is_packed_anew() {
    let place = Place::new(MODELS[0]);
    let (_, expected) = start(&place);
    let before = place.file();
    let modified = fs::metadata(&place.model).unwrap().modified().unwrap();
    // Other weights in the same place, of the same length, with the old time on them.
    let mut bytes = fs::read(&place.model).unwrap();
    let length = bytes.len();
    bytes[length - 40_000..].iter_mut().step_by(34).for_each(|byte| *byte ^= 1);
    fs::write(&place.model, &bytes).unwrap();
    fs::File::options().write(true).open(&place.model).unwrap().set_modified(modified).unwrap();
    let (found, bits) = start(&place);
    assert!(!found && bits != expected);
    assert_eq!(place.files().len(), 2);
    assert!(before.exists(), "who goes back finds it");
}

#[test]
fn the_folder_keeps_to_its_bound() {
    let places: Vec<Place> = MODELS[..3].iter().map(|model| Place::new(model)).collect();
    let keep = |place: &Place, bytes_max: u64| {
        let model = open(&place.model, Some(&places[0].cache_of(bytes_max)));
        model.unwritten.iter().all(|writer| writer.write(Pace::Full).unwrap())
    };
    let files = || places[0].files();
    keep(&places[0], 1 << 30);
    let first = places[0].file();
    keep(&places[1], 1 << 30);
    let bytes: u64 = files().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    // Found, so used after the second.
    keep(&places[0], 1 << 30);
    keep(&places[2], bytes + 4096);
    assert!(first.exists(), "the least recently used goes: {:?}", files());
    let total =
        |files: Vec<PathBuf>| -> u64 { files.iter().map(|file| fs::metadata(file).unwrap().len()).sum() };
    assert!(total(files()) <= bytes + 4096);
    // One that alone is too large is not kept, and nothing goes for it.
    let before = files();
    fs::remove_file(&first).unwrap();
    assert!(open(&places[0].model, Some(&places[0].cache_of(1000))).unwritten.is_empty());
    assert_eq!(files().len(), before.len() - 1);
}

#[test]
fn small_models_are_not_kept() {
    let place = Place::new(MODELS[0]);
    let options = PackedOptions { folder: place.packed(), bytes_max: 1 << 30, model_bytes_min: 1 << 20 };
    assert!(open(&place.model, Some(&PackedCache::new(options))).unwritten.is_empty());
}

#[test]
fn two_that_write_at_once_leave_one_whole_file() {
    let place = Place::new(MODELS[0]);
    let models: Vec<LoadedModel> = (0..4).map(|_| open(&place.model, Some(&place.cache()))).collect();
    let written: usize = std::thread::scope(|scope| {
        let writers = models.iter().map(|model| &model.unwritten[0]);
        let threads: Vec<_> =
            writers.map(|writer| scope.spawn(|| writer.write(Pace::Full).unwrap())).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
    });
    assert_eq!(written, 1);
    let (found, results) = start(&place);
    assert_eq!((found, results), (true, bits(&mut open(&place.model, None))));
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_of_the_writer_alone() {
    let place = Place::new(MODELS[0]);
    // A file where a folder should be.
    fs::write(place.home.path().join("cache"), "").unwrap();
    let mut model = open(&place.model, Some(&place.cache()));
    assert_eq!(bits(&mut model), bits(&mut open(&place.model, None)));
    assert!(model.unwritten[0].write(Pace::Full).is_err());
}

#[test]
fn what_a_killed_writer_left_is_cleaned_up_and_strangers_stay() {
    let place = Place::new(MODELS[0]);
    start(&place);
    let fragment = place.file().with_extension("part");
    let stranger = place.packed().join("notes.part");
    fs::rename(place.file(), &fragment).unwrap();
    fs::write(&stranger, "text").unwrap();
    assert!(!start(&place).0);
    assert!(!fragment.exists() && stranger.exists());
    assert!(start(&place).0);
}

#[test]
fn a_model_that_is_gone_is_not_written() {
    let place = Place::new(MODELS[0]);
    let mut model = open(&place.model, Some(&place.cache()));
    let writer = model.unwritten.remove(0);
    drop(model);
    assert!(!writer.write(Pace::Full).unwrap());
    assert_eq!(place.files(), Vec::<PathBuf>::new());
}
