//! Clients by their keys: who is served first, what a header can change, whose prompts are shared.

use gateway::Config;
use gateway::config::{Band, Client as ConfiguredClient, Public, Secret};
use serde_json::json;

use crate::support::{self, Client, Reply, Running, eventually};

/// A client whose key is its name.
fn client(name: &str, band: Band, weight: u32) -> ConfiguredClient {
    ConfiguredClient {
        name: name.into(),
        band,
        weight,
        keys: vec![Secret::new(name)],
        ..ConfiguredClient::default()
    }
}

/// A server of these clients, which another of them looks after.
fn start(clients: Vec<ConfiguredClient>, configure: impl FnOnce(&mut Config)) -> Running {
    let mut server = support::start(|config| {
        config.auth.clients = clients;
        config.auth.clients.push(client("operator", Band::System, 1));
        configure(config);
    });
    server.key = Some("operator");
    server
}

/// One place: whoever comes later waits.
fn one_place(config: &mut Config) {
    config.engine.running_sequences_max = 1;
}

fn headers<'a>(authorization: &'a str, band: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let fixed = [("content-type", "application/json"), ("authorization", authorization)];
    fixed.into_iter().chain(band.map(|band| ("x-janus-band", band))).collect()
}

/// Asks for so many tokens, 2 ms each, without reading the answer.
fn begin(server: &Running, key: &str, tokens: usize) -> Client {
    let body = json!({ "model": "endless", "prompt": "x", "max_tokens": tokens, "ignore_eos": true });
    let mut connection = server.connect();
    let authorization = format!("Bearer {key}");
    connection.begin("POST", "/v1/completions", &headers(&authorization, None), &body.to_string());
    connection
}

fn complete(server: &Running, key: &str, band: Option<&str>, prompt: &str) -> Reply {
    let body = json!({ "model": "base", "prompt": prompt, "max_tokens": 2 });
    let authorization = format!("Bearer {key}");
    server.connect().request("POST", "/v1/completions", &headers(&authorization, band), &body.to_string())
}

fn wait_for(server: &Running, name: &str, value: f64) {
    eventually(name, || server.metric(name) == value);
}

/// Whether nothing of an answer has come yet.
fn is_silent(connection: &mut Client) -> bool {
    let stream = connection.stream();
    stream.set_nonblocking(true).unwrap();
    let silent = stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    silent
}

#[test]
fn an_interactive_client_is_served_ahead_of_a_batch_that_came_first() {
    let clients = vec![client("job", Band::Batch, 1), client("person", Band::Interactive, 1)];
    let server = start(clients, one_place);
    let mut first = begin(&server, "job", 150);
    wait_for(&server, "janus_band_running_sequences{band=\"batch\"}", 1.0);
    let mut second = begin(&server, "job", 150);
    wait_for(&server, "janus_band_waiting_sequences{band=\"batch\"}", 1.0);
    let mut person = begin(&server, "person", 1);
    assert_eq!(person.reply().status, 200);
    assert!(is_silent(&mut second), "the batch was served first");
    assert_eq!((first.reply().status, second.reply().status), (200, 200));
}

#[test]
fn weights_divide_what_two_clients_want() {
    let weighing = |name, weight| client(name, Band::Interactive, weight);
    let clients = vec![weighing("first", 1), weighing("heavy", 3), weighing("light", 1)];
    let server = start(clients, one_place);
    let mut first = begin(&server, "first", 150);
    wait_for(&server, "janus_engine_running_sequences", 1.0);
    let (ended, ends) = std::sync::mpsc::channel();
    let each = 6;
    for name in ["heavy", "light"] {
        for _ in 0..each {
            let (ended, mut connection) = (ended.clone(), begin(&server, name, 10));
            std::thread::spawn(move || {
                assert_eq!(connection.reply().status, 200);
                ended.send(name).unwrap();
            });
        }
    }
    wait_for(&server, "janus_engine_waiting_requests", 2.0 * each as f64);
    assert_eq!(first.reply().status, 200);
    drop(ended);
    let order: Vec<&str> = ends.iter().collect();
    let heavy = order[..8].iter().filter(|&&name| name == "heavy").count();
    assert!(order.len() == 2 * each && heavy >= 5, "{order:?}");
}

#[test]
fn a_header_lowers_a_band_and_never_raises_it() {
    let clients = vec![client("job", Band::Batch, 1), client("person", Band::Interactive, 1)];
    let server = start(clients, |_| {});
    let served = |band: &str| server.metric(&format!("janus_band_prompt_tokens_total{{band=\"{band}\"}}"));
    // (key, header, where it is counted)
    let rows = [
        ("person", None, "interactive"),
        ("person", Some("best-effort"), "best-effort"),
        ("person", Some("system"), "interactive"),
        ("job", None, "batch"),
        ("job", Some("interactive"), "batch"),
        ("job", Some("Best-Effort"), "best-effort"),
    ];
    for (key, band, expected) in rows {
        let before = served(expected);
        assert_eq!(complete(&server, key, band, "abc").status, 200);
        eventually("it is counted there", || served(expected) > before);
    }
    assert_eq!(served("system"), 0.0);
    for band in ["urgent", ""] {
        let reply = complete(&server, "person", Some(band), "abc");
        assert_eq!(reply.error().0, 400);
        assert!(reply.text().contains("x-janus-band"), "{}", reply.text());
    }
}

#[test]
fn prompts_are_found_within_a_tenant_and_where_the_operator_shares_them() {
    let public = "s".repeat(70);
    let of_team = |name| ConfiguredClient { tenant: "team".into(), ..client(name, Band::Interactive, 1) };
    let clients = vec![
        of_team("ann"),
        of_team("ben"),
        client("eve", Band::Interactive, 1),
        client("guest", Band::Interactive, 1),
    ];
    let server = start(clients, |config| {
        let tenants = vec!["team".into(), "guest".into()];
        config.prefix.public = vec![Public { text: public.clone(), tenants, ..Public::default() }];
    });
    let cached = |key: &str, prompt: &str| {
        let reply = complete(&server, key, None, prompt);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let found = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        server.wait_until_idle();
        found
    };
    let (own, shared) = ("p".repeat(100), format!("{public}{}", "t".repeat(60)));
    for (key, prompt, expected) in [
        ("ann", &own, 0),
        ("ann", &own, 96),
        ("ben", &own, 96),
        ("eve", &own, 0),
        ("guest", &own, 0),
        // Two pages of the prefix are full.
        ("ann", &shared, 0),
        ("ben", &shared, 128),
        ("guest", &shared, 64),
        ("eve", &shared, 0),
        ("eve", &shared, 128),
    ] {
        assert_eq!(cached(key, prompt), expected, "{key}: {prompt}");
    }
}

#[test]
fn a_cache_key_keeps_prompts_and_shares_them_with_nobody() {
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let clients = vec![client("ann", Band::Interactive, 1), client("eve", Band::Interactive, 1)];
        let server = start(clients, |_| {});
        let cached = |key: &str, retention: &str| {
            let text = "p".repeat(100);
            let mut body = json!({
                "model": "chat", "max_tokens": 2,
                "prompt_cache_key": "same", "prompt_cache_retention": retention,
            });
            match path {
                "/v1/completions" => body["prompt"] = text.into(),
                _ => body["messages"] = json!([{ "role": "user", "content": text }]),
            }
            let authorization = format!("Bearer {key}");
            let headers = headers(&authorization, None);
            let reply = server.connect().request("POST", path, &headers, &body.to_string());
            assert_eq!(reply.status, 200, "{}", reply.text());
            server.wait_until_idle();
            reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0
        };
        assert!(!cached("ann", "in_memory") && cached("ann", "in_memory"), "{path}");
        assert_eq!(server.metric("janus_engine_kv_pages_retained"), 0.0, "{path}");
        assert!(!cached("eve", "24h"), "{path}: the key of another client");
        eventually("its pages are retained", || server.metric("janus_engine_kv_pages_retained") > 0.0);
        assert!(cached("eve", "24h"), "{path}");
    }
}
