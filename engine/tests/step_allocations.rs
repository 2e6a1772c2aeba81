//! A warm step allocates nothing, on any thread: every decoder of the golden models, a prompt chunk and
//! decodes together. One test in a file of its own, as the count is the whole process's.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use engine::Batch;
use engine::batch::Decoder;
use engine::model::Network;
use kernels::allocations::CountingAllocator;
use kernels::{KvCache, PagedRows, Tensor};
use support::{goldens, try_load};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Three decodes beside a chunk of 20 rows.
fn mixed_batch(step: usize) -> Batch {
    let past = |sequence: usize| 3 + sequence + step;
    let mut sequences: Vec<PagedRows> =
        (0..3).map(|i| PagedRows { first_row: i, rows: 1, past: past(i), pages: vec![i as u32] }).collect();
    sequences.push(PagedRows { first_row: 3, rows: 20, past: 0, pages: vec![3] });
    let positions = (0..3).map(|i| past(i) as u32).chain(0..20).collect();
    Batch { tokens: (0..23).map(|i| 5 + i).collect(), positions, sequences, logit_rows: vec![0, 1, 2, 22] }
}

fn steps(decoder: &mut dyn Decoder, kv: &mut KvCache, logits: &mut Tensor, batches: &[Batch]) -> usize {
    let before = CountingAllocator::count();
    for batch in batches {
        decoder.forward(batch, kv, logits);
    }
    CountingAllocator::count() - before
}

#[test]
fn a_warm_step_allocates_nothing() {
    let batches: Vec<Batch> = (0..4).map(mixed_batch).collect();
    let mut checked = 0;
    for folder in std::fs::read_dir(goldens().join("models")).unwrap() {
        let folder = folder.unwrap().path();
        if !folder.join("config.json").is_file() {
            continue;
        }
        let mut model = try_load(&folder, None).unwrap();
        let Network::Decoder(decoder) = &mut model.network else { continue };
        let mut kv = model.device.kv_cache(decoder.kv_layout(), 4);
        let mut logits = Tensor::default();
        assert!(steps(decoder.as_mut(), &mut kv, &mut logits, &batches) > 0, "the counter counts");
        assert_eq!(steps(decoder.as_mut(), &mut kv, &mut logits, &batches), 0, "{}", folder.display());
        checked += 1;
    }
    assert!(checked >= 6, "{checked} decoders");
}
