//! A client that leaves takes its sequences with it: streaming or not, early or late, on either HTTP.

use serde_json::json;

use crate::support::{Running, eventually, start};

fn endless(stream: bool, n: u32) -> String {
    json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 4000, "stream": stream, "n": n }).to_string()
}

fn running(server: &Running) -> f64 {
    server.metric("janus_engine_running_sequences")
}

#[test]
fn leaving_frees_the_sequences() {
    let server = start(|_| {});
    for (stream, n) in [(true, 1), (false, 1), (true, 3), (false, 3)] {
        let cancelled = server.metric("janus_engine_cancelled_requests_total");
        let mut client = server.connect();
        client.begin_post("/v1/completions", &endless(stream, n));
        eventually("the sequences run", || running(&server) == f64::from(n));
        assert_eq!(server.metric("janus_requests_in_flight"), 1.0);
        drop(client);
        server.wait_until_idle();
        let now = server.metric("janus_engine_cancelled_requests_total");
        assert_eq!(now - cancelled, f64::from(n), "stream {stream}, n {n}");
    }
    assert_eq!(server.metric("janus_engine_kv_pages_used"), 0.0);
}

#[test]
fn leaving_in_the_middle_of_a_stream_frees_the_sequence() {
    let server = start(|_| {});
    let mut client = server.connect();
    client.begin_post("/v1/completions", &endless(true, 1));
    assert_eq!(client.head().0, 200);
    for _ in 0..5 {
        assert!(client.chunk().unwrap().starts_with(b"data: {"));
    }
    drop(client);
    server.wait_until_idle();
}

#[test]
fn leaving_without_reading_the_answer_is_counted() {
    let server = start(|_| {});
    let mut client = server.connect();
    client.begin_post("/v1/completions", &endless(false, 1));
    eventually("the sequence runs", || running(&server) == 1.0);
    drop(client);
    server.wait_until_idle();
    let line = "janus_requests_total{route=\"/v1/completions\",status=\"499\"}";
    eventually("the request is counted", || server.get("/metrics").text().contains(line));
}

#[test]
fn a_crowd_that_leaves_abruptly_leaves_nothing() {
    let server = start(|_| {});
    let clients: Vec<_> = (0..32)
        .map(|number| {
            let mut client = server.connect();
            client.begin_post("/v1/completions", &endless(number % 2 == 0, 1));
            client
        })
        .collect();
    eventually("all run", || server.metric("janus_requests_in_flight") == 32.0);
    drop(clients);
    server.wait_until_idle();
    eventually("connections are gone", || server.metric("janus_connections") <= 1.0);
    assert_eq!(server.metric("janus_engine_kv_pages_used"), 0.0);
}
