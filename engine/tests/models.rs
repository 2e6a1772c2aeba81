//! Every architecture of the registry against golden outputs of tiny seeded models
//! (`goldens/models/README.md`): whole prompts, chunks, token by token, and sequences together.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use engine::Batch;
use engine::batch::Decoder;
use engine::model::Network;
use engine::models::registry::ARCHITECTURES;
use kernels::{KvCache, PAGE_TOKENS, PagedRows, Tensor};
use serde_json::Value;
use support::{cosine, floats, goldens, ids, read_json, try_load};

/// Largest difference of a logit, as a part of the largest logit of its row. Weights here are bf16 or
/// f32 and are not quantised; what differs is the order of sums, and keys and values kept as 16-bit
/// integers with a scale.
const TOLERANCE: f32 = 2e-3;
/// The same where weights and activations are both in int8.
const TOLERANCE_Q8: f32 = 5e-2;

/// One prompt and the logits it should give.
struct Case {
    context_tokens: usize,
    tokens: Vec<u32>,
    logits: Vec<(usize, Vec<f32>)>,
}

/// One file of weights with what it should give.
struct Golden {
    name: String,
    weights: PathBuf,
    tolerance: f32,
    cases: Vec<Value>,
}

fn golden_files() -> Vec<Golden> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(goldens().join("models")).unwrap() {
        let folder = folder.unwrap().path();
        for (file, tolerance) in [("golden.json", TOLERANCE), ("golden-q8_0.json", TOLERANCE_Q8)] {
            if !folder.join(file).is_file() {
                continue;
            }
            let golden = read_json(&folder.join(file));
            for weights in golden["weights"].as_array().unwrap() {
                let weights = weights.as_str().unwrap();
                found.push(Golden {
                    name: format!("{}/{weights}", golden["model"].as_str().unwrap()),
                    weights: folder.join(weights),
                    tolerance,
                    cases: golden["cases"].as_array().unwrap().clone(),
                });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn decoder_goldens() -> impl Iterator<Item = Golden> {
    golden_files().into_iter().filter(|golden| !golden.cases[0]["logits"].is_null())
}

fn encoder_goldens() -> impl Iterator<Item = Golden> {
    golden_files().into_iter().filter(|golden| !golden.cases[0]["vector"].is_null())
}

fn decoder_cases(golden: &Golden) -> Vec<Case> {
    let case = |value: &Value| Case {
        context_tokens: value["context_tokens"].as_u64().unwrap() as usize,
        tokens: ids(&value["tokens"]),
        logits: value["logits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["position"].as_u64().unwrap() as usize, floats(&row["values"])))
            .collect(),
    };
    golden.cases.iter().map(case).collect()
}

fn load_decoder(path: &Path, context_tokens: usize) -> Box<dyn Decoder> {
    match try_load(path, Some(context_tokens)).unwrap().network {
        Network::Decoder(decoder) => decoder,
        Network::Encoder(_) => panic!("{} is an encoder", path.display()),
    }
}

/// A cache in which sequence `i` owns pages i, i + sequences, i + 2 · sequences...: never in a row.
fn cache(decoder: &dyn Decoder, sequences: usize, tokens: usize) -> (KvCache, Vec<Vec<u32>>) {
    let pages_each = tokens.div_ceil(PAGE_TOKENS);
    let pages = (0..sequences)
        .map(|sequence| (0..pages_each).map(|page| (page * sequences + sequence) as u32).collect())
        .collect();
    (KvCache::new(decoder.kv_layout(), pages_each * sequences), pages)
}

/// Runs all `prompts` side by side, `chunk` tokens of each a step; `wanted` names positions whose logits
/// come back, by sequence.
fn run(
    decoder: &mut dyn Decoder,
    prompts: &[&[u32]],
    wanted: &[Vec<usize>],
    chunk: usize,
) -> Vec<Vec<Vec<f32>>> {
    let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap();
    let (mut kv, pages) = cache(decoder, prompts.len(), longest);
    let mut logits = Tensor::default();
    let mut results = vec![Vec::new(); prompts.len()];
    for start in (0..longest).step_by(chunk) {
        let mut batch = Batch::default();
        let mut owners = Vec::new();
        for (sequence, prompt) in prompts.iter().enumerate() {
            let end = (start + chunk).min(prompt.len());
            if start >= end {
                continue;
            }
            let first_row = batch.tokens.len();
            batch.tokens.extend(&prompt[start..end]);
            batch.positions.extend(start as u32..end as u32);
            let rows = end - start;
            batch.sequences.push(PagedRows { first_row, rows, past: start, pages: pages[sequence].clone() });
            for position in wanted[sequence].iter().filter(|position| (start..end).contains(position)) {
                batch.logit_rows.push((first_row + position - start) as u32);
                owners.push(sequence);
            }
        }
        decoder.forward(&batch, &mut kv, &mut logits);
        assert_eq!((logits.rows(), logits.columns()), (owners.len(), decoder.vocabulary()));
        for (row, owner) in owners.into_iter().enumerate() {
            results[owner].push(logits.row(row).to_vec());
        }
    }
    results
}

/// Largest difference as a part of the largest expected value.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0f32, |max, value| max.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| if a.is_finite() { (a - b).abs() } else { f32::MAX });
    worst.fold(0.0, f32::max) / scale
}

fn positions(case: &Case) -> Vec<usize> {
    case.logits.iter().map(|(position, _)| *position).collect()
}

#[test]
fn decoders_give_their_golden_logits_in_any_chunks() {
    for golden in decoder_goldens() {
        let mut worst = 0f32;
        for case in decoder_cases(&golden) {
            let mut decoder = load_decoder(&golden.weights, case.context_tokens);
            for chunk in [case.tokens.len(), 3, 1] {
                let found = run(decoder.as_mut(), &[&case.tokens], &[positions(&case)], chunk);
                for (values, (position, expected)) in found[0].iter().zip(&case.logits) {
                    let error = error(values, expected);
                    assert!(
                        error <= golden.tolerance,
                        "{}: {} tokens by {chunk}, position {position}: off by {error}",
                        golden.name,
                        case.tokens.len()
                    );
                    worst = worst.max(error);
                }
            }
        }
        println!("{}: largest error {worst:.1e} of the logits' scale", golden.name);
    }
}

#[test]
fn decoders_keep_sequences_of_a_batch_apart() {
    for golden in decoder_goldens() {
        let mut cases = decoder_cases(&golden);
        let context_tokens = cases.iter().map(|case| case.context_tokens).max().unwrap();
        cases.retain(|case| case.context_tokens == context_tokens);
        let mut decoder = load_decoder(&golden.weights, context_tokens);
        let prompts: Vec<&[u32]> = cases.iter().map(|case| case.tokens.as_slice()).collect();
        let wanted: Vec<Vec<usize>> = cases.iter().map(positions).collect();
        for chunk in [64, 7] {
            let found = run(decoder.as_mut(), &prompts, &wanted, chunk);
            for (rows, case) in found.iter().zip(&cases) {
                assert_eq!(rows.len(), case.logits.len());
                for (values, (position, expected)) in rows.iter().zip(&case.logits) {
                    let error = error(values, expected);
                    assert!(
                        error <= golden.tolerance,
                        "{}: position {position}: off by {error}",
                        golden.name
                    );
                }
            }
        }
    }
}

#[test]
fn encoders_give_their_golden_vectors_alone_and_together() {
    for golden in encoder_goldens() {
        let Network::Encoder(mut encoder) = try_load(&golden.weights, None).unwrap().network else {
            panic!("{} is a decoder", golden.name)
        };
        let tokens: Vec<Vec<u32>> = golden.cases.iter().map(|case| ids(&case["tokens"])).collect();
        let together: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let mut out = Tensor::default();
        let mut check = |sequences: &[&[u32]], first: usize| {
            encoder.forward(sequences, &mut out);
            assert_eq!((out.rows(), out.columns()), (sequences.len(), encoder.dimensions()));
            for row in 0..sequences.len() {
                let mut expected = floats(&golden.cases[first + row]["vector"]);
                if golden.weights.is_file() {
                    // GGUF cannot say that vectors keep their length.
                    let length = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
                    expected.iter_mut().for_each(|value| *value /= length);
                }
                let (error, cosine) = (error(out.row(row), &expected), cosine(out.row(row), &expected));
                assert!(error <= TOLERANCE && cosine >= 0.99999, "{}: {error}, {cosine}", golden.name);
            }
        };
        check(&together, 0);
        for (index, sequence) in together.iter().enumerate() {
            check(&[sequence], index);
        }
    }
}

#[test]
fn every_architecture_has_a_golden_model_in_every_form_it_is_read_from() {
    let mut covered = BTreeSet::new();
    for golden in golden_files() {
        let gguf = golden.weights.is_file();
        covered.insert((try_load(&golden.weights, None).unwrap().info.architecture, gguf));
    }
    for row in ARCHITECTURES {
        assert!(covered.contains(&(row.name.to_owned(), false)), "{}: safetensors", row.name);
        let gguf = covered.contains(&(row.name.to_owned(), true));
        assert!(gguf || row.gguf.is_empty(), "{}: GGUF", row.name);
    }
}
