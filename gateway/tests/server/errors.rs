//! What is refused, with which status, parameter and code; and the headers of every answer.

use serde_json::{Value, json};

use crate::support::{Running, eventually, start};

fn merged(base: Value, more: &Value) -> String {
    let mut body = base;
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn check(server: &Running, path: &str, body: &str, expected: (u16, Option<&str>, Option<&str>)) {
    let reply = server.post(path, body);
    let (status, param, code) = reply.error();
    assert_eq!((status, param.as_deref(), code.as_deref()), expected, "{path} {body}: {}", reply.text());
}

#[test]
fn chat_refusals() {
    let server = start(|config| config.limits.messages_max = 3);
    let invalid = Some("invalid_value");
    let unsupported = Some("unsupported_parameter");
    let user = json!({ "role": "user", "content": "x" });
    let rows: &[(Value, u16, Option<&str>, Option<&str>)] = &[
        (json!({ "model": "nobody" }), 404, Some("model"), Some("model_not_found")),
        (json!({ "model": "vectors" }), 400, Some("model"), invalid),
        (json!({ "model": "base" }), 400, Some("model"), invalid),
        (json!({ "model": 5 }), 400, Some("model"), Some("invalid_type")),
        (json!({ "messages": [] }), 400, Some("messages"), invalid),
        (
            json!({ "prompt_cache_retention": "48h" }),
            400,
            Some("prompt_cache_retention"),
            Some("invalid_type"),
        ),
        (json!({ "prompt_cache_key": 5 }), 400, Some("prompt_cache_key"), Some("invalid_type")),
        (json!({ "prompt_cache_key": "k".repeat(513) }), 400, Some("prompt_cache_key"), invalid),
        (json!({ "messages": [user, user, user, user] }), 400, Some("messages"), invalid),
        (json!({ "messages": [{ "role": "user" }] }), 400, Some("messages[0].content"), invalid),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "x" } }] }] }),
            400,
            Some("messages[0].content[0].type"),
            unsupported,
        ),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "text" }] }] }),
            400,
            Some("messages[0].content[0].text"),
            invalid,
        ),
        (
            json!({ "messages": [{ "role": "nobody", "content": "x" }] }),
            400,
            Some("messages[0].role"),
            Some("invalid_type"),
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "x".repeat(5000) }] }),
            400,
            Some("messages"),
            Some("context_length_exceeded"),
        ),
        (json!({ "max_tokens": 4090 }), 400, Some("messages"), Some("context_length_exceeded")),
        (json!({ "max_tokens": 0 }), 400, Some("max_tokens"), invalid),
        (json!({ "max_completion_tokens": 0 }), 400, Some("max_completion_tokens"), invalid),
        (json!({ "temperature": 2.1 }), 400, Some("temperature"), invalid),
        (json!({ "temperature": "x" }), 400, Some("temperature"), Some("invalid_type")),
        (json!({ "top_p": 1.5 }), 400, Some("top_p"), invalid),
        (json!({ "presence_penalty": -3 }), 400, Some("presence_penalty"), invalid),
        (json!({ "frequency_penalty": 3 }), 400, Some("frequency_penalty"), invalid),
        (json!({ "repetition_penalty": 0 }), 400, Some("repetition_penalty"), invalid),
        (json!({ "min_p": 2 }), 400, Some("min_p"), invalid),
        (json!({ "top_k": -5 }), 400, Some("top_k"), invalid),
        (json!({ "n": 0 }), 400, Some("n"), invalid),
        (json!({ "n": 129 }), 400, Some("n"), invalid),
        (json!({ "top_logprobs": 3 }), 400, Some("top_logprobs"), invalid),
        (json!({ "logprobs": true, "top_logprobs": 21 }), 400, Some("top_logprobs"), invalid),
        (json!({ "logit_bias": { "x": 1 } }), 400, Some("logit_bias"), invalid),
        (json!({ "logit_bias": { "300": 1 } }), 400, Some("logit_bias"), invalid),
        (json!({ "logit_bias": { "3": 101 } }), 400, Some("logit_bias"), invalid),
        (json!({ "stop": (0..17).map(|n| n.to_string()).collect::<Vec<_>>() }), 400, Some("stop"), invalid),
        (json!({ "stop": "" }), 400, Some("stop"), invalid),
        (json!({ "stream_options": { "include_usage": true } }), 400, Some("stream_options"), invalid),
        (json!({ "tools": [{ "type": "function" }] }), 400, Some("tools"), unsupported),
        (json!({ "response_format": { "type": "json_object" } }), 400, Some("response_format"), unsupported),
        (json!({ "modalities": ["audio"] }), 400, Some("modalities"), unsupported),
        (json!({ "frobnicate": 1 }), 400, Some("frobnicate"), Some("unknown_parameter")),
        (json!({ "stream": "yes" }), 400, Some("stream"), Some("invalid_type")),
    ];
    let base = json!({ "model": "chat", "messages": [{ "role": "user", "content": "hi" }] });
    for (more, status, param, code) in rows {
        check(&server, "/v1/chat/completions", &merged(base.clone(), more), (*status, *param, *code));
    }
    server.wait_until_idle();
    let unknown = server.post("/v1/chat/completions", &merged(base, &json!({ "frobnicate": 1 })));
    assert_eq!(unknown.json()["error"]["message"], "Unrecognized request argument supplied: frobnicate");
}

#[test]
fn completion_refusals() {
    let server = start(|config| config.limits.choices_max = 4);
    let invalid = Some("invalid_value");
    let rows: &[(Value, Option<&str>, Option<&str>)] = &[
        (json!({ "prompt": "" }), Some("prompt"), invalid),
        (json!({ "prompt": [] }), Some("prompt"), invalid),
        (json!({ "prompt": [[]] }), Some("prompt"), invalid),
        (json!({ "prompt": ["a", 1] }), Some("prompt[1]"), Some("invalid_type")),
        (json!({ "prompt": null }), Some("prompt"), Some("invalid_type")),
        (json!({ "prompt": [258] }), Some("prompt"), invalid),
        (json!({ "prompt": ["a", "b", "c", "d", "e"] }), Some("prompt"), invalid),
        (json!({ "prompt": ["a", "b"], "n": 3 }), Some("n"), invalid),
        (json!({ "best_of": 1, "n": 2 }), Some("best_of"), invalid),
        (json!({ "suffix": "x" }), Some("suffix"), Some("unsupported_parameter")),
        (json!({ "logprobs": 21 }), Some("logprobs"), invalid),
        (json!({ "logprobs": true }), Some("logprobs"), Some("invalid_type")),
        (json!({ "max_tokens": 0 }), Some("max_tokens"), invalid),
        (json!({ "max_tokens": 5000 }), Some("prompt"), Some("context_length_exceeded")),
        (json!({ "messages": [] }), Some("messages"), Some("unknown_parameter")),
        (json!({ "prompt_cache_retention": "48h" }), Some("prompt_cache_retention"), Some("invalid_type")),
        (json!({ "prompt_cache_key": "k".repeat(513) }), Some("prompt_cache_key"), invalid),
    ];
    for (more, param, code) in rows {
        let body = merged(json!({ "model": "base", "prompt": "a" }), more);
        check(&server, "/v1/completions", &body, (400, *param, *code));
    }
    check(
        &server,
        "/v1/completions",
        r#"{"model":"base"}"#,
        (400, Some("prompt"), Some("missing_required_parameter")),
    );
}

#[test]
fn embedding_refusals() {
    let server = start(|_| {});
    let many: Vec<&str> = vec!["a"; 2049];
    let invalid = Some("invalid_value");
    let rows: &[(Value, u16, Option<&str>, Option<&str>)] = &[
        (json!({ "model": "nobody" }), 404, Some("model"), Some("model_not_found")),
        (json!({ "model": "chat" }), 400, Some("model"), invalid),
        (json!({ "input": "" }), 400, Some("input"), invalid),
        (json!({ "input": ["a", ""] }), 400, Some("input"), invalid),
        (json!({ "input": [] }), 400, Some("input"), invalid),
        (json!({ "input": [[1], []] }), 400, Some("input"), invalid),
        (json!({ "input": [999_999] }), 400, Some("input"), invalid),
        (json!({ "input": many }), 400, Some("input"), invalid),
        (json!({ "input": "a".repeat(513) }), 400, Some("input"), Some("context_length_exceeded")),
        (json!({ "input": 5 }), 400, Some("input"), Some("invalid_type")),
        (json!({ "dimensions": 0 }), 400, Some("dimensions"), invalid),
        (json!({ "dimensions": 5 }), 400, Some("dimensions"), invalid),
        (json!({ "encoding_format": "hex" }), 400, Some("encoding_format"), Some("invalid_type")),
        (json!({ "truncate": true }), 400, Some("truncate"), Some("unknown_parameter")),
    ];
    for (more, status, param, code) in rows {
        let body = merged(json!({ "model": "vectors", "input": "a" }), more);
        check(&server, "/v1/embeddings", &body, (*status, *param, *code));
    }
}

#[test]
fn bodies_that_are_no_requests() {
    let server = start(|_| {});
    for (body, message) in [
        ("{\"model\":\n x}", "line 2 column 2"),
        ("", "EOF while parsing"),
        ("nonsense", "not valid JSON"),
        ("\u{0}", "not valid JSON"),
        ("[]", "Invalid value for the body"),
    ] {
        let reply = server.connect().request(
            "POST",
            "/v1/embeddings",
            &[("content-type", "application/json; charset=utf-8")],
            body,
        );
        assert_eq!(reply.error().0, 400, "{body}");
        assert!(
            reply.json()["error"]["message"].as_str().unwrap().contains(message),
            "{body}: {}",
            reply.text()
        );
    }
    let deep = format!("{{\"model\":\"chat\",\"messages\":[],\"tools\":{}", "[".repeat(100_000));
    assert_eq!(server.post("/v1/chat/completions", &deep).error().0, 400, "depth is bounded");
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let reply =
            server.connect().request("POST", "/v1/embeddings", &[("content-type", content_type)], "{}");
        assert_eq!(reply.error().0, 415, "{content_type}");
    }
}

#[test]
fn unknown_addresses_and_methods() {
    let server = start(|_| {});
    for (method, path, status, message) in [
        ("GET", "/v1/nothing", 404, "Invalid URL (GET /v1/nothing)"),
        ("POST", "/", 404, "Invalid URL (POST /)"),
        ("GET", "/v1/models/nobody", 404, "The model `nobody` does not exist"),
        ("GET", "/v1/models/%ff", 404, "does not exist"),
        ("GET", "/v1/chat/completions", 405, "Not allowed to GET on /v1/chat/completions"),
        ("DELETE", "/v1/models/chat", 405, "Not allowed to DELETE"),
        ("POST", "/healthz", 405, "Not allowed to POST on /healthz"),
    ] {
        let reply = server.connect().request(method, path, &[], "");
        assert_eq!(reply.error().0, status, "{method} {path}");
        assert!(reply.json()["error"]["message"].as_str().unwrap().contains(message), "{}", reply.text());
        assert_eq!(reply.header("allow").is_some(), status == 405, "{method} {path}");
    }
}

#[test]
fn models_are_listed_and_described() {
    let server = start(|_| {});
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    let names: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat", "endless", "slow", "base", "vectors", "org/slashed"]);
    for path in ["/v1/models/org/slashed", "/v1/models/org%2Fslashed"] {
        let model = server.get(path).json();
        assert_eq!(
            (&model["id"], &model["object"], &model["owned_by"]),
            (&json!("org/slashed"), &json!("model"), &json!("janus"))
        );
        assert_eq!(model["max_model_len"], 4096);
    }
}

#[test]
fn every_answer_names_its_request() {
    let server = start(|_| {});
    let with_id = |id: &str| server.connect().request("GET", "/v1/models", &[("x-request-id", id)], "");
    let long = "x".repeat(129);
    for (sent, kept) in [
        ("abc-1.2_3:/+=", true),
        ("with space", false),
        ("quote\"", false),
        (long.as_str(), false),
        ("", false),
    ] {
        let reply = with_id(sent);
        let id = reply.header("x-request-id").unwrap();
        assert_eq!(id == sent, kept, "{sent}");
        assert!(kept || id.starts_with("req_"), "{id}");
        assert!(reply.header("openai-processing-ms").unwrap().parse::<u64>().is_ok());
    }
    for path in ["/healthz", "/nothing"] {
        assert!(server.get(path).header("x-request-id").is_some(), "{path}");
    }
    let limited = server.get("/v1/models").headers.iter().any(|(name, _)| name.starts_with("x-ratelimit"));
    assert!(!limited, "no limit, no header about it");
}

#[test]
fn keys_open_the_server() {
    let server = start(|config| config.auth.api_keys = vec![gateway::config::Secret::new("open-sesame")]);
    let get = |path: &str, authorization: &str| {
        server.connect().request("GET", path, &[("authorization", authorization)], "")
    };
    for (path, authorization, status) in [
        ("/v1/models", "Bearer open-sesame", 200),
        ("/v1/models", "bearer open-sesame", 200),
        ("/v1/models", "Bearer open-sesam", 401),
        ("/v1/models", "Bearer ", 401),
        ("/v1/models", "Basic open-sesame", 401),
        ("/v1/models", "open-sesame", 401),
        ("/metrics", "Bearer open-sesame", 200),
        ("/metrics", "", 401),
        ("/nothing", "", 401),
        ("/healthz", "", 200),
        ("/readyz", "", 200),
    ] {
        let reply = get(path, authorization);
        assert_eq!(reply.status, status, "{path} {authorization}");
        if status == 401 {
            assert_eq!(reply.error().2.as_deref(), Some("invalid_api_key"));
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
    }
}

#[test]
fn probes_and_metrics_answer() {
    let server = start(|_| {});
    assert_eq!(server.get("/healthz").json(), json!({ "status": "alive" }));
    assert_eq!(server.get("/readyz").json(), json!({ "status": "ready" }));
    server.get("/nothing");
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "janus_requests_total{route=\"/healthz\",status=\"200\"} 1",
        "janus_requests_total{route=\"other\",status=\"404\"} 1",
        "# TYPE janus_engine_running_sequences gauge",
    ] {
        // A request is counted once its response is sent, which its client may see first.
        eventually(line, || server.get("/metrics").text().lines().any(|found| found == line));
    }
}

#[test]
fn errors_quote_a_bounded_part_of_what_was_sent() {
    let server = start(|_| {});
    let long = "x".repeat(1 << 20);
    for (path, body) in [
        ("/v1/completions", json!({ "model": long, "prompt": "x" })),
        ("/v1/completions", json!({ "model": "chat", "prompt": "x", "logit_bias": { (&long): 1 } })),
        ("/v1/embeddings", json!({ "model": long, "input": "x" })),
        ("/admin/models/load", json!({ "model": long })),
    ] {
        let reply = server.post(path, &body.to_string());
        assert!((400..500).contains(&reply.status), "{path}: {}", reply.status);
        assert!(reply.body.len() < 4096, "{path}: {} bytes", reply.body.len());
    }
}
