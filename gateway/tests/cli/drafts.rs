//! `--draft NAME=MODEL`: answers stay the same, guesses are counted, and what cannot guess is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::served::Served;
use super::{GOLDEN_MODELS, check, janus, real_models};

/// Greedy and sampled answers, with the log-probability of each token.
fn answers(server: &Served) -> Vec<Value> {
    let prompts = ["The old clockmaker opened the smallest door and", "fn add(a: u32, b: u32) -> u32 {\n"];
    let asked = prompts.iter().flat_map(|prompt| [(prompt, 0.0), (prompt, 0.9)]);
    let ask = |(prompt, temperature): (&&str, f64)| {
        let body = json!({
            "model": "tiny", "prompt": prompt, "max_tokens": 24, "ignore_eos": true,
            "temperature": temperature, "seed": 5, "logprobs": 1,
        });
        server.post("/v1/completions", &body)["choices"].take()
    };
    asked.map(ask).collect()
}

#[test]
fn a_draft_model_changes_no_answer_and_what_it_guessed_is_counted() {
    let Some(model) = real_models::real_model(real_models::SMOLLM2) else { return };
    let home = tempfile::tempdir().expect("a folder");
    let named = format!("tiny={}", model.display());
    let run = |more: &[&str]| {
        let mut command = janus(home.path());
        command.args(["serve", "--model", &named, "--threads", "1", "--context", "512"]);
        let server = Served::start(command.args(more));
        let answers = answers(&server);
        let counts = ["drafted_guesses", "accepted_drafts"];
        (answers, counts.map(|name| server.metric(&format!("janus_engine_{name}_total"))))
    };
    let (plain, counted) = run(&["--set", "engine.speculation=off"]);
    assert_eq!(counted, [0, 0]);
    let (drafted, [guessed, right]) = run(&["--draft", &named, "--set", "engine.speculation=always"]);
    assert_eq!(drafted, plain);
    // The same model guesses as it would answer.
    assert!(guessed > 40 && right == guessed, "{right} of {guessed} guesses came true");
}

/// A tiny model of the same size whose vocabulary has two tokens the other way round.
fn with_another_vocabulary(folder: &Path) -> String {
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(format!("{GOLDEN_MODELS}/llama/{file}"), folder.join(file)).expect("a copy");
    }
    let tokenizer = folder.join("tokenizer.json");
    let mut said: Value =
        serde_json::from_slice(&fs::read(&tokenizer).expect("the tokenizer")).expect("it is JSON");
    let vocabulary = &mut said["model"]["vocab"];
    let (a, b) = (vocabulary["a"].take(), vocabulary["b"].take());
    (vocabulary["a"], vocabulary["b"]) = (b, a);
    fs::write(&tokenizer, said.to_string()).expect("the tokenizer");
    folder.display().to_string()
}

#[test]
fn a_draft_that_cannot_guess_is_refused_at_the_start() {
    let home = tempfile::tempdir().expect("a folder");
    let [llama, qwen, bert] = ["llama/model-q8_0.gguf", "qwen3/model.gguf", "bert/model.gguf"]
        .map(|file| format!("{GOLDEN_MODELS}/{file}"));
    let other = with_another_vocabulary(home.path());
    let named = format!("tiny={llama}");
    let start = ["serve", "--model", &named, "--threads", "1", "--listen", "127.0.0.1:0"];
    let rows = [
        ("tiny".to_owned(), "--draft tiny: write NAME=MODEL"),
        ("tiny=nonsense".to_owned(), "nonsense"),
        (format!("other={llama}"), "--draft other=...: no model is served as `other`"),
        (format!("tiny={other}"), "cannot guess for `tiny`: token "),
        (format!("tiny={bert}"), "cannot guess for `tiny`: both have to generate text"),
    ];
    for (draft, complaint) in rows {
        check(home.path(), &[&start[..], &["--draft", &draft]].concat(), 1, "", complaint);
    }
    let twice = [llama, qwen].map(|model| format!("tiny={model}"));
    let twice = ["--draft", &twice[0], "--draft", &twice[1]];
    check(home.path(), &[&start[..], &twice].concat(), 1, "", "two models that guess for `tiny`");
}
