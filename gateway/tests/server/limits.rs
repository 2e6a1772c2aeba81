//! Sizes and counts at and over their limits.

use serde_json::json;

use crate::support::{eventually, start};

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
