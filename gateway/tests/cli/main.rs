//! The binary as a user meets it: texts, exit codes, and a pull that is killed.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod drafts;
mod killed;
#[allow(dead_code, reason = "the engine's tests use all of it")]
#[path = "../../../engine/tests/support/random.rs"]
mod random;
#[path = "../../../engine/tests/support/real_models.rs"]
mod real_models;
mod served;

use self::served::{Served, get, signal};

/// `janus` with a home of its own and no network: the hub is a closed port.
fn janus(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_janus"));
    command
        .env("JANUS_HOME", home)
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env_remove("JANUS_MODELS_FOLDER");
    command
}

/// Tiny models of every architecture.
const GOLDEN_MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/goldens/models");

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Arguments, exit code, words on standard output, words on standard error.
fn check(home: &Path, arguments: &[&str], code: i32, stdout: &str, stderr: &str) -> Output {
    let output = janus(home).args(arguments).output().expect("janus starts");
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{complained}");
    assert!(said.contains(stdout), "{arguments:?} says {said}");
    assert!(complained.contains(stderr), "{arguments:?} complains {complained}");
    assert!(!said.contains('\x1b') && !complained.contains('\x1b'), "no colours off a terminal");
    output
}

#[test]
fn texts_and_exit_codes() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let spoilt = home.join("spoilt.gguf");
    fs::write(&spoilt, b"GGUF\x03\0\0\0junk").expect("a file");
    let spoilt = spoilt.to_str().expect("a plain path");
    check(home, &["--help"], 0, "Examples:", "");
    check(home, &["--version"], 0, "janus 0.1.0", "");
    check(home, &["models"], 0, "smollm2-135m-instruct  generate", "");
    check(home, &["models", "--json"], 0, "\"installed\": false", "");
    check(home, &["config", "--print-default"], 0, "listen = \"127.0.0.1:8080\"", "");
    check(home, &["nonsense"], 2, "", "unrecognized subcommand");
    check(home, &["pull", "nonsense"], 1, "", "error: no model is called `nonsense`");
    check(home, &["pull", "gemma-3-270m"], 1, "", "janus pull gemma-3-270m --accept-license");
    check(home, &["rm", "all-minilm-l6-v2"], 1, "", "all-minilm-l6-v2 is not installed");
    check(home, &["inspect", spoilt], 2, "", "spoilt.gguf");
    check(home, &["inspect", "/nonexistent"], 1, "", "/nonexistent");
    check(home, &["chat", "--url", "http://127.0.0.1:9"], 1, "", "no server answers at http://127.0.0.1:9");
}

#[test]
fn bench_measures_a_model_and_says_what_it_cannot() {
    let home = tempfile::tempdir().expect("a folder");
    let models = GOLDEN_MODELS;
    let [decoder, encoder] =
        ["llama/model-q8_0.gguf", "bert/model.gguf"].map(|file| format!("{models}/{file}"));
    let bench = |model: &str, more: &[&str], code, stdout, stderr| {
        let arguments = ["bench", "--model", model, "--threads", "1", "--runs", "1", "--prompt", "8"];
        check(home.path(), &[&arguments, more].concat(), code, stdout, stderr)
    };
    let measured = bench(&decoder, &["--decode", "4", "--streams", "1,3", "--json"], 0, "", "");
    let report: Value = serde_json::from_slice(&measured.stdout).expect("JSON and nothing else");
    let streams: Vec<_> =
        report["decode"].as_array().expect("a list").iter().map(|speed| &speed["streams"]).collect();
    assert_eq!(streams, [1, 3], "{report}");
    assert_eq!((&report["prefill"]["tokens"], &report["threads"]), (&8.into(), &1.into()), "{report}");
    let speeds = report["decode"].as_array().into_iter().flatten().chain([&report["prefill"]]);
    let figures = ["tokens_per_s", "read_fraction", "int8_fraction"];
    let figures = speeds.flat_map(|speed| figures.map(|figure| &speed[figure]));
    let limits = ["weight_bytes", "read_bytes_per_s", "int8_ops_per_s"].map(|figure| &report[figure]);
    for figure in figures.chain(limits) {
        assert!(figure.as_f64().is_some_and(|figure| figure > 0.0), "{report}");
    }
    bench(&decoder, &["--decode", "1", "--streams", "2"], 0, "decode x2", "");
    bench(&decoder, &["--streams", "0"], 1, "", "start at 1");
    bench(&decoder, &["--decode", "1000000"], 1, "", "this model's context is");
    bench(&encoder, &[], 1, "", "makes embeddings");
}

#[test]
fn no_source_names_every_attempt() {
    let home = tempfile::tempdir().expect("a folder");
    let output = janus(home.path())
        .args(["pull", "smollm2-135m-instruct"])
        // No pip on it.
        .env("PATH", home.path())
        .output()
        .expect("janus starts");
    let complained = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(complained.contains("http://127.0.0.1:9/QuantFactory/"), "{complained}");
    assert!(complained.contains("no pip is installed here") && complained.contains("--from"), "{complained}");
}

#[test]
fn a_killed_pull_leaves_no_file_and_goes_on_later() {
    let Some(source) = real_models::real_model(real_models::SMOLLM2) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let target = home.path().join("models").join(real_models::SMOLLM2);
    let part = target.with_extension("gguf.part");
    let sent = 20_000_000;
    let url = serve_beginning(fs::read(&source).expect("the file is readable"), sent);

    let mut pull = janus(home.path())
        .args(["pull", "smollm2-135m-instruct", "--from", &url])
        .spawn()
        .expect("janus starts");
    let start = Instant::now();
    while fs::metadata(&part).map_or(0, |metadata| metadata.len()) < sent as u64 {
        assert!(start.elapsed() < Duration::from_secs(30), "the part file grows");
        std::thread::sleep(Duration::from_millis(10));
    }
    pull.kill().expect("janus runs");
    pull.wait().expect("janus ends");
    assert!(!target.exists(), "nothing is in place before it is complete");
    check(home.path(), &["models"], 0, "20.0 MB of 98.4 MB", "");

    let source = source.to_str().expect("a plain path");
    check(home.path(), &["pull", "smollm2-135m-instruct", "--from", source], 0, "", "is installed in");
    assert!(target.exists() && !part.exists());
    check(home.path(), &["pull", "smollm2-135m-instruct", "--verify"], 0, "", "is installed already");
    check(home.path(), &["inspect", target.to_str().expect("a plain path")], 0, "llama", "");
    check(home.path(), &["rm", "smollm2-135m-instruct"], 0, "", "98.4 MB are free again");
    assert!(!target.exists());
}

/// Talks to `janus chat` through a pipe; what it answers.
fn chat(home: &Path, arguments: &[&str], lines: &str) -> String {
    let mut chat = janus(home)
        .args(["chat", "--temperature", "0", "--max-tokens", "12"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("janus starts");
    chat.stdin.take().expect("it is piped").write_all(lines.as_bytes()).expect("janus reads");
    let output = chat.wait_with_output().expect("janus ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn serve_says_where_it_is_and_chat_talks_to_it_or_alone() {
    let Some(model) = real_models::real_model(real_models::SMOLLM2) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let named = format!("tiny={}", model.display());
    let mut command = janus(home.path());
    command.args(["serve", "--model", &named, "--threads", "1", "--context", "512"]);
    let server = Served::start(&mut command);
    let (url, listed) = (&server.url(), &server.listed);
    assert!(listed.contains("tiny") && listed.contains("context of 512 tokens"), "{listed}");

    let question = "Say hello.\n\n/reset\nSay hello.\n/exit\nnever read\n";
    let served = chat(home.path(), &["--url", url], question);
    let answers: Vec<&str> = served.lines().collect();
    assert!(answers.len() >= 2 && answers[0] == answers[answers.len() / 2], "twice the same: {served}");
    check(
        home.path(),
        &["chat", "--url", url, "--model", "other"],
        1,
        "",
        "does not serve `other`; it serves tiny",
    );
    // The same model in this process, where sums are added up in the same order.
    let alone = chat(home.path(), &["--model", &named, "--threads", "1"], question);
    assert_eq!(alone, served);

    assert_eq!(server.end("-TERM"), Some(0), "SIGTERM is an orderly end");
}

/// A server that waits for a model from a hub that says nothing; it, its log, where it listens, and the hub.
fn serve_from_silent_hub(home: &Path) -> (Child, Lines<BufReader<ChildStderr>>, String, TcpListener) {
    let hub = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut server = janus(home)
        .args(["serve", "--model", "smollm2-135m-instruct", "--listen", "127.0.0.1:0"])
        .env("HF_ENDPOINT", format!("http://{}", hub.local_addr().expect("an address")))
        // No pip on it.
        .env("PATH", home)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("janus starts");
    let mut log = BufReader::new(server.stderr.take().expect("it is piped")).lines();
    let listening = log.by_ref().map_while(Result::ok).find(|line| line.contains("\"listening\""));
    let listening: Value = serde_json::from_str(&listening.expect("it listens")).expect("a line of JSON");
    let address = listening["address"].as_str().expect("an address").to_owned();
    let start = Instant::now();
    while !get(&address, "/readyz").1.contains("loads the model `smollm2-135m-instruct`") {
        assert!(start.elapsed() < Duration::from_secs(30), "it says what it waits for");
        std::thread::sleep(Duration::from_millis(10));
    }
    (server, log, address, hub)
}

#[test]
fn a_server_answers_while_it_loads_and_ends_when_it_cannot() {
    let home = tempfile::tempdir().expect("a folder");
    let (server, log, address, hub) = serve_from_silent_hub(home.path());
    assert_eq!(get(&address, "/healthz").0, "HTTP/1.1 200 OK");
    assert_eq!(get(&address, "/readyz").0, "HTTP/1.1 503 Service Unavailable");
    drop(hub);
    let log: Vec<String> = log.map_while(Result::ok).collect();
    let output = server.wait_with_output().expect("janus ends");
    assert_eq!(output.status.code(), Some(1), "{log:?}");
    assert!(
        log.iter().any(|line| line.starts_with("error: ") && line.contains("could not be fetched")),
        "{log:?}"
    );
    assert!(!text(&output.stdout).contains("is ready"));
}

#[test]
fn a_server_that_loads_can_be_told_to_end() {
    for name in ["-TERM", "-INT"] {
        let home = tempfile::tempdir().expect("a folder");
        let (mut server, _log, _, _hub) = serve_from_silent_hub(home.path());
        signal(&server, name);
        assert_eq!(server.wait().expect("janus ends").code(), Some(0), "{name}");
    }
}

#[test]
fn a_second_signal_ends_a_server_that_still_answers() {
    let Some(model) = real_models::real_model(real_models::SMOLLM2) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let named = format!("tiny={}", model.display());
    let mut command = janus(home.path());
    command.args(["serve", "--model", &named, "--threads", "1"]);
    // Nothing else may end it meanwhile.
    let mut server = Served::start(command.args(["--set", "server.drain_deadline_ms=600000"]));
    let address = server.address.clone();
    let endless =
        r#"{"model": "tiny", "prompt": "x", "max_tokens": 8000, "ignore_eos": true, "stream": true}"#;
    let mut stream = BufReader::new(server.send("POST", "/v1/completions", endless));
    let mut lines = stream.by_ref().lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("data: ")), "an answer has begun");
    server.signal("-INT");
    let start = Instant::now();
    while !get(&address, "/readyz").0.contains("503") {
        assert!(start.elapsed() < Duration::from_secs(30), "the drain begins");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(server.is_running(), "it waits for the answer");
    assert_eq!(server.end("-INT"), Some(130));
}

/// A store in `home` that has SmolLM2.
fn install_smollm2(home: &Path, source: &Path) -> std::path::PathBuf {
    let target = home.join("models").join(real_models::SMOLLM2);
    fs::create_dir_all(target.parent().expect("it is in a folder")).expect("a folder");
    fs::copy(source, &target).expect("a copy");
    target
}

#[test]
fn models_of_a_running_server_are_listed_loaded_and_unloaded() {
    let Some(source) = real_models::real_model(real_models::SMOLLM2) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let installed = install_smollm2(home, &source);
    let named = format!("tiny={}", source.display());
    let mut command = janus(home);
    command.args(["serve", "--model", &named, "--threads", "1", "--context", "512"]);
    let server = Served::start(command.env("JANUS_AUTH_ADMIN_KEYS", "root"));
    let url = &server.url();
    let check = |arguments: &[&str], code, stdout: &str, stderr: &str| {
        let arguments = [arguments, &["--url", url, "--key", "root"]].concat();
        check(home, &arguments, code, stdout, stderr)
    };
    check(&["ps"], 0, "tiny  ready", "");
    check(&["load", "smollm2-135m-instruct"], 0, "smollm2-135m-instruct is loaded and takes", "");
    let listed = text(&check(&["ps", "--json"], 0, "\"used_bytes\"", "").stdout);
    assert!(listed.contains("\"id\": \"smollm2-135m-instruct\""), "{listed}");
    let question = "Say hello.\n/exit\n";
    let ask = |model| chat(home, &["--url", url, "--model", model], question);
    assert_eq!(ask("smollm2-135m-instruct"), ask("tiny"));
    check(&["unload", "smollm2-135m-instruct"], 0, "are free again", "");
    check(&["unload", "smollm2-135m-instruct"], 1, "", "does not exist");
    check(&["load", "all-minilm-l6-v2"], 1, "", "janus pull all-minilm-l6-v2");
    check(&["load", "/etc/passwd"], 1, "", "no model is called `/etc/passwd`");
    // A disk that lost a bit.
    let mut bytes = fs::read(&installed).expect("the model");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&installed, bytes).expect("the model");
    let words = "is damaged: its SHA-256 is";
    let refused = text(&check(&["load", "smollm2-135m-instruct"], 1, "", words).stderr);
    assert!(refused.contains("SmolLM2-135M-Instruct.Q4_1.gguf"), "{refused}");
    assert!(refused.contains("janus rm smollm2-135m-instruct"), "{refused}");
    check(&["ps"], 0, "tiny  ready", "");
    let without_key = text(&self::check(home, &["ps", "--url", url], 1, "", "401").stderr);
    assert!(without_key.contains("admin key"), "{without_key}");
    drop(server);
    // The same at a start.
    let arguments = ["serve", "--model", "smollm2-135m-instruct", "--listen", "127.0.0.1:0"];
    self::check(home, &arguments, 1, "", words);
}

/// A file server that sends the first `sent` bytes and then nothing, with the connection open.
fn serve_beginning(contents: Vec<u8>, sent: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/model.gguf", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", contents.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&contents[..sent]));
            held.push(stream);
        }
    });
    url
}
