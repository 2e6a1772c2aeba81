//! Prefixes that are found again: by whom, after what, and that nothing of one tenant reaches another.

use std::path::Path;

use kernels::{KvCache, KvLayout, Tensor};

use super::*;
use crate::batch::{Batch, Decoder};
use crate::model::Network;
use crate::pages::store::{PageStore, StoreOptions};
use crate::prefix::{PrefixOptions, PublicContent, PublicPrefix};
use crate::request::Caller;
use crate::testing::{MockDecoder, page_keys};

fn of_tenant(tenant: &str, request: Request) -> Request {
    Request { caller: Caller { tenant: tenant.into(), ..Caller::default() }, ..request }
}

fn options(prefix: PrefixOptions) -> EngineOptions {
    EngineOptions { prefix, ..EngineOptions::default() }
}

/// A text of so many tokens that differ.
fn text(length: usize) -> String {
    (0..length).map(|i| char::from(b'A' + (i * i / 7 % 50) as u8)).collect()
}

/// Tokens generated, and how many of the prompt were found.
fn ask_cached(engine: &Engine, request: Request) -> (Vec<u32>, usize) {
    let answer = ask(engine, request);
    let cached = answer.finished.as_ref().expect("it finishes").cached_tokens;
    (answer.tokens, cached)
}

#[test]
fn full_pages_are_found_by_the_same_tenant_only() {
    let content = PublicContent::Text(text(70));
    let public = PublicPrefix { model: None, tenants: Vec::new(), content };
    for (public, expected) in [(vec![], [0, 96, 0, 96, 0]), (vec![public], [0, 96, 64, 96, 64])] {
        let engine =
            start_with(MockOptions::default(), options(PrefixOptions { public, ..PrefixOptions::default() }));
        let answers: Vec<(Vec<u32>, usize)> = ["a", "a", "b", "b", "c"]
            .map(|tenant| ask_cached(&engine, of_tenant(tenant, request(&text(100)))))
            .into();
        assert_eq!(answers.iter().map(|(_, cached)| *cached).collect::<Vec<usize>>(), expected);
        assert!(answers.iter().all(|(tokens, _)| *tokens == answers[0].0));
        assert_eq!(engine.stats().reused_prompt_tokens, expected.iter().sum::<usize>() as u64);
    }
}

#[test]
fn a_retained_prompt_outlives_a_flood_and_others_do_not() {
    use crate::request::{CacheHint, Retention};
    for (retention, expected) in [(Retention::Usual, 0), (Retention::Memory, 0), (Retention::Day, 96)] {
        let engine = start_with(MockOptions::default(), with_pages(32));
        let cache = CacheHint { key: "mine".to_owned(), retention, ..CacheHint::default() };
        let kept = Request { cache, ..request(&text(100)) };
        assert_eq!(ask_cached(&engine, kept.clone()).1, 0);
        for first in 'a'..='t' {
            ask(&engine, of_tenant("other", request(&format!("{first}{}", text(99)))));
        }
        assert_eq!(ask_cached(&engine, of_tenant("other", kept.clone())).1, 0, "it is still nobody else's");
        assert_eq!(ask_cached(&engine, kept).1, expected, "{retention:?}");
    }
}

#[test]
fn a_salt_divides_a_tenant_and_what_is_not_cached_is_neither_found_nor_left() {
    use crate::request::CacheHint;
    let engine = start(letters());
    let ask_with = |tenant: &str, salt: &str, off: bool| {
        let cache = CacheHint { salt: salt.to_owned(), off, ..CacheHint::default() };
        ask_cached(&engine, of_tenant(tenant, Request { cache, ..request(&text(100)) })).1
    };
    for (tenant, salt, off, expected) in [
        ("a", "", true, 0),
        ("a", "", false, 0),
        ("a", "", false, 96),
        ("a", "", true, 0),
        ("a", "alice", false, 0),
        ("a", "bob", true, 0),
        ("a", "bob", false, 0),
        ("a", "alice", false, 96),
        ("b", "alice", false, 0),
    ] {
        assert_eq!(ask_with(tenant, salt, off), expected, "{tenant}, salt {salt:?}, off: {off}");
    }
}

#[test]
fn what_the_last_step_filled_is_found() {
    let engine = start(letters());
    let one = |length| Request { max_new_tokens: 1, ..request(&text(length)) };
    for (length, expected) in [(700, 0), (700, 672), (721, 672), (721, 704)] {
        assert_eq!(ask_cached(&engine, one(length)).1, expected, "{length} tokens");
    }
}

#[test]
fn something_is_always_computed_and_scored_prompts_are_whole() {
    let engine = start(letters());
    for (length, expected) in [(1, 0), (32, 0), (33, 32), (64, 32), (65, 64)] {
        ask(&engine, request(&text(length)));
        assert_eq!(ask_cached(&engine, request(&text(length))).1, expected, "{length} tokens");
    }
    let scored = Request { prompt_logprobs: Some(1), ..request(&text(65)) };
    let answer = ask(&engine, scored);
    assert_eq!(answer.prompt_logprobs.expect("asked for").len(), 65);
    assert_eq!(answer.finished.unwrap().cached_tokens, 0);
}

#[test]
fn a_conversation_goes_on_from_what_was_generated() {
    let engine = start(letters());
    let first = ask(&engine, Request { max_new_tokens: 60, ..request(&text(50)) });
    let mut prompt = tokens(&text(50));
    prompt.extend(&first.tokens);
    prompt.extend(tokens("And then?"));
    let turn = Request { prompt, ..request("") };
    let (again, cached) = ask_cached(&engine, turn.clone());
    assert_eq!(cached, 96, "three of 119 tokens' pages are full; most of the last was generated");
    let without = start_with(
        MockOptions::default(),
        options(PrefixOptions { enabled: false, ..PrefixOptions::default() }),
    );
    assert_eq!(ask_cached(&without, turn), (again, 0));
}

#[test]
fn choices_and_agents_that_come_together_compute_a_prompt_once() {
    let mock = MockOptions { row_time: Duration::from_micros(20), ..MockOptions::default() };
    let engine = start_with(mock, EngineOptions::default());
    let seeded = |seed: u64| {
        let sampling = SamplingParams { seed: Some(seed), temperature: 1.5, ..SamplingParams::default() };
        Request { sampling, ..request(&text(1000)) }
    };
    let streams: Vec<EventStream> = (0..16).map(|seed| engine.submit(seeded(seed)).unwrap()).collect();
    let together: Vec<Answer> = streams.into_iter().map(read).collect();
    let stats = engine.stats();
    assert_eq!((stats.prompt_tokens, stats.reused_prompt_tokens), (16_000, 15 * 31 * 32));
    let without = start_with(
        MockOptions::default(),
        options(PrefixOptions { enabled: false, ..PrefixOptions::default() }),
    );
    for (seed, answer) in (0..).zip(together) {
        assert_eq!(answer.tokens, ask(&without, seeded(seed)).tokens, "seed {seed}");
    }
}

#[test]
fn a_leader_that_is_cancelled_holds_up_nobody() {
    let mock = MockOptions { row_time: Duration::from_micros(50), ..MockOptions::default() };
    let engine = start_with(mock, EngineOptions::default());
    let leader = engine.submit(request(&text(3000))).unwrap();
    wait_until("the leader is at work", || engine.stats().steps > 0);
    let follower = engine.submit(request(&text(3000))).unwrap();
    wait_until("the follower is admitted", || engine.stats().running_sequences == 2);
    drop(leader);
    let finished = read(follower).finished.expect("it finishes");
    assert!(finished.cached_tokens > 0, "what the leader had done was not lost");
}

fn open(folder: &Path, bytes_max: u64) -> Option<PageStore> {
    let options = StoreOptions { folder: folder.to_owned(), bytes_max, key: None };
    Some(PageStore::open(options).expect("the folder is ours"))
}

/// A model slow enough for reading pages to be worth it.
fn slow() -> MockOptions {
    MockOptions { row_time: Duration::from_millis(1), ..MockOptions::default() }
}

#[test]
fn prefixes_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let store = open(folder.path(), 1 << 20);
        start_with(slow(), options(PrefixOptions { store, ..PrefixOptions::default() }))
    };
    let engine = start();
    let (first, cached) = ask_cached(&engine, of_tenant("a", request(&text(100))));
    assert_eq!(cached, 0);
    drop(engine);

    let engine = start();
    assert_eq!(ask_cached(&engine, of_tenant("b", request(&text(100)))), (first.clone(), 0));
    assert_eq!(ask_cached(&engine, of_tenant("a", request(&text(100)))), (first.clone(), 96));
    assert_eq!(engine.stats().kv_pages_restored, 3);
    drop(engine);

    // Files that somebody has changed are computed again.
    let mut files = 0;
    for model in folder.path().read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        for file in model.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let mut record = std::fs::read(&file).unwrap();
            *record.last_mut().unwrap() ^= 1;
            std::fs::write(&file, record).unwrap();
            files += 1;
        }
    }
    assert!(files > 3);
    assert_eq!(ask_cached(&start(), of_tenant("a", request(&text(100)))), (first, 0));
}

#[test]
fn of_a_prompt_that_is_cut_short_the_head_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    // Room for three pages.
    let start = || {
        let store = open(folder.path(), 3 * PageStore::file_bytes(KV_LAYOUT.page_bytes()));
        start_with(slow(), options(PrefixOptions { store, ..PrefixOptions::default() }))
    };
    let engine = start();
    let mut running = engine.submit(Request { max_new_tokens: 3000, ..request(&text(200)) }).unwrap();
    assert!(matches!(running.next_blocking(), Some(Event::Token(_))), "its prompt is in the cache");
    drop(engine);
    assert_eq!(read(running).reason(), FinishReason::Cancelled);
    assert_eq!(ask_cached(&start(), request(&text(200))).1, 96);
}

#[test]
fn what_memory_has_no_room_for_comes_back_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = PrefixOptions { store: open(folder.path(), 1 << 24), ..PrefixOptions::default() };
    // Two conversations do not fit at a time.
    let engine = start_with(slow(), EngineOptions { prefix, ..with_pages(8) });
    let conversation = |tenant: &str| of_tenant(tenant, request(&text(200)));
    let first = ask(&engine, conversation("a")).tokens;
    for _ in 0..3 {
        assert_eq!(ask(&engine, conversation("b")).tokens, first);
        assert_eq!(ask(&engine, conversation("a")).tokens, first);
    }
    let stats = engine.stats();
    assert!(stats.kv_evictions > 6 && stats.kv_pages_restored > 6, "{stats:?}");
    assert_eq!(stats.reused_prompt_tokens, 5 * 192);
}

/// A model that looks at the whole cache in every step: every page holds one tenant's tokens or none,
/// and a sequence's pages its own tenant's.
struct Guard {
    inner: MockDecoder,
}

impl Guard {
    /// The token that a page holds; each tenant says only one.
    fn marker(kv: &KvCache, page: u32) -> Option<u32> {
        let keys = page_keys(kv, page).into_iter().filter(|&key| key > 0);
        let mut found: Vec<u32> = keys.map(|key| key - 1).collect();
        found.dedup();
        assert!(found.len() < 2, "page {page} holds tokens of {found:?}");
        found.pop()
    }
}

impl Decoder for Guard {
    fn kv_layout(&self) -> KvLayout {
        self.inner.kv_layout()
    }

    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }

    fn weight_bytes(&self) -> usize {
        self.inner.weight_bytes()
    }

    fn forward(&mut self, batch: &Batch, kv: &mut KvCache, logits: &mut Tensor) {
        self.inner.forward(batch, kv, logits);
        (0..kv.pages() as u32).for_each(|page| _ = Guard::marker(kv, page));
        for sequence in &batch.sequences {
            let token = batch.tokens[sequence.first_row];
            for &page in &sequence.pages {
                assert_eq!(Guard::marker(kv, page), Some(token), "page {page} is another tenant's");
            }
        }
    }
}

#[test]
fn no_page_ever_holds_two_tenants_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let repeat_last: NextToken = Arc::new(|tokens| *tokens.last().expect("sequences are not empty"));
    let mock = MockOptions { next: repeat_last, ..MockOptions::default() };
    for store in [None, open(folder.path(), 1 << 14)] {
        let mut model = chat_model(mock.clone());
        model.network = Network::Decoder(Box::new(Guard { inner: MockDecoder::new(mock.clone()) }));
        let prefix = PrefixOptions { store, ..PrefixOptions::default() };
        let engine = Engine::start(vec![model], EngineOptions { prefix, ..with_pages(20) }).unwrap();
        for round in 0..12u32 {
            let streams: Vec<EventStream> = (0..8u32)
                .map(|i| {
                    let tenant = (i + round) % 5;
                    let prompt = vec![65 + tenant; 20 + (i * 29 + round * 17) as usize % 200];
                    let request = Request { prompt, max_new_tokens: 40, ..request("") };
                    engine.submit(of_tenant(&tenant.to_string(), request)).unwrap()
                })
                .collect();
            for (i, stream) in (0..).zip(streams) {
                let answer = read(stream);
                assert_eq!(answer.failed, None);
                assert_eq!(answer.tokens, vec![65 + (i + round) % 5; 40]);
            }
        }
        assert!(engine.stats().kv_evictions > 20 && engine.stats().reused_prompt_tokens > 0);
    }
}
