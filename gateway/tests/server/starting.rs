//! A server whose models are still being loaded: alive, not ready, and it says what it waits for.

use std::sync::Arc;

use gateway::loader::EmptyShelf;

use crate::support::{Reply, open, start_closed};

const CHAT: &str = r#"{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}"#;

fn assert_waits_for(reply: &Reply, model: &str) {
    assert_eq!(reply.error(), (503, None, Some("model_loading".into())), "{}", reply.text());
    assert!(reply.text().contains(model), "{}", reply.text());
    assert!((1..=60).contains(&reply.header("retry-after").unwrap().parse::<u32>().unwrap()));
}

#[test]
fn requests_are_told_which_model_they_wait_for() {
    let (server, front, config) = start_closed(|_| {});
    assert_waits_for(&server.get("/readyz"), "starting");
    // It stays open from before the models are there until after.
    let mut client = server.connect();
    for name in ["first", "second"] {
        front.set_loading(name);
        for path in ["/readyz", "/v1/models", "/v1/models/chat", "/admin/models"] {
            assert_waits_for(&server.get(path), &format!("`{name}`"));
        }
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/admin/models/load"] {
            assert_waits_for(&client.post(path, CHAT), &format!("`{name}`"));
        }
        assert_eq!(server.get("/healthz").status, 200);
        assert_eq!(server.metric("janus_engine_models"), 0.0);
        assert_eq!(server.get("/nonsense").status, 404);
    }
    open(&front, &config, Arc::new(EmptyShelf));
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(client.post("/v1/chat/completions", CHAT).status, 200);
    assert!(server.metric("janus_engine_models") > 0.0);
}

#[test]
fn a_key_is_wanted_from_the_start() {
    let (mut server, front, _) = start_closed(|config| {
        config.auth.api_keys = vec![gateway::config::Secret::new("right")];
    });
    front.set_loading("private");
    assert_eq!(server.get("/v1/models").status, 401);
    server.key = Some("right");
    assert_waits_for(&server.get("/v1/models"), "private");
}

#[test]
fn a_server_can_be_told_to_end_before_its_models_are_there() {
    let (mut server, front, config) = start_closed(|_| {});
    server.begin_stop();
    server.wait();
    open(&front, &config, Arc::new(EmptyShelf));
    assert!(std::net::TcpStream::connect(server.address).is_err(), "nobody listens");
}
