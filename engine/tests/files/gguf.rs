//! GGUF files, spoilt one way each.

use std::fs::File;
use std::io::Write;

use engine::EngineError;
use engine::files::Gguf;
use kernels::Mapping;

use crate::corpus::{check_bytes_refused, check_refused};
use crate::draft::{ARRAY, BOOL, Draft, F32, TEXT, U8, U32, U64, array, text};

fn open(draft: &Draft) -> Result<Gguf, EngineError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, draft.bytes()).unwrap();
    Gguf::from_mapping(Mapping::open(&path).unwrap())
}

/// Spoils a sound file and checks that it is refused for a reason that says `expected`.
fn check(case: &str, expected: &str, spoil: impl FnOnce(&mut Draft)) {
    let mut draft = Draft::sound();
    spoil(&mut draft);
    check_bytes_refused(case, "gguf", &draft.bytes(), expected);
}

#[test]
fn sound_file_reads_back() {
    for version in [2, 3] {
        let gguf = open(&Draft { version, ..Draft::sound() }).unwrap();
        assert_eq!(gguf.version(), version);
        assert_eq!(gguf.architecture().unwrap(), "llama");
        assert_eq!(gguf.get::<u32>("llama.block_count").unwrap(), Some(2));
        assert_eq!(gguf.get::<f32>("llama.rope.freq_base").unwrap(), Some(10000.0));
        assert_eq!(gguf.get::<bool>("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
        assert_eq!(gguf.get::<Vec<&str>>("tokenizer.ggml.tokens").unwrap(), Some(vec!["a", "é", ""]));
        assert_eq!(gguf.get::<Vec<i32>>("tokenizer.ggml.token_type").unwrap(), Some(vec![1, -1]));
        assert_eq!(gguf.get::<u32>("absent").unwrap(), None);
        let embedding = gguf.tensor("token_embd.weight").unwrap().unwrap();
        assert_eq!(embedding.shape, [2, 64], "outermost first");
        assert_eq!(embedding.bytes.len(), 2 * 2 * 34);
    }
}

#[test]
fn values_of_another_type_are_named() {
    let gguf = open(&Draft::sound()).unwrap();
    let check = |result: Result<(), EngineError>, expected: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    };
    check(gguf.get::<u32>("general.architecture").map(drop), "is a text where an integer within u32");
    check(gguf.get::<&str>("llama.block_count").map(drop), "is the integer 2 where a text");
    check(gguf.get::<Vec<u32>>("tokenizer.ggml.token_type").map(drop), "is an array of 2 i32 where");
    check(gguf.get::<Vec<&str>>("tokenizer.ggml.add_bos_token").map(drop), "is the boolean true where");
    check(gguf.require::<u32>("absent").map(drop), "`absent` is missing");
}

#[test]
fn types_without_a_kernel_are_listed_but_not_used() {
    let gguf = open(&Draft::sound()).unwrap();
    assert_eq!(gguf.entries()[2].kind.name, "IQ2_XXS");
    let error = gguf.tensor("odd.weight").err().expect("no kernel computes with IQ2_XXS");
    assert!(matches!(error, EngineError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("IQ2_XXS"), "{error}");
}

#[test]
fn parts_of_a_split_model_say_how_to_merge() {
    let mut draft = Draft::sound();
    draft.key("split.count", U32, 2u32.to_le_bytes());
    let error = open(&draft).err().expect("a part is not a model");
    assert!(error.to_string().contains("--merge"), "{error}");
}

#[test]
fn truncated_anywhere() {
    let draft = Draft::sound();
    let bytes = draft.bytes();
    for length in 0..bytes.len() {
        // In the header, what comes next is announced; behind it, a tensor ends too late.
        let expected = match length {
            0..4 => "not a GGUF file",
            _ if length < draft.header().len() => "bytes are left of the file",
            _ => "truncated",
        };
        check_bytes_refused(&format!("first {length} bytes"), "gguf", &bytes[..length], expected);
    }
}

#[test]
fn spoilt_header() {
    check("magic", "not a GGUF file", |draft| draft.magic = *b"GGML");
    check("big-endian magic", "not a GGUF file", |draft| draft.magic = *b"FUGG");
    check("big-endian", "big-endian", |draft| draft.version = 3u32.swap_bytes());
    for version in [0, 1, 4, u32::MAX] {
        check("version", &format!("version {version}"), |draft| draft.version = version);
    }
    for count in [1 << 17, 1 << 40, u64::MAX] {
        check("tensor count", "are announced", |draft| draft.tensor_count = Some(count));
        check("key count", "are announced", |draft| draft.key_count = Some(count));
    }
    // What follows is then read as something it is not.
    check("one tensor more", "dimensions", |draft| draft.tensor_count = Some(4));
    check("one key more", "1024 allowed", |draft| draft.key_count = Some(8));
    check("fewer keys", "dimensions", |draft| draft.key_count = Some(3));
}

#[test]
fn spoilt_metadata() {
    let value = |case: &str, expected: &str, kind: u32, value: &[u8]| {
        check(case, expected, |draft| draft.key("spoilt", kind, value));
    };
    value("type 13", "13 is no metadata type", 13, &[0; 8]);
    value("type max", "is no metadata type", u32::MAX, &[0; 8]);
    value("bool 2", "2 is no boolean", BOOL, &[2]);
    value("endless text", "are announced", TEXT, &u64::MAX.to_le_bytes());
    value("text past the end", "are announced", TEXT, &(1u64 << 20).to_le_bytes());
    value("text not UTF-8", "not UTF-8", TEXT, &text(b"\xff\xfe"));
    value("array of arrays", "arrays of arrays", ARRAY, &array(ARRAY, 1, array(U8, 1, [0])));
    value("array of nothing", "is no metadata type", ARRAY, &array(99, 1, [0]));
    for count in [1 << 20, 1 << 61, u64::MAX] {
        for element in [U8, U32, TEXT, U64] {
            value("endless array", "are announced", ARRAY, &array(element, count, []));
        }
    }
    value("text in an array past the end", "are announced", ARRAY, &array(TEXT, 1, u64::MAX.to_le_bytes()));
    value("bool in an array", "9 is no boolean", ARRAY, &array(BOOL, 1, [9]));
    check("duplicate key", "`llama.block_count` occurs twice", |draft| {
        draft.key("llama.block_count", U32, [0; 4]);
    });
    check("key not UTF-8", "not UTF-8", |draft| draft.keys[0].0 = vec![0xff]);
    check("long key", "65535", |draft| draft.keys[0].0 = vec![b'k'; 1 << 16]);
}

#[test]
fn spoilt_alignment() {
    for (kind, value) in [(U32, 0u32), (U32, 3), (U32, 1 << 17), (U32, u32::MAX)] {
        check("alignment", "no power of two", |draft| {
            draft.set("general.alignment", kind, value.to_le_bytes());
        });
    }
    check("alignment as text", "is a text", |draft| draft.set("general.alignment", TEXT, text("32")));
    check("alignment as float", "is the number", |draft| draft.set("general.alignment", F32, [0; 4]));
    check("offset not aligned", "not aligned to 32", |draft| draft.tensors[1].offset = 97);
}

#[test]
fn spoilt_tensors() {
    check("no dimensions", "0 dimensions", |draft| draft.tensors[0].dimensions = vec![]);
    check("5 dimensions", "5 dimensions", |draft| draft.tensors[0].dimensions = vec![1; 5]);
    check("endless dimensions", "dimensions", |draft| draft.tensors[0].dimension_count = Some(u32::MAX));
    check("zero rows", "holds no values", |draft| draft.tensors[0].dimensions = vec![3, 0]);
    check("zero columns", "holds no values", |draft| draft.tensors[1].dimensions = vec![0, 3]);
    check("product overflows", "overflows", |draft| draft.tensors[0].dimensions = vec![1 << 32; 4]);
    check("bytes overflow", "overflows", |draft| draft.tensors[0].dimensions = vec![u64::MAX]);
    check("partial block", "do not fill Q8_0 blocks of 32", |draft| {
        draft.tensors[1].dimensions = vec![48, 2];
    });
    for kind in [4, 5, 31, 36, 42, u32::MAX] {
        check("type", &format!("type number {kind}"), |draft| draft.tensors[0].kind = kind);
    }
    check("oversized", "truncated: tensor `odd.weight`", |draft| draft.tensors[2].dimensions = vec![1 << 40]);
    check("offset past the end", "truncated", |draft| draft.tensors[2].offset = 1 << 30);
    check("offset overflows", "overflows", |draft| draft.tensors[2].offset = u64::MAX - 31);
    check("overlap", "`output_norm.weight` and `token_embd.weight` overlap", |draft| {
        draft.tensors[1].offset = 64;
    });
    check("same place", "overlap", |draft| draft.tensors[1].offset = 0);
    check("duplicate", "`odd.weight` occurs twice", |draft| draft.tensors[0].name = b"odd.weight".into());
    check("name not UTF-8", "not UTF-8", |draft| draft.tensors[0].name = vec![0xc3]);
    check("long name", "1024", |draft| draft.tensors[0].name = vec![b'n'; 1025]);
}

/// Counts that really fit into the file are still bounded: a sparse file of zeros is millions of empty
/// texts.
#[test]
fn huge_but_consistent() {
    let check = |texts: u64, expected: &str| {
        let mut draft = Draft::sound();
        draft.key("zeros", ARRAY, array(TEXT, texts, []));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut file = File::create(&path).unwrap();
        let mut header = draft.header();
        // The tensors would follow the texts; zeros do.
        header.truncate(header.len() - tensors_bytes(&draft));
        file.write_all(&header).unwrap();
        file.set_len(8 * texts + (1 << 20)).unwrap();
        check_refused(&format!("{texts} texts"), &path, expected);
    };
    check(1 << 24, "32 MiB");
    check(4_000_000, "0 dimensions");
}

fn tensors_bytes(draft: &Draft) -> usize {
    let without = Draft { tensors: Vec::new(), ..draft.clone() };
    draft.header().len() - without.header().len()
}
