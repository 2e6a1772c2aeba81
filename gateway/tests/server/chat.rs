//! `POST /v1/chat/completions`.

use serde_json::{Value, json};

use crate::support::{ANSWER, Running, start};

const PATH: &str = "/v1/chat/completions";
/// Of one user message "hi" under the test's template, one token a byte.
const PROMPT_TOKENS: u64 = 21;

fn ask(server: &Running, more: Value) -> Value {
    let mut body =
        json!({ "model": "chat", "temperature": 0, "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = server.post(PATH, &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    if body["stream"] == true { Value::Array(reply.events()) } else { reply.json() }
}

#[test]
fn a_reply_has_all_of_its_members() {
    let server = start(|_| {});
    let reply = ask(&server, json!({}));
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], "chat");
    assert!(reply["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(reply["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    let completion_tokens = ANSWER.len() as u64 + 1;
    assert_eq!(
        reply["choices"],
        json!([{
            "index": 0,
            "message": { "role": "assistant", "content": ANSWER, "refusal": null, "annotations": [] },
            "logprobs": null,
            "finish_reason": "stop",
        }])
    );
    let usage = &reply["usage"];
    assert_eq!(usage["prompt_tokens"], PROMPT_TOKENS);
    assert_eq!(usage["completion_tokens"], completion_tokens);
    assert_eq!(usage["total_tokens"], PROMPT_TOKENS + completion_tokens);
    assert!(usage["prompt_tokens_details"]["cached_tokens"].is_u64());
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 0);
}

/// Content and end of each choice.
fn contents(reply: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let choices = reply["choices"].as_array().unwrap();
    choices
        .iter()
        .map(|choice| (text(&choice["message"]["content"]), text(&choice["finish_reason"])))
        .collect()
}

/// The same put together from a stream, whose shape is checked.
fn streamed(events: &Value, choices: usize) -> Vec<(String, String)> {
    let events = events.as_array().unwrap();
    let mut found = vec![(String::new(), String::new()); choices];
    let mut opened = vec![false; choices];
    for event in events {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!((&event["id"], &event["created"]), (&events[0]["id"], &events[0]["created"]));
        for choice in event["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            let delta = choice["delta"].as_object().unwrap();
            let first = !std::mem::replace(&mut opened[index], true);
            assert_eq!(delta.get("role").is_some(), first, "the role comes in the first chunk only");
            assert!(found[index].1.is_empty(), "nothing follows the end");
            found[index].0.push_str(delta.get("content").and_then(Value::as_str).unwrap_or_default());
            found[index].1.push_str(choice["finish_reason"].as_str().unwrap_or_default());
        }
    }
    found
}

#[test]
fn parameters_shape_the_output_streamed_or_not() {
    let server = start(|_| {});
    let rows: &[(Value, &[(&str, &str)])] = &[
        (json!({}), &[(ANSWER, "stop")]),
        (json!({ "max_tokens": 5 }), &[("Hello", "length")]),
        (json!({ "max_completion_tokens": 3 }), &[("Hel", "length")]),
        (json!({ "max_completion_tokens": 3, "max_tokens": 5 }), &[("Hel", "length")]),
        (json!({ "max_tokens": 500 }), &[(ANSWER, "stop")]),
        (json!({ "stop": ", " }), &[("Hello", "stop")]),
        (json!({ "stop": ["zz", "llo", "H\u{e4}"] }), &[("He", "stop")]),
        (json!({ "stop": "rld!", "include_stop_str_in_output": true }), &[(ANSWER, "stop")]),
        (json!({ "stop": "!?" }), &[(ANSWER, "stop")]),
        (json!({ "stop": [] }), &[(ANSWER, "stop")]),
        (json!({ "stop_token_ids": [b','] }), &[("Hello", "stop")]),
        (json!({ "ignore_eos": true, "max_tokens": 20 }), &[(ANSWER, "length")]),
        (json!({ "n": 3 }), &[(ANSWER, "stop"), (ANSWER, "stop"), (ANSWER, "stop")]),
        (json!({ "logit_bias": { "101": -100 }, "max_tokens": 1 }), &[("H", "length")]),
        (json!({ "logit_bias": { "90": 100 }, "max_tokens": 3 }), &[("ZZZ", "length")]),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }] }),
            &[(ANSWER, "stop")],
        ),
        (
            json!({ "user": "u", "metadata": { "a": "b" }, "store": false, "tools": [], "response_format": { "type": "text" } }),
            &[(ANSWER, "stop")],
        ),
    ];
    for (more, expected) in rows {
        let whole = contents(&ask(&server, more.clone()));
        let mut streaming = more.clone();
        streaming["stream"] = true.into();
        let stream = streamed(&ask(&server, streaming), expected.len());
        let expected: Vec<(String, String)> =
            expected.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        assert_eq!(whole, expected, "{more}");
        assert_eq!(stream, expected, "{more}, streamed");
    }
}

#[test]
fn messages_become_the_prompt_the_template_makes_of_them() {
    let server = start(|_| {});
    let user = json!({ "role": "user", "content": "hi" });
    let rows = [
        (json!([user]), "<|im_start|>user\nhi<|im_end|>\n"),
        (json!([{ "role": "system", "content": "s" }, user]), "<s>ystem\ns<e>\n<s>user\nhi<e>\n"),
        (json!([{ "role": "developer", "content": "s" }, user]), "<s>ystem\ns<e>\n<s>user\nhi<e>\n"),
        (
            json!([user, { "role": "assistant", "content": "a" }, user]),
            "<s>user\nhi<e>\n<s>assistant\na<e>\n<s>user\nhi<e>\n",
        ),
        (
            json!([user, { "role": "tool", "content": "t", "tool_call_id": "1" }]),
            "<s>user\nhi<e>\n<s>tool\nt<e>\n",
        ),
        (
            json!([{ "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] }]),
            "<s>user\na\nb<e>\n",
        ),
    ];
    for (messages, expected) in rows {
        // One token each for a mark, one for each other byte.
        let expected = expected
            .replace("<|im_start|>", "<")
            .replace("<|im_end|>", ">")
            .replace("<s>ystem", "<system")
            .replace("<s>", "<")
            .replace("<e>", ">");
        let with_turn = expected.len() + "<assistant\n".len();
        let reply = ask(&server, json!({ "messages": messages }));
        assert_eq!(reply["usage"]["prompt_tokens"], with_turn, "{messages}");
        let reply =
            ask(&server, json!({ "messages": messages, "add_generation_prompt": false, "max_tokens": 1 }));
        assert_eq!(reply["usage"]["prompt_tokens"], expected.len(), "{messages}");
    }
}

#[test]
fn marks_in_messages_stay_text() {
    let server = start(|_| {});
    let reply = ask(&server, json!({ "messages": [{ "role": "user", "content": "<|im_end|>" }] }));
    assert_eq!(reply["usage"]["prompt_tokens"], PROMPT_TOKENS - 2 + "<|im_end|>".len() as u64);
}

#[test]
fn usage_comes_in_a_chunk_of_its_own() {
    let server = start(|_| {});
    let events = ask(
        &server,
        json!({ "stream": true, "stream_options": { "include_usage": true }, "n": 2, "max_tokens": 4 }),
    );
    let (last, others) = events.as_array().unwrap().split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["prompt_tokens"], PROMPT_TOKENS);
    assert_eq!(last["usage"]["completion_tokens"], 8);
    assert!(others.iter().all(|event| event.get("usage") == Some(&Value::Null)));
    let events = ask(&server, json!({ "stream": true }));
    assert!(events.as_array().unwrap().iter().all(|event| event.get("usage").is_none()));
}

#[test]
fn logprobs_come_with_their_tokens() {
    let server = start(|_| {});
    let asked = json!({ "logprobs": true, "top_logprobs": 3, "max_tokens": 12 });
    let whole = ask(&server, asked.clone());
    let content = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 12);
    assert_eq!(content[0]["token"], "H");
    assert_eq!(content[0]["bytes"], json!([72]));
    assert_eq!(content[8]["bytes"], json!([0xc3]), "half of a character");
    for token in &content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(top[0]["bytes"], token["bytes"], "greedy takes the most likely");
        assert!(token["logprob"].as_f64().unwrap() < 0.0);
    }
    let mut streaming = asked;
    streaming["stream"] = true.into();
    let events = ask(&server, streaming);
    let streamed: Vec<Value> = events
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, content);
    let bare = ask(&server, json!({ "logprobs": true, "max_tokens": 1 }));
    assert_eq!(bare["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[test]
fn seeds_repeat_and_choices_take_the_next_ones() {
    let server = start(|_| {});
    let hot = |seed: i64, n: u32| {
        let reply = ask(
            &server,
            json!({ "model": "endless", "temperature": 2, "seed": seed, "n": n, "max_tokens": 12 }),
        );
        contents(&reply).into_iter().map(|(text, _)| text).collect::<Vec<_>>()
    };
    let three = hot(41, 3);
    assert_eq!(three, hot(41, 3), "a seed repeats");
    assert_eq!(three[2..], hot(43, 1), "choice i uses seed + i");
    assert_ne!(three[0], three[1]);
}

#[test]
fn thirty_two_clients_at_once_are_all_served() {
    let server = start(|_| {});
    std::thread::scope(|scope| {
        for client in 0..32 {
            let server = &server;
            scope.spawn(move || {
                let stream = client % 2 == 0;
                let reply = ask(server, json!({ "stream": stream, "n": 2 }));
                let found = if stream { streamed(&reply, 2) } else { contents(&reply) };
                assert_eq!(found, vec![(ANSWER.to_owned(), "stop".to_owned()); 2]);
            });
        }
    });
    server.wait_until_idle();
    assert_eq!(server.metric("janus_engine_finished_requests_total"), 64.0);
    assert!(server.metric("gen_ai_server_time_to_first_token_seconds_count") >= 64.0);
}
