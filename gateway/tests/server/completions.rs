//! `POST /v1/completions`. The model continues with letters that depend on every token before them.

use serde_json::{Value, json};

use crate::support::{Running, start};

const PATH: &str = "/v1/completions";

fn ask(server: &Running, more: Value) -> Value {
    let mut body = json!({ "model": "base", "temperature": 0, "max_tokens": 4, "prompt": "abc" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = server.post(PATH, &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    if body["stream"] == true { Value::Array(reply.events()) } else { reply.json() }
}

/// Text of each choice, in order.
fn texts(reply: &Value) -> Vec<String> {
    let choices = reply["choices"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
    }
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

fn streamed(events: &Value, choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); choices];
    let mut ended = vec![false; choices];
    for event in events.as_array().unwrap() {
        assert_eq!(event["object"], "text_completion");
        for choice in event["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            assert!(!ended[index], "nothing follows the end");
            texts[index].push_str(choice["text"].as_str().unwrap());
            ended[index] = choice["finish_reason"].is_string();
        }
    }
    assert!(ended.iter().all(|ended| *ended));
    texts
}

#[test]
fn a_reply_has_all_of_its_members() {
    let server = start(|_| {});
    let reply = ask(&server, json!({}));
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(reply["object"], "text_completion");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["choices"][0]["logprobs"], Value::Null);
    assert_eq!(reply["usage"]["prompt_tokens"], 3);
    assert_eq!(reply["usage"]["completion_tokens"], 4);
    let by_default = ask(&server, json!({ "max_tokens": null }));
    assert_eq!(by_default["usage"]["completion_tokens"], 16, "OpenAI's default");
}

#[test]
fn best_of_answers_the_likeliest() {
    let server = start(|_| {});
    let mean = |choice: &Value| {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        logprobs.iter().map(|logprob| logprob.as_f64().unwrap()).sum::<f64>() / logprobs.len() as f64
    };
    let sampled = json!({ "temperature": 2, "seed": 5, "logprobs": 0, "prompt": ["abc", "xyz"] });
    let with = |more: Value| {
        let mut body = sampled.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ask(&server, body)
    };
    let all = with(json!({ "n": 6 }));
    let best = with(json!({ "n": 2, "best_of": 6 }));
    for prompt in 0..2 {
        let mut choices = all["choices"].as_array().unwrap()[prompt * 6..][..6].to_vec();
        choices.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        let texts = |choices: &[Value]| choices.iter().map(|c| c["text"].clone()).collect::<Vec<Value>>();
        assert_eq!(texts(&best["choices"].as_array().unwrap()[prompt * 2..][..2]), texts(&choices[..2]));
    }
    assert_eq!(best["usage"]["completion_tokens"], all["usage"]["completion_tokens"], "all were computed");
    assert_eq!(best["usage"]["prompt_tokens"], 6);
    let unasked = with(json!({ "n": 1, "best_of": 3, "logprobs": null }));
    assert_eq!(unasked["choices"][0]["logprobs"], Value::Null);
    for wrong in
        [json!({ "n": 3, "best_of": 2 }), json!({ "best_of": 2, "stream": true }), json!({ "best_of": 1000 })]
    {
        let mut body = json!({ "model": "base", "prompt": "abc" });
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let reply = server.post(PATH, &body.to_string());
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &"best_of".into()), "{wrong}");
    }
}

#[test]
fn a_second_request_says_how_much_was_cached() {
    let server = start(|_| {});
    let prompt = "All that begins the same is computed once. ".repeat(4);
    let cached = |reply: &Value| reply["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    let full = (prompt.len() - 1) / 32 * 32;
    assert_eq!(cached(&ask(&server, json!({ "prompt": prompt }))), 0);
    assert_eq!(cached(&ask(&server, json!({ "prompt": prompt }))), full);
    let options = json!({ "prompt": prompt, "stream": true, "stream_options": { "include_usage": true } });
    let events = ask(&server, options);
    assert_eq!(cached(events.as_array().unwrap().last().unwrap()), full);
    server.wait_until_idle();
    assert_eq!(server.metric("janus_engine_reused_prompt_tokens_total"), 2.0 * full as f64);
}

#[test]
fn prompts_have_four_forms() {
    let server = start(|_| {});
    let one = |prompt: Value| texts(&ask(&server, json!({ "prompt": prompt }))).remove(0);
    let (abc, xy) = (one("abc".into()), one("xy".into()));
    assert_ne!(abc, xy);
    let rows: &[(Value, &[&str])] = &[
        (json!("abc"), &[&abc]),
        (json!(["abc"]), &[&abc]),
        (json!(["abc", "xy"]), &[&abc, &xy]),
        (json!([97, 98, 99]), &[&abc]),
        (json!([[97, 98, 99], [120, 121]]), &[&abc, &xy]),
    ];
    for (prompt, expected) in rows {
        assert_eq!(texts(&ask(&server, json!({ "prompt": prompt }))), *expected, "{prompt}");
        let events = ask(&server, json!({ "prompt": prompt, "stream": true }));
        assert_eq!(streamed(&events, expected.len()), *expected, "{prompt}, streamed");
    }
    let both = ask(&server, json!({ "prompt": ["abc", "xy"], "n": 2, "best_of": 2 }));
    assert_eq!(texts(&both), [&abc, &abc, &xy, &xy].map(String::clone));
    assert_eq!(both["usage"]["prompt_tokens"], 5, "each prompt counts once");
}

#[test]
fn echo_puts_the_prompt_before_the_output() {
    let server = start(|_| {});
    let text = texts(&ask(&server, json!({}))).remove(0);
    let rows = [
        (json!({ "echo": true }), format!("abc{text}")),
        (json!({ "echo": true, "prompt": [97, 98, 99] }), format!("abc{text}")),
        (json!({ "echo": true, "max_tokens": 0 }), "abc".to_owned()),
        (json!({ "echo": true, "max_tokens": 0, "logprobs": 1 }), "abc".to_owned()),
        (json!({ "echo": true, "logprobs": 2 }), format!("abc{text}")),
    ];
    for (more, expected) in rows {
        assert_eq!(texts(&ask(&server, more.clone())).concat(), expected, "{more}");
        let mut streaming = more.clone();
        streaming["stream"] = true.into();
        assert_eq!(streamed(&ask(&server, streaming), 1).concat(), expected, "{more}, streamed");
    }
}

#[test]
fn logprobs_are_four_lists_over_prompt_and_output() {
    let server = start(|_| {});
    let lists = |more: Value| ask(&server, more)["choices"][0]["logprobs"].clone();
    let echoed = lists(json!({ "echo": true, "logprobs": 2, "max_tokens": 2 }));
    assert_eq!(echoed["text_offset"], json!([0, 1, 2, 3, 4]));
    assert_eq!(echoed["tokens"].as_array().unwrap()[..3], [json!("a"), json!("b"), json!("c")]);
    assert_eq!(echoed["token_logprobs"][0], Value::Null);
    assert_eq!(echoed["top_logprobs"][0], Value::Null);
    assert!(
        echoed["token_logprobs"].as_array().unwrap()[1..]
            .iter()
            .all(|logprob| logprob.as_f64().unwrap() < 0.0)
    );
    // Two alternatives, and the token itself where it is none of them.
    assert!((2..=3).contains(&echoed["top_logprobs"][1].as_object().unwrap().len()));
    let plain = lists(json!({ "logprobs": 1, "max_tokens": 2 }));
    assert_eq!(plain["text_offset"], json!([0, 1]));
    assert_eq!(plain["tokens"].as_array().unwrap()[..], echoed["tokens"].as_array().unwrap()[3..]);
    let none = lists(json!({ "logprobs": 0, "max_tokens": 1 }));
    assert_eq!(none["top_logprobs"], Value::Null);
    assert_eq!(none["tokens"].as_array().unwrap().len(), 1);

    let events = ask(&server, json!({ "echo": true, "logprobs": 2, "max_tokens": 2, "stream": true }));
    let offsets: Vec<Value> = events
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["text_offset"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(Value::Array(offsets), echoed["text_offset"]);
}

#[test]
fn usage_ends_a_stream_when_asked_for() {
    let server = start(|_| {});
    let events = ask(&server, json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let (last, others) = events.as_array().unwrap().split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    assert!(others.iter().all(|event| event.get("usage") == Some(&Value::Null)));
}

#[test]
fn a_cache_salt_keeps_users_of_one_key_apart() {
    let server = start(|_| {});
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let ask = |more: serde_json::Value| {
            let text = format!("{path} {}", "x".repeat(100));
            let mut body = json!({ "model": "chat", "max_tokens": 1 });
            match path {
                "/v1/completions" => body["prompt"] = text.into(),
                _ => body["messages"] = json!([{ "role": "user", "content": text }]),
            }
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server.post(path, &body.to_string())
        };
        for (more, found) in [
            (json!({ "cache_salt": "alice" }), false),
            (json!({ "cache_salt": "bob" }), false),
            (json!({ "cache_salt": "bob", "cache_prompt": false }), false),
            (json!({ "cache_salt": "bob", "cache_prompt": true }), true),
            (json!({}), false),
        ] {
            let usage = &ask(more.clone()).json()["usage"];
            let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            assert_eq!(cached > 0, found, "{path} {more}");
        }
        let refused = ask(json!({ "cache_salt": "x".repeat(513) })).error();
        assert_eq!(refused, (400, Some("cache_salt".into()), Some("invalid_value".into())), "{path}");
    }
}
