//! Sizes and counts at and over their limits.

use serde_json::json;

use gateway::config::Secret;

use crate::support::{Client, Running, eventually, start};

fn embedding_of(length: usize) -> String {
    let empty = json!({ "model": "vectors", "input": "" }).to_string();
    json!({ "model": "vectors", "input": "x".repeat(length - empty.len()) }).to_string()
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let server = start(|config| config.server.body_bytes_max = 500);
    for (length, status) in [(500, 200), (501, 413), (900, 413), (200_000, 413)] {
        let body = embedding_of(length);
        assert_eq!(body.len(), length);
        let reply = server.post("/v1/embeddings", &body);
        assert_eq!(reply.status, status, "{length} bytes declared");
        let mut client = server.connect();
        client.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
        for piece in body.as_bytes().chunks(400) {
            use std::io::Write;
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
            // The server may have had enough before the end.
            if client.stream().write_all(&chunk).is_err() {
                break;
            }
        }
        if length < 2000 {
            client.send(b"0\r\n\r\n");
            let reply = client.reply();
            assert_eq!(reply.status, status, "{length} bytes in chunks");
            assert!(status == 200 || reply.error().2.as_deref() == Some("request_too_large"));
        }
    }
}

#[test]
fn texts_that_cannot_fit_are_refused_before_they_are_tokenised() {
    let server = start(|_| {});
    // The longest token has 12 bytes, the contexts at most 4096 tokens.
    let text = "x".repeat(13 * 4096);
    for (path, body, param) in [
        ("/v1/completions", json!({ "model": "chat", "prompt": text }), "prompt"),
        ("/v1/completions", json!({ "model": "chat", "prompt": ["x", text] }), "prompt"),
        (
            "/v1/chat/completions",
            json!({ "model": "chat", "messages": [{ "role": "user", "content": text }] }),
            "messages",
        ),
        ("/v1/embeddings", json!({ "model": "vectors", "input": text }), "input"),
    ] {
        let reply = server.post(path, &body.to_string());
        assert_eq!(
            reply.error(),
            (400, Some(param.into()), Some("context_length_exceeded".into())),
            "{path}"
        );
        assert!(reply.text().contains("your input has at least"), "{path}: {}", reply.text());
    }
}

#[test]
fn headers_over_the_limit_are_refused() {
    let server = start(|config| config.server.header_bytes_max = 8192);
    let long = "x".repeat(10_000);
    let mut client = server.connect();
    client.begin("GET", "/healthz", &[("x-long", &long)], "");
    assert_eq!(client.head().0, 431);
}

#[test]
fn requests_over_the_limit_are_shed() {
    let server = start(|config| config.server.requests_in_flight_max = 2);
    let body =
        json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 4000, "stream": true })
            .to_string();
    let mut clients: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.begin_post("/v1/completions", &body);
        assert_eq!(client.head().0, 200);
    }
    let reply = server.get("/v1/models");
    assert_eq!(reply.error(), (503, None, Some("server_overloaded".into())));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(server.get("/healthz").status, 200, "probes are not shed");
    drop(clients);
    server.wait_until_idle();
    assert_eq!(server.get("/v1/models").status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = start(|config| {
        config.engine.running_sequences_max = 1;
        config.engine.waiting_requests_max = 1;
    });
    let body = json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 4000 }).to_string();
    let mut first = server.connect();
    first.begin_post("/v1/completions", &body);
    eventually("one runs", || server.metric("janus_engine_running_sequences") == 1.0);
    let mut second = server.connect();
    second.begin_post("/v1/completions", &body);
    eventually("one waits", || server.metric("janus_engine_waiting_requests") == 1.0);
    let reply = server.post("/v1/completions", &body);
    assert_eq!(reply.error(), (429, None, Some("rate_limit_exceeded".into())));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    let milliseconds: u64 = reply.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds) && milliseconds <= 60_000, "{seconds} s, {milliseconds} ms");
    drop((first, second));
    server.wait_until_idle();
}

#[test]
fn connections_over_the_limit_wait_for_a_place() {
    let server = start(|config| config.server.connections_max = 1);
    let mut first = server.connect();
    assert_eq!(first.request("GET", "/healthz", &[], "").status, 200);
    let mut second = server.connect();
    second.begin("GET", "/healthz", &[], "");
    assert_eq!(first.request("GET", "/healthz", &[], "").status, 200, "the first goes on");
    drop(first);
    assert_eq!(second.reply().status, 200, "then the second is served");
}

#[test]
fn when_the_machine_has_no_memory_left_new_requests_are_refused() {
    // More than any machine has.
    let server = start(|config| config.engine.memory_floor_mib = 1 << 30);
    for (path, body) in [
        ("/v1/completions", json!({ "model": "base", "prompt": "x", "max_tokens": 1 })),
        ("/v1/embeddings", json!({ "model": "vectors", "input": "x" })),
    ] {
        let reply = server.post(path, &body.to_string());
        assert_eq!(reply.error(), (503, None, Some("insufficient_memory".into())), "{path}");
        assert!(reply.header("retry-after").is_some());
        assert!(reply.text().contains("engine.memory_floor_mib"), "{}", reply.text());
    }
    assert_eq!(server.get("/readyz").status, 200);
}

/// Sends a request of the client with `key`, whose body is to have `length` bytes.
fn begin_as(server: &Running, key: &str, length: usize, body: &str) -> Client {
    let mut client = server.connect();
    client.send(
        format!(
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    );
    client
}

#[test]
fn a_greedy_client_keeps_nobody_out() {
    let server = start(|config| {
        config.auth.api_keys = vec![Secret::new("greedy"), Secret::new("other")];
        config.server.requests_in_flight_max = 32;
    });
    let ask = |key: &str, model: &str, n: usize| {
        let body = json!({ "model": model, "temperature": 0, "prompt": "x", "n": n, "max_tokens": 1000 });
        let body = body.to_string();
        begin_as(&server, key, body.len(), &body)
    };
    let waiting = || {
        let metrics = server.connect().request("GET", "/metrics", &[("authorization", "Bearer other")], "");
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix("janus_engine_waiting_requests "));
        line.unwrap().parse::<usize>().unwrap()
    };
    // 64 run, and the line of 256 is full.
    let mut choices = Vec::new();
    for (n, expected) in [(128, 64), (128, 192), (64, 256)] {
        choices.push(ask("greedy", "slow", n));
        eventually("all but 64 wait", || waiting() == expected);
    }
    assert_eq!(ask("greedy", "chat", 1).reply().error().0, 429);
    // And all places are taken.
    let mut places: Vec<Client> = Vec::new();
    loop {
        let slow = begin_as(&server, "greedy", 1000, "{");
        let mut probe = ask("greedy", "chat", 1);
        let (status, _, code) = probe.reply().error();
        places.push(slow);
        if status == 503 {
            assert_eq!(code.as_deref(), Some("server_overloaded"));
            break;
        }
        assert_eq!(status, 429);
        assert!(places.len() <= 32, "places are bounded");
    }
    let reply = ask("other", "chat", 1).reply();
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn log_probabilities_that_are_held_are_bounded() {
    // Room for about 6,500.
    let server = start(|config| config.limits.logprobs_mib = 1);
    let prompt = |tokens: usize| json!({ "model": "base", "prompt": "x".repeat(tokens), "max_tokens": 4 });
    let chat = json!({ "model": "chat", "messages": [{ "role": "user", "content": "x" }], "logprobs": true });
    for (path, body, more, status) in [
        ("/v1/completions", prompt(100), json!({ "echo": true, "logprobs": 20 }), 200),
        ("/v1/completions", prompt(400), json!({ "echo": true, "logprobs": 20 }), 400),
        ("/v1/completions", prompt(400), json!({ "echo": true, "logprobs": 2 }), 200),
        ("/v1/completions", prompt(400), json!({ "logprobs": 20 }), 200),
        ("/v1/completions", prompt(100), json!({ "echo": true, "logprobs": 20, "n": 4 }), 400),
        // A prompt's are all made before they are sent.
        ("/v1/completions", prompt(400), json!({ "echo": true, "logprobs": 20, "stream": true }), 400),
        ("/v1/completions", prompt(5), json!({ "logprobs": 20, "max_tokens": 400 }), 400),
        ("/v1/completions", prompt(5), json!({ "logprobs": 20, "max_tokens": 400, "stream": true }), 200),
        ("/v1/chat/completions", chat.clone(), json!({ "top_logprobs": 20, "max_tokens": 100 }), 200),
        ("/v1/chat/completions", chat.clone(), json!({ "top_logprobs": 20, "max_tokens": 400 }), 400),
        ("/v1/chat/completions", chat.clone(), json!({ "top_logprobs": 20 }), 400),
    ] {
        let mut body = body;
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = server.post(path, &body.to_string());
        assert_eq!(reply.status, status, "{path} {more}: {}", reply.text());
        if status == 400 {
            assert_eq!(reply.error().1.as_deref(), Some("logprobs"), "{path} {more}");
        }
    }
}
