//! Models that come and go beside running requests, on models without weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::request::{Event, FinishReason, Finished, SamplingParams, StopCriteria};
use crate::testing::{KV_LAYOUT, MockOptions, chat_model, embedding_model, repeats, tokens};
use crate::{EmbedRequest, EventStream, ModelState, Request};

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cache of 64 pages, what every model here gets.
fn cache_bytes() -> usize {
    64 * KV_LAYOUT.page_bytes()
}

/// Room for models whose weights and caches take `bytes`.
fn with_memory(bytes: usize) -> EngineOptions {
    EngineOptions { memory_bytes_max: bytes, kv_bytes_max: cache_bytes(), ..EngineOptions::default() }
}

/// Says `word` over and over.
fn model(name: &str, weight_bytes: usize, word: &str) -> LoadedModel {
    let next = repeats(word);
    let step_time = Duration::from_micros(200);
    chat_model(MockOptions { name: name.to_owned(), weight_bytes, next, step_time, ..MockOptions::default() })
}

fn load(engine: &Engine, name: &str, weight_bytes: usize, word: &str) -> Result<ModelInfo, EngineError> {
    let plan = LoadPlan { name, weight_bytes, pinned: false };
    engine.load(&plan, || Ok(model(name, weight_bytes, word)))
}

fn request(model: &str, max_new_tokens: usize) -> Request {
    Request {
        model: model.to_owned(),
        prompt: tokens("abc"),
        max_new_tokens,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        stop: StopCriteria::default(),
        logprobs: None,
        cache: crate::CacheHint::default(),
        prompt_logprobs: None,
        caller: crate::Caller::default(),
    }
}

/// What a stream said, and how it ended.
fn read(stream: EventStream) -> (String, FinishReason) {
    let (text, finished) = read_whole(stream);
    (text, finished.reason)
}

/// What a stream said, and how many tokens of its prompt were found.
fn read_cached(stream: EventStream) -> (String, usize) {
    let (text, finished) = read_whole(stream);
    (text, finished.cached_tokens)
}

fn read_whole(mut stream: EventStream) -> (String, Finished) {
    let mut text = String::new();
    while let Some(event) = stream.next_blocking() {
        match event {
            Event::Token(token) => text.push_str(&token.text),
            Event::Finished(finished) => return (text + &finished.text, finished),
            other => panic!("{other:?}"),
        }
    }
    panic!("a stream without an end")
}

/// Waits until it runs.
fn started(engine: &Engine, request: Request) -> EventStream {
    let mut stream = engine.submit(request).unwrap();
    assert!(matches!(stream.next_blocking(), Some(Event::Token(_))));
    stream
}

/// Asks for two tokens, and waits until the model is idle again.
fn use_once(engine: &Engine, name: &str) {
    read(engine.submit(request(name, 2)).unwrap());
    let is_busy = |status: ModelStatus| status.info.name == name && status.requests > 0;
    while engine.residents().into_iter().any(is_busy) {
        std::thread::yield_now();
    }
}

fn names(engine: &Engine) -> Vec<String> {
    engine.models().into_iter().map(|model| model.name).collect()
}

#[test]
fn a_model_is_loaded_and_unloaded_while_another_runs() {
    let engine = Engine::start(vec![model("first", 100, "1")], with_memory(1 << 20)).unwrap();
    let stream = started(&engine, request("first", 2000));
    load(&engine, "second", 200, "2").unwrap();
    assert_eq!(names(&engine), ["first", "second"]);
    assert_eq!(engine.stats().memory_bytes_used, 300 + 2 * cache_bytes());
    assert_eq!(read(engine.submit(request("second", 3)).unwrap()).0, "222");
    let unloading = engine.unload("second", UnloadMode::Finish).unwrap();
    assert_eq!(unloading.bytes(), 200 + cache_bytes());
    assert!(unloading.wait(PATIENCE));
    assert_eq!(engine.stats().memory_bytes_used, 100 + cache_bytes());
    assert!(matches!(engine.submit(request("second", 3)), Err(EngineError::UnknownModel(_))));
    let (text, reason) = read(stream);
    assert_eq!((text.len(), reason), (1999, FinishReason::Length), "it never noticed");
}

#[test]
fn what_runs_finishes_before_its_model_goes() {
    let engine = Engine::start(vec![model("one", 0, "1")], with_memory(1 << 20)).unwrap();
    let stream = started(&engine, request("one", 400));
    let unloading = engine.unload("one", UnloadMode::Finish).unwrap();
    assert!(matches!(engine.submit(request("one", 3)), Err(EngineError::ModelUnloading(_))));
    assert!(matches!(engine.unload("one", UnloadMode::Finish), Err(EngineError::ModelUnloading(_))));
    let status = engine.residents().remove(0);
    assert_eq!((status.state, status.requests, status.kv_pages), (ModelState::Unloading, 1, 64));
    let (text, reason) = read(stream);
    assert_eq!((text.len(), reason), (399, FinishReason::Length));
    assert!(unloading.wait(PATIENCE));
    assert!(engine.residents().is_empty());
    assert_eq!(engine.stats().memory_bytes_used, 0);
}

#[test]
fn a_cancelling_unload_does_not_wait() {
    let vectors = embedding_model("vectors", 16, Duration::from_millis(200));
    let engine = Engine::start(vec![model("one", 0, "1"), vectors], with_memory(1 << 20)).unwrap();
    let stream = started(&engine, request("one", 2000));
    let finishing = engine.unload("one", UnloadMode::Finish).unwrap();
    // Thought better of.
    let cancelling = engine.unload("one", UnloadMode::Cancel).unwrap();
    assert!(cancelling.wait(PATIENCE) && finishing.wait(PATIENCE));
    assert_eq!(read(stream).1, FinishReason::Unloaded);
    let inputs = vec![vec![7; 16]; 1000];
    let reply = engine
        .embed(EmbedRequest { model: "vectors".to_owned(), caller: crate::Caller::default(), inputs })
        .unwrap();
    assert!(engine.unload("vectors", UnloadMode::Cancel).unwrap().wait(PATIENCE));
    assert!(matches!(reply.wait_blocking(), Err(EngineError::ModelUnloading(_))));
    for mode in [UnloadMode::Finish, UnloadMode::Cancel] {
        assert!(matches!(engine.unload("nobody", mode), Err(EngineError::UnknownModel(_))));
    }
}

#[test]
fn a_new_version_takes_the_name_and_the_old_one_finishes() {
    let engine = Engine::start(vec![model("one", 100, "1")], with_memory(1 << 20)).unwrap();
    let old = started(&engine, request("one", 400));
    // Somebody who made a prompt with the old version's tokenizer and has not sent it yet.
    let lease = engine.model("one").unwrap();
    load(&engine, "one", 300, "2").unwrap();
    assert_eq!(read(engine.submit(request("one", 4)).unwrap()).0, "2222");
    assert_eq!(read(engine.submit_to(&lease, request("one", 4)).unwrap()).0, "1111");
    let states = |engine: &Engine| -> Vec<(ModelState, usize)> {
        engine.residents().iter().map(|status| (status.state, status.weight_bytes)).collect()
    };
    assert_eq!(states(&engine), [(ModelState::Unloading, 100), (ModelState::Ready, 300)]);
    assert_eq!(names(&engine), ["one"]);
    let (text, reason) = read(old);
    assert_eq!((text, reason), ("1".repeat(399), FinishReason::Length));
    // The lease alone keeps it now.
    assert_eq!(states(&engine).len(), 2);
    let instance = lease.served().instance;
    drop(lease);
    assert!(engine.inner.residents.wait_gone(instance, PATIENCE));
    assert_eq!(states(&engine), [(ModelState::Ready, 300)]);
}

/// Pages are named where a prompt is submitted: names of one version are never looked up in the next one's cache.
#[test]
fn a_prompt_made_ready_for_one_version_finds_only_what_that_one_computed() {
    let options = EngineOptions { running_sequences_max: 1, ..with_memory(1 << 20) };
    let engine = Engine::start(vec![model("one", 100, "1")], options).unwrap();
    let long = |tenant: &str| {
        let caller = crate::Caller { tenant: tenant.into(), ..crate::Caller::default() };
        Request { prompt: (0..100).collect(), caller, ..request("one", 4) }
    };
    assert_eq!(read_cached(engine.submit(long("a")).unwrap()), ("1111".to_owned(), 0));
    let running = started(&engine, request("one", 200));
    // These wait for the one place; then their version loses its name.
    let [again, other] = ["a", "b"].map(|tenant| engine.submit(long(tenant)).unwrap());
    let lease = engine.model("one").unwrap();
    load(&engine, "one", 300, "2").unwrap();
    let [new, new_again] = [(); 2].map(|()| read_cached(engine.submit(long("a")).unwrap()));
    assert_eq!((new, new_again), (("2222".to_owned(), 0), ("2222".to_owned(), 96)));
    drop(running);
    assert_eq!(read_cached(again), ("1111".to_owned(), 96));
    assert_eq!(read_cached(other), ("1111".to_owned(), 0));
    assert_eq!(read_cached(engine.submit_to(&lease, long("b")).unwrap()), ("1111".to_owned(), 96));
}

/// The thread may take a new version before the old one is marked: it looks again.
#[test]
fn an_idle_version_goes_however_soon_the_thread_takes_the_next() {
    let engine = Engine::start(vec![model("one", 100, "1")], with_memory(1 << 20)).unwrap();
    let old = engine.model("one").unwrap().served().instance;
    // As the thread tells it; the table is locked while a model is handed over.
    let pages = || engine.inner.stats.lock().unwrap().kv_pages_total;
    let memory = engine.inner.budget.reserve(300 + cache_bytes()).unwrap();
    let next = Prepared { model: model("one", 300, "2"), pages: 64, pinned: false, memory };
    let taken_at_once = |resident| {
        engine.inner.inbox.leave_command(Command::Load(Box::new(resident)))?;
        while pages() < 128 {
            engine.inner.inbox.wake();
            std::thread::yield_now();
        }
        // From here to where it parks.
        (0..10_000).for_each(|_| std::thread::yield_now());
        Ok(())
    };
    engine.add_to_running(next, taken_at_once).unwrap();
    assert!(engine.inner.residents.wait_gone(old, PATIENCE));
    assert_eq!(engine.stats().memory_bytes_used, 300 + cache_bytes());
}

#[test]
fn what_was_counted_of_a_model_stays_when_it_goes() {
    let models = vec![model("goes", 0, "1"), model("stays", 0, "2")];
    let engine = Engine::start(models, with_memory(1 << 20)).unwrap();
    // Prompts of 32 pages out of 64, which have nothing in common.
    for letter in ["a", "b", "c"] {
        let prompt = tokens(&letter.repeat(1000));
        read(engine.submit(Request { prompt, ..request("goes", 2) }).unwrap());
    }
    use_once(&engine, "goes");
    let before = engine.stats().kv_evictions;
    assert!(before > 0);
    assert!(engine.unload("goes", UnloadMode::Finish).unwrap().wait(PATIENCE));
    use_once(&engine, "stays");
    assert_eq!(engine.stats().kv_evictions, before);
}

#[test]
fn a_load_waits_for_memory_that_is_on_its_way_back() {
    let each = 1000 + cache_bytes();
    for _ in 0..20 {
        let models = vec![model("one", 1000, "1"), model("two", 1000, "2")];
        let options = EngineOptions { pin_first_models: true, ..with_memory(2 * each) };
        let engine = Engine::start(models, options).unwrap();
        let bytes = engine.unload("one", UnloadMode::Finish).unwrap().bytes();
        assert_eq!(bytes, each);
        load(&engine, "three", 1000, "3").expect("`one` is as good as gone");
        assert_eq!(names(&engine), ["two", "three"]);
    }
}

#[test]
fn embeddings_finish_before_their_model_goes() {
    let vectors = embedding_model("vectors", 16, Duration::from_millis(5));
    let engine = Engine::start(vec![vectors], EngineOptions::default()).unwrap();
    let inputs = vec![vec![7; 16]; 1000];
    let reply = engine
        .embed(EmbedRequest { model: "vectors".to_owned(), caller: crate::Caller::default(), inputs })
        .unwrap();
    let unloading = engine.unload("vectors", UnloadMode::Finish).unwrap();
    assert_eq!(reply.wait_blocking().unwrap().len(), 1000);
    assert!(unloading.wait(PATIENCE));
}

#[test]
fn idle_models_make_room_the_one_unused_for_longest_first() {
    let each = 1000 + cache_bytes();
    let engine = Engine::start(vec![model("pinned", 1000, "p")], with_memory(4 * each)).unwrap();
    for name in ["a", "b", "c"] {
        load(&engine, name, 1000, name).unwrap();
    }
    assert_eq!(engine.stats().memory_bytes_used, 4 * each);
    // `a` is used last.
    use_once(&engine, "a");
    load(&engine, "d", 1000, "d").unwrap();
    assert_eq!(names(&engine), ["pinned", "a", "c", "d"]);
    // Two have to go; one that runs does not, however long ago it began.
    let running = started(&engine, request("c", 2000));
    use_once(&engine, "a");
    load(&engine, "e", 1000 + each, "e").unwrap();
    assert_eq!(names(&engine), ["pinned", "c", "e"]);
    assert_eq!(read(running).1, FinishReason::Length);
}

#[test]
fn what_cannot_fit_is_refused_with_the_numbers_and_unloads_nothing() {
    let each = 1000 + cache_bytes();
    let engine = Engine::start(vec![model("pinned", 1000, "p")], with_memory(3 * each)).unwrap();
    load(&engine, "idle", 1000, "i").unwrap();
    // (what is known before, what it turns out to be)
    for (planned, real) in [(3 * each, 3 * each), (0, 3 * each), (2 * each + 1, 2 * each + 1)] {
        let plan = LoadPlan { name: "large", weight_bytes: planned, pinned: false };
        let refused = engine.load(&plan, || Ok(model("large", real, "l"))).err().unwrap();
        let EngineError::NoMemory { available, total, .. } = refused else { panic!("{refused}") };
        assert_eq!((available, total), (each, 3 * each));
    }
    assert_eq!(names(&engine), ["pinned", "idle"]);
    assert_eq!(engine.stats().memory_bytes_used, 2 * each, "nothing of the refused one is left");
    let small = Engine::start(vec![model("one", 1000, "1")], with_memory(1000));
    assert!(matches!(small.err().unwrap(), EngineError::NoMemory { available: 0, .. }));
    let models = vec![model("one", 600, "1"), model("two", 600, "2")];
    assert!(matches!(Engine::start(models, with_memory(1000)), Err(EngineError::NoMemory { .. })));
}

#[test]
fn a_version_that_does_not_fit_beside_the_old_one_says_what_to_do() {
    let mib = 1 << 20;
    let options = EngineOptions { memory_bytes_max: 10 * mib, ..with_memory(0) };
    let engine = Engine::start(vec![model("one", 6 * mib, "1")], options).unwrap();
    let refused = load(&engine, "one", 6 * mib, "2").err().unwrap().to_string();
    for part in ["`one` needs 6 MiB", "3 of the budget's 10", "3 MiB are missing", "unload `one` first"] {
        assert!(refused.contains(part), "{part} is not in: {refused}");
    }
    assert_eq!(read(engine.submit(request("one", 3)).unwrap()).0, "111", "the old one answers");
    assert!(engine.unload("one", UnloadMode::Finish).unwrap().wait(PATIENCE));
    load(&engine, "one", 6 * mib, "2").unwrap();
    assert_eq!(read(engine.submit(request("one", 3)).unwrap()).0, "222");
}

#[test]
fn a_failed_load_changes_nothing() {
    let engine = Engine::start(vec![model("one", 10, "1")], with_memory(1 << 20)).unwrap();
    let plan = LoadPlan { name: "one", weight_bytes: 1000, pinned: false };
    let failed: Result<_, EngineError> =
        engine.load(&plan, || Err(EngineError::Failed("on purpose".to_owned())));
    assert!(matches!(failed, Err(EngineError::Failed(_))));
    let misnamed: Result<_, EngineError> = engine.load(&plan, || Ok(model("other", 10, "o")));
    assert!(matches!(misnamed, Err(EngineError::InvalidParameter { .. })));
    assert_eq!(engine.stats().memory_bytes_used, 10 + cache_bytes());
    assert_eq!(read(engine.submit(request("one", 3)).unwrap()).0, "111");
    engine.drain(Duration::ZERO);
    assert!(matches!(load(&engine, "late", 10, "l"), Err(EngineError::Stopped)));
    assert_eq!(names(&engine), ["one"]);
}

#[test]
fn requests_of_all_versions_end_well_while_versions_are_swapped() {
    let engine = Engine::start(vec![model("one", 10, "x")], with_memory(1 << 20)).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let client = {
        let (engine, over) = (engine.clone(), Arc::clone(&over));
        move || {
            let mut answers = 0;
            while answers == 0 || !over.load(Ordering::Relaxed) {
                let (text, reason) = read(engine.submit(request("one", 20)).unwrap());
                assert_eq!(reason, FinishReason::Length);
                assert!(text.bytes().all(|byte| byte == text.as_bytes()[0]), "one version an answer: {text}");
                answers += 1;
            }
            answers
        }
    };
    let clients: Vec<_> = (0..3).map(|_| std::thread::spawn(client.clone())).collect();
    for version in ["a", "b", "c", "d", "e", "f"] {
        load(&engine, "one", 10, version).unwrap();
        // Until it answers.
        assert_eq!(read(engine.submit(request("one", 3)).unwrap()).0, version.repeat(3));
    }
    over.store(true, Ordering::Relaxed);
    let answers: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(answers.iter().all(|&answers| answers > 0), "{answers:?}");
}

#[test]
fn caches_take_a_share_of_the_memory_but_no_more_than_can_be_used() {
    let format = kernels::KvFormat::Int16;
    let layout = kernels::KvLayout { layers: 2, kv_heads: 3, head_dim: 64, format };
    let page = layout.page_bytes();
    let wish = |kv_bytes_max, running_sequences_max, context| {
        let options = EngineOptions { kv_bytes_max, running_sequences_max, ..EngineOptions::default() };
        CacheWish::new(layout.page_bytes(), context, &options).ok()
    };
    // Limits of the options: bytes, sequences, context; and the pages of memory without end.
    for (kv_bytes_max, sequences, context, pages) in [
        (10 * page, 64, 8192, 10),
        (10 * page + page - 1, 64, 8192, 10),
        (1000 * page, 2, 100, 8),
        (usize::MAX, 64, 8192, 64 * 256),
    ] {
        let wish = wish(kv_bytes_max, sequences, context).unwrap();
        assert_eq!(wish.pages(usize::MAX, 1, 50), pages);
    }
    assert!(wish(page - 1, 64, 8192).is_none());
    // A context of 100 pages; pages of memory, models, share; and what the cache gets.
    let wish = wish(usize::MAX, 64, 3200).unwrap();
    for (free, models, share, pages) in [
        (1000, 1, 50, 500),
        (1000, 2, 50, 250),
        (1000, 1, 100, 1000),
        (1000, 1, 0, 100),
        (150, 1, 50, 100),
        (60, 1, 50, 60),
        (60, 2, 50, 30),
        (0, 1, 50, 0),
    ] {
        assert_eq!(wish.pages(free * page, models, share), pages, "{free} {models} {share}");
    }
    assert_eq!(wish.least(), 64);
}

#[test]
fn copies_on_their_way_to_the_disk_are_in_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let options = crate::StoreOptions { folder: folder.path().to_owned(), bytes_max: 1 << 20, key: None };
    let store = Some(crate::PageStore::open(options).unwrap());
    let prefix = crate::PrefixOptions { store, ..crate::PrefixOptions::default() };
    let copies = DiskLimits::of(KV_LAYOUT.page_bytes()).copies_max() * KV_LAYOUT.page_bytes();
    // (Room beside weights and cache, whether there is a store, what both models take)
    for (prefix, copies) in [(crate::PrefixOptions::default(), 0), (prefix, copies)] {
        let memory = 2 * (1000 + cache_bytes() + copies);
        let options = EngineOptions { prefix, ..with_memory(memory) };
        let engine = Engine::start(vec![model("first", 1000, "a")], options).unwrap();
        assert_eq!(engine.stats().memory_bytes_used, memory / 2);
        load(&engine, "second", 1000, "b").unwrap();
        assert_eq!(engine.stats().memory_bytes_used, memory);
        assert_eq!(engine.residents()[1].kv_pages, 64, "a whole cache");
    }
}
