//! `janus serve --kv-store` killed in the middle of its work, again and again on the same folder: it starts,
//! answers as a server without a store does, finds pages, and none of them is broken.
//!
//! `KILL_SEED=n cargo test -p gateway --test cli killed` has the same moments.

use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::real_models;
use super::served::{Served, post};
use super::{janus, random::Random};

const ROUNDS: usize = 4;

/// New prompts of each round, of some four pages each, more than the cache has room for. Their pages are
/// written when they are evicted, and at once where the prompt asks for that.
const PROMPTS: usize = 4;

/// A server is killed no later than this after it has got to work, or has answered.
const MOMENT_MAX: Duration = Duration::from_millis(400);

fn request(prompt: usize) -> Value {
    let text: String =
        (0..10).map(|line| format!("{prompt} cats, {line} dogs and {line} more owls, ")).collect();
    let mut body = json!({
        "model": "tiny", "prompt": text, "max_tokens": 4, "ignore_eos": true, "temperature": 0, "logprobs": 1,
    });
    if prompt.is_multiple_of(2) {
        body["prompt_cache_retention"] = "24h".into();
    }
    body
}

fn server(home: &Path, model: &str, store: Option<&Path>) -> Served {
    let mut command: Command = janus(home);
    command.args(["serve", "--model", model, "--threads", "1", "--context", "256"]);
    // Some 10 pages.
    command.args(["--set", "engine.kv_mib=8"]);
    if let Some(store) = store {
        command.arg("--kv-store").arg(store);
    }
    Served::start(&mut command)
}

/// What a prompt is answered, bit by bit, and how many of its tokens were found.
fn ask(server: &Served, prompt: usize) -> (Value, u64) {
    let mut answer = server.post("/v1/completions", &request(prompt));
    let found = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    (answer["choices"].take(), found.expect("usage counts what was found"))
}

/// Three clients ask the prompts of a round, and the server is killed a moment later; in every other round
/// not before it has answered one.
fn kill_at_work(server: Served, round: usize, moment: Duration) {
    let (begun, answered) = (Barrier::new(4), AtomicBool::new(false));
    let ask = |place: usize| {
        let body = request(round * PROMPTS + place % PROMPTS);
        post(&server.address, "/v1/completions", &body).inspect(|_| answered.store(true, Ordering::Relaxed))
    };
    thread::scope(|scope| {
        for client in 0..3 {
            let (begun, ask) = (&begun, &ask);
            scope.spawn(move || {
                begun.wait();
                // Until nobody answers any more.
                (client..).all(|place| ask(place).is_ok());
            });
        }
        begun.wait();
        let start = Instant::now();
        while round % 2 == 1 && !answered.load(Ordering::Relaxed) {
            assert!(start.elapsed() < Duration::from_secs(60), "prompts are answered");
            thread::yield_now();
        }
        thread::sleep(moment);
        server.signal("-KILL");
    });
    assert_eq!(server.wait(), None, "it was killed");
}

/// Files of the store by their extension.
fn files(folder: &Path, extension: &str) -> usize {
    let entries =
        fs::read_dir(folder).expect("the store's folder").map(|entry| entry.expect("an entry").path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => files(&path, extension),
        false => usize::from(path.extension() == Some(OsStr::new(extension))),
    };
    entries.map(count).sum()
}

#[test]
fn a_killed_server_answers_the_same_from_the_pages_it_left() {
    let Some(model) = real_models::real_model(real_models::SMOLLM2) else { return };
    let seed = match std::env::var("KILL_SEED") {
        Ok(seed) => seed.parse().expect("KILL_SEED is a number"),
        Err(_) => RandomState::new().hash_one("moments"),
    };
    println!("replay with KILL_SEED={seed} cargo test -p gateway --test cli killed");
    let mut random = Random(seed | 1 << 32);
    let home = tempfile::tempdir().expect("a folder");
    let (model, store) = (format!("tiny={}", model.display()), home.path().join("store"));
    let plain = server(home.path(), &model, None);
    let expected: Vec<Value> = (0..ROUNDS * PROMPTS).map(|prompt| ask(&plain, prompt).0).collect();
    drop(plain);

    let mut found = 0;
    for round in 0..=ROUNDS {
        let server = server(home.path(), &model, Some(&store));
        // What the last process was at when it was killed; in the end all there ever was.
        let asked = if round < ROUNDS {
            round.saturating_sub(1) * PROMPTS..round * PROMPTS
        } else {
            0..round * PROMPTS
        };
        for prompt in asked {
            let (answer, cached) = ask(&server, prompt);
            assert_eq!(answer, expected[prompt], "prompt {prompt} in round {round}");
            // Prompts have no page in common: what is found now was left by an earlier process.
            found += cached;
        }
        assert_eq!(server.metric("janus_store_refused_total"), 0, "round {round}");
        assert_eq!(server.metric("janus_store_errors_total"), 0, "round {round}");
        if round < ROUNDS {
            let moment = Duration::from_micros(random.below(MOMENT_MAX.as_micros() as usize) as u64);
            println!("round {round}: killed after {moment:?}, {found} tokens were found so far");
            kill_at_work(server, round, moment);
        } else {
            assert_eq!(server.end("-TERM"), Some(0), "the last one ends in order");
        }
    }
    println!("{found} tokens were found in the end, in {} pages", files(&store, "kv"));
    assert!(found > 0, "no page was ever found");
    assert_eq!(files(&store, "part"), 0, "no fragment is left");
}
