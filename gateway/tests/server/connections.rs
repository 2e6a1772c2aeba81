//! Slow clients, idle clients, connections used again.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Client, PATIENCE, Running, eventually, start};

const DEADLINE_MS: u64 = 300;

/// The deadline under test is short, the others long, so that what ends a connection is known.
fn short(deadline: &str) -> Running {
    start(|config| {
        let server = &mut config.server;
        match deadline {
            "header" => server.header_deadline_ms = DEADLINE_MS,
            "body" => server.body_deadline_ms = DEADLINE_MS,
            "idle" => server.idle_deadline_ms = DEADLINE_MS,
            "write" => server.write_deadline_ms = DEADLINE_MS,
            "request" => server.request_deadline_ms = DEADLINE_MS,
            other => panic!("no deadline {other}"),
        }
    })
}

fn assert_closes_in_time(client: &mut Client, what: &str) {
    let begun = Instant::now();
    assert!(client.is_closed(), "{what}");
    assert!(begun.elapsed() < PATIENCE / 2, "{what}: closed late");
}

#[test]
fn clients_that_never_finish_their_headers_are_cut() {
    let server = short("header");
    for (what, sent) in [
        ("nothing at all", ""),
        ("one byte", "G"),
        ("half of the HTTP/2 preface", "PRI * HTTP/2"),
        ("headers without their end", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n"),
    ] {
        let mut client = server.connect();
        client.send(sent.as_bytes());
        assert_closes_in_time(&mut client, what);
    }
    let mut again = server.connect();
    assert_eq!(again.request("GET", "/healthz", &[], "").status, 200);
    again.send(b"GET /healthz HT");
    assert_closes_in_time(&mut again, "the second request's headers");
}

#[test]
fn the_header_deadline_does_not_end_idle_or_long_requests() {
    let server = short("header");
    let mut client = server.connect();
    assert_eq!(client.request("GET", "/healthz", &[], "").status, 200);
    // Cut by that deadline, which the other has then passed too.
    let mut late = server.connect();
    late.send(b"GET /healthz HT");
    assert_closes_in_time(&mut late, "a request's beginning");
    assert_eq!(client.request("GET", "/healthz", &[], "").status, 200, "idle longer than the deadline");
    let body = json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 300 }).to_string();
    assert_eq!(client.post("/v1/completions", &body).status, 200, "in work longer than the deadline");
}

#[test]
fn clients_that_trickle_headers_are_cut() {
    let server = short("header");
    let mut client = server.connect();
    let begun = Instant::now();
    // A byte at a time keeps a connection that only counts silence open for ever.
    for byte in "GET /healthz HTTP/1.1\r\nx-slow: ".bytes().chain(std::iter::repeat(b'x')) {
        use std::io::Write;
        if client.stream().write_all(&[byte]).is_err() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "still open");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn bodies_that_do_not_arrive_are_answered_408() {
    let server = short("body");
    let mut client = server.connect();
    let head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    client.send(head.as_bytes());
    assert_eq!(client.reply().error(), (408, None, Some("request_timeout".into())));
    server.wait_until_idle();
}

#[test]
fn idle_connections_are_closed() {
    let server = short("idle");
    let mut client = server.connect();
    assert_eq!(client.request("GET", "/healthz", &[], "").status, 200);
    assert_closes_in_time(&mut client, "idle after a request");
    eventually("connections are closed", || server.metric("janus_connections") <= 1.0);
}

#[test]
fn clients_that_do_not_read_are_cut() {
    let server = start(|config| {
        config.server.write_deadline_ms = DEADLINE_MS;
        config.engine.stream_backlog = 4;
    });
    let mut client = server.connect();
    let prompt = "x".repeat(1000);
    // Each answer echoes much; none is read, so the socket's buffers fill.
    let body = json!({ "model": "base", "temperature": 0, "prompt": prompt, "echo": true, "n": 100, "max_tokens": 1 }).to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.stream().set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    use std::io::Write;
    let begun = Instant::now();
    while client.stream().write_all(request.as_bytes()).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "still open");
    }
    drop(client);
    server.wait_until_idle();
}

#[test]
fn requests_that_take_too_long_end() {
    let server = short("request");
    let endless = json!({ "model": "endless", "temperature": 0, "prompt": "x", "max_tokens": 4000 });
    let reply = server.post("/v1/completions", &endless.to_string());
    assert_eq!(reply.error(), (504, None, Some("timeout".into())));
    let mut streaming = endless;
    streaming["stream"] = true.into();
    let reply = server.post("/v1/completions", &streaming.to_string());
    assert_eq!(reply.status, 200);
    let events = reply.events();
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["error"]["code"], "timeout", "a late failure is an event");
    assert!(others.iter().all(|event| event.get("error").is_none()));
    server.wait_until_idle();
}

#[test]
fn silent_streams_are_kept_alive() {
    // A token comes two hundred times later than a ping should.
    let server = start(|config| config.server.keep_alive_ms = 1);
    let body = json!({ "model": "slow", "temperature": 0, "prompt": "x", "max_tokens": 3, "stream": true })
        .to_string();
    let reply = server.post("/v1/completions", &body);
    assert!(reply.text().contains(": ping\n\n"), "{}", reply.text());
    assert_eq!(reply.events().last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn one_connection_serves_many_requests() {
    let server = start(|_| {});
    let mut client = server.connect();
    for _ in 0..3 {
        let body =
            json!({ "model": "chat", "messages": [{ "role": "user", "content": "x" }], "stream": true });
        assert_eq!(client.post("/v1/chat/completions", &body.to_string()).status, 200);
        assert_eq!(client.post("/v1/chat/completions", "{}").status, 400);
        assert_eq!(client.request("GET", "/nothing", &[], "").status, 404);
    }
    // Pipelined: both requests leave before the first answer comes.
    client.begin("GET", "/healthz", &[], "");
    client.begin("GET", "/v1/models", &[], "");
    assert_eq!((client.reply().status, client.reply().status), (200, 200));
}

#[test]
fn nonsense_on_the_wire_ends_that_connection_only() {
    let server = start(|_| {});
    for sent in [
        "\r\n\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}",
        "POST /v1/embeddings HTTP/1.1\r\ncontent-length: nonsense\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut client = server.connect();
        client.send(sent.as_bytes());
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        assert!(client.is_closed(), "{sent:?}");
    }
    assert_eq!(server.get("/healthz").status, 200);
}
