//! The end of a server: what is in work finishes, what is new is refused, and it does not take for ever.

use std::time::Instant;

use serde_json::json;

use crate::support::{PATIENCE, start};

fn stream(max_tokens: u32) -> String {
    json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": max_tokens, "stream": true })
        .to_string()
}

#[test]
fn streams_finish_while_new_requests_are_refused() {
    let mut server = start(|_| {});
    let mut client = server.connect();
    client.begin_post("/v1/completions", &stream(400));
    assert_eq!(client.head().0, 200);
    client.chunk().unwrap();
    let mut idle = server.connect();
    assert_eq!(idle.request("GET", "/readyz", &[], "").status, 200);
    server.begin_stop();
    crate::support::eventually("the drain begins", || server.get("/readyz").status == 503);
    for mut fresh in [server.connect(), idle] {
        let reply = fresh.post("/v1/completions", &stream(1));
        assert_eq!(reply.error(), (503, None, Some("server_shutting_down".into())));
        assert!(reply.header("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
    }
    assert_eq!(server.get("/healthz").status, 200, "alive while draining");
    let mut text = Vec::new();
    while let Some(chunk) = client.chunk() {
        text.extend(chunk);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"finish_reason\":\"length\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    server.wait();
    assert!(std::net::TcpStream::connect(server.address).is_err(), "nobody listens");
}

#[test]
fn what_does_not_finish_in_time_is_told_so() {
    let mut server = start(|config| config.server.drain_deadline_ms = 200);
    let mut streaming = server.connect();
    streaming.begin_post("/v1/completions", &stream(4000));
    assert_eq!(streaming.head().0, 200);
    streaming.chunk().unwrap();
    let mut waiting = server.connect();
    let body = json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 4000 }).to_string();
    waiting.begin_post("/v1/completions", &body);
    crate::support::eventually("both run", || server.metric("janus_engine_running_sequences") == 2.0);
    let begun = Instant::now();
    server.begin_stop();
    assert_eq!(waiting.reply().error().0, 503);
    let mut last = Vec::new();
    while let Some(chunk) = streaming.chunk() {
        last = chunk;
    }
    let last = String::from_utf8(last).unwrap();
    assert!(last.contains("server_shutting_down") && last.ends_with("data: [DONE]\n\n"), "{last}");
    server.wait();
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[test]
fn an_idle_server_stops_at_once() {
    let mut server = start(|_| {});
    let mut client = server.connect();
    assert_eq!(client.request("GET", "/healthz", &[], "").status, 200);
    let silent = server.connect();
    let begun = Instant::now();
    server.begin_stop();
    server.wait();
    assert!(begun.elapsed() < PATIENCE / 4, "took {:?}", begun.elapsed());
    assert!(client.is_closed());
    drop(silent);
}
