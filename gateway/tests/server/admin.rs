//! Models loaded and unloaded while the server runs, by an operator and on demand.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use engine::model::LoadedModel;
use engine::{Engine, EngineError};
use gateway::Config;
use gateway::config::Secret;
use gateway::loader::{LoadError, LoadOrder, Loader, Shelf, ShelfModel};
use serde_json::{Value, json};

use super::support::{ANSWER, Reply, Running, answers, chat_model, eventually, start_with};

/// `extra` and `other` can be loaded; `gated` once the gate is open; `broken` is damaged; `huge` is larger
/// than any budget.
#[derive(Default)]
struct MockShelf {
    open: Mutex<bool>,
    changed: Condvar,
}

impl MockShelf {
    fn open_gate(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

const EXTRA_ANSWER: &str = "I am extra.";

impl Shelf for MockShelf {
    fn list(&self) -> Vec<ShelfModel> {
        ["extra", "other", "gated", "broken", "huge"].iter().map(|name| self.find(name).unwrap()).collect()
    }

    fn find(&self, name: &str) -> Result<ShelfModel, LoadError> {
        let bytes = match name {
            "extra" | "other" | "gated" | "broken" => 1000,
            "huge" => u64::MAX,
            _ => return Err(LoadError::Unknown(name.to_owned())),
        };
        Ok(ShelfModel { name: name.to_owned(), bytes, created: 7, context_tokens: None })
    }

    fn open(
        &self,
        model: &ShelfModel,
        served_name: &str,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<LoadedModel, LoadError> {
        progress(0.25);
        match model.name.as_str() {
            "broken" => Err(EngineError::Failed("its SHA-256 is another".into()).into()),
            "gated" => {
                let gate = self.open.lock().unwrap();
                drop(self.changed.wait_while(gate, |open| !*open).unwrap());
                Ok(chat_model(served_name, Duration::ZERO, answers(EXTRA_ANSWER)))
            }
            _ => Ok(chat_model(served_name, Duration::ZERO, answers(EXTRA_ANSWER))),
        }
    }
}

fn start(configure: impl FnOnce(&mut Config)) -> (Running, Arc<MockShelf>) {
    let shelf = Arc::new(MockShelf::default());
    let server = start_with(Arc::clone(&shelf) as Arc<dyn Shelf>, configure);
    (server, shelf)
}

fn ask(server: &Running, model: &str) -> Reply {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let body = json!({ "model": model, "messages": messages, "temperature": 0 });
    server.post("/v1/chat/completions", &body.to_string())
}

fn content(reply: &Reply) -> String {
    reply.json()["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_else(|| panic!("{reply:?}"))
        .to_owned()
}

fn load(server: &Running, body: Value) -> Reply {
    server.post("/admin/models/load", &body.to_string())
}

fn unload(server: &Running, body: Value) -> Reply {
    server.post("/admin/models/unload", &body.to_string())
}

/// What `/admin/models` says of the models called `name`.
fn described(server: &Running, name: &str) -> Vec<Value> {
    let list = server.get("/admin/models").json();
    list["data"].as_array().unwrap().iter().filter(|model| model["id"] == name).cloned().collect()
}

fn listed(server: &Running) -> Vec<String> {
    let list = server.get("/v1/models").json();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_model_is_loaded_used_and_unloaded() {
    let (server, _) = start(|_| {});
    assert_eq!(ask(&server, "extra").error().0, 404);
    let before = server.get("/admin/models").json()["memory"]["used_bytes"].as_u64().unwrap();
    let loaded = load(&server, json!({ "model": "extra", "pin": true })).json();
    assert_eq!(
        (&loaded["id"], &loaded["state"], &loaded["pinned"]),
        (&json!("extra"), &json!("ready"), &json!(true))
    );
    assert!(loaded["kv_bytes"].as_u64().unwrap() > 0 && loaded["kv_pages_used"] == 0);
    assert!(loaded["last_used"].as_u64().unwrap() > 1_700_000_000);
    let list = server.get("/admin/models").json();
    assert_eq!(list["memory"]["used_bytes"].as_u64().unwrap(), before + loaded["kv_bytes"].as_u64().unwrap());
    assert_eq!(content(&ask(&server, "extra")), EXTRA_ANSWER);
    assert!(listed(&server).contains(&"extra".to_owned()));
    let unloaded = unload(&server, json!({ "model": "extra" })).json();
    assert_eq!(unloaded, json!({ "id": "extra", "unloaded": true, "bytes": loaded["kv_bytes"] }));
    assert_eq!(ask(&server, "extra").error().0, 404);
    assert!(!listed(&server).contains(&"extra".to_owned()));
    assert_eq!(server.get("/admin/models").json()["memory"]["used_bytes"], before);
    assert_eq!(server.metric("janus_engine_models"), 6.0);
}

#[test]
fn a_version_is_swapped_while_a_stream_goes_on() {
    let (server, _) = start(|_| {});
    let mut stream = server.connect();
    let body = json!({ "model": "slow", "prompt": "x", "max_tokens": 4000, "stream": true });
    stream.begin_post("/v1/completions", &body.to_string());
    assert_eq!(stream.head().0, 200);
    assert!(stream.chunk().is_some());
    assert_eq!(load(&server, json!({ "model": "extra", "served_name": "slow" })).status, 200);
    assert_eq!(content(&ask(&server, "slow")), EXTRA_ANSWER);
    let states: Vec<Value> = described(&server, "slow").iter().map(|model| model["state"].clone()).collect();
    assert_eq!(states, ["unloading", "ready"]);
    assert!(String::from_utf8(stream.chunk().unwrap()).unwrap().contains("data: "));
    drop(stream);
    eventually("the old version is gone", || described(&server, "slow").len() == 1);
    assert_eq!(content(&ask(&server, "slow")), EXTRA_ANSWER);
}

#[test]
fn an_unload_waits_for_what_runs_or_ends_it() {
    let (server, _) = start(|_| {});
    let mut stream = server.connect();
    let body = json!({ "model": "slow", "prompt": "x", "max_tokens": 4000, "stream": true });
    stream.begin_post("/v1/completions", &body.to_string());
    assert_eq!(stream.head().0, 200);
    assert!(stream.chunk().is_some());
    assert_eq!(unload(&server, json!({ "model": "slow" })).json()["unloaded"], false);
    let refused = server.post("/v1/completions", &body.to_string());
    assert_eq!(refused.error(), (503, None, Some("model_unloading".into())));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(unload(&server, json!({ "model": "slow", "cancel": true })).json()["unloaded"], true);
    // The stream ends, with an error in its place.
    let mut last = String::new();
    while let Some(chunk) = stream.chunk() {
        last = String::from_utf8(chunk).unwrap();
    }
    assert!(last.contains("The model was unloaded") && last.contains("model_unloading"), "{last}");
    assert_eq!(unload(&server, json!({ "model": "slow" })).error().0, 404);
}

#[test]
fn what_cannot_be_loaded_is_refused_by_its_reason() {
    let (server, shelf) = start(|config| config.engine.memory_mib = 64);
    let long = "x".repeat(129);
    let rows = [
        (json!({ "model": "nonsense" }), 404, Some("model"), "model_not_found"),
        (json!({ "model": "/etc/passwd" }), 404, Some("model"), "model_not_found"),
        (json!({ "model": "../models/extra" }), 404, Some("model"), "model_not_found"),
        (json!({ "model": "extra", "served_name": "" }), 400, Some("served_name"), "invalid_value"),
        (json!({ "model": "extra", "served_name": "a b" }), 400, Some("served_name"), "invalid_value"),
        (json!({ "model": "extra", "served_name": long }), 400, Some("served_name"), "invalid_value"),
        (json!({ "model": "extra", "path": "/x" }), 400, Some("path"), "unknown_parameter"),
        (json!({}), 400, Some("model"), "missing_required_parameter"),
        (json!({ "model": "huge" }), 503, None, "insufficient_memory"),
        (json!({ "model": "broken" }), 500, None, "model_not_loaded"),
    ];
    for (body, status, param, code) in rows {
        let expected = (status, param.map(str::to_owned), Some(code.to_owned()));
        assert_eq!(load(&server, body.clone()).error(), expected, "{body}");
    }
    let refused = load(&server, json!({ "model": "huge" })).text();
    assert!(refused.contains("the budget's 64 are free") && refused.contains("are missing"), "{refused}");
    let broken = load(&server, json!({ "model": "broken" })).text();
    assert!(broken.contains("its SHA-256 is another"), "{broken}");
    // While one is loading under a name, another cannot.
    let mut waiting = server.connect();
    waiting.begin_post("/admin/models/load", r#"{"model":"gated","served_name":"new"}"#);
    eventually("it is loading", || described(&server, "new").iter().any(|model| model["progress"] == 0.25));
    let busy = load(&server, json!({ "model": "extra", "served_name": "new" }));
    assert_eq!(busy.error(), (409, None, Some("model_loading".into())));
    assert_eq!(content(&ask(&server, "chat")), ANSWER, "the others go on");
    shelf.open_gate();
    assert_eq!(waiting.reply().json()["id"], "new");
    assert_eq!(content(&ask(&server, "new")), EXTRA_ANSWER);
}

#[test]
fn only_admin_keys_manage_models() {
    let key = |text: &str| vec![Secret::new(text)];
    // API keys, admin keys; and for no key, an API key, an admin key and a wrong one: the status of the
    // admin API, and of the others.
    type Row<'a> = (&'a [&'a str], &'a [&'a str], [(u16, u16); 4]);
    let rows: &[Row<'_>] = &[
        (&[], &[], [(200, 200), (200, 200), (200, 200), (200, 200)]),
        (&["user"], &[], [(401, 401), (403, 200), (401, 401), (401, 401)]),
        (&["user"], &["root"], [(401, 401), (403, 200), (200, 200), (401, 401)]),
        (&[], &["root"], [(401, 200), (401, 200), (200, 200), (401, 200)]),
    ];
    for (keys, admin_keys, expected) in rows {
        let (server, _) = start(|config| {
            config.auth.api_keys = keys.iter().flat_map(|text| key(text)).collect();
            config.auth.admin_keys = admin_keys.iter().flat_map(|text| key(text)).collect();
        });
        for (sent, expected) in [None, Some("user"), Some("root"), Some("wrong")].iter().zip(expected) {
            let bearer = sent.map(|key| format!("Bearer {key}"));
            let headers: Vec<(&str, &str)> =
                bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
            let get = |path| server.connect().request("GET", path, &headers, "").status;
            let found = (get("/admin/models"), get("/v1/models"));
            assert_eq!(found, *expected, "{keys:?} {admin_keys:?} {sent:?}");
            let mut headers = headers.clone();
            headers.push(("content-type", "application/json"));
            let body = r#"{"model":"nonsense"}"#;
            let load = server.connect().request("POST", "/admin/models/load", &headers, body).status;
            assert_eq!(load, if expected.0 == 200 { 404 } else { expected.0 }, "{sent:?}");
        }
    }
}

#[test]
fn a_request_loads_the_model_it_names_where_that_is_allowed() {
    let (server, shelf) = start(|config| {
        config.models.on_demand = true;
        config.models.on_demand_wait_ms = 300;
    });
    assert!(listed(&server).ends_with(&["gated".to_owned(), "broken".into(), "huge".into()]));
    assert_eq!(server.get("/v1/models/extra").json()["created"], 7);
    assert!(described(&server, "extra").is_empty(), "being listed loads nothing");
    assert_eq!(content(&ask(&server, "extra")), EXTRA_ANSWER);
    assert_eq!(described(&server, "extra")[0]["pinned"], false);
    assert_eq!(ask(&server, "nonsense").error().0, 404);
    // One that takes too long: others go on, and it is there for whoever comes later.
    assert_eq!(ask(&server, "gated").error(), (503, None, Some("model_loading".into())));
    assert_eq!(content(&ask(&server, "chat")), ANSWER);
    shelf.open_gate();
    eventually("it is loaded", || described(&server, "gated").iter().any(|model| model["state"] == "ready"));
    assert_eq!(content(&ask(&server, "gated")), EXTRA_ANSWER);
    // What is wrong is told to operators only.
    let refused = ask(&server, "broken");
    assert_eq!(refused.error(), (503, None, Some("model_not_loaded".into())));
    assert!(!refused.text().contains("SHA-256"));
    let embedding = server.post("/v1/embeddings", r#"{"model":"other","input":"x"}"#);
    assert_eq!(embedding.error().0, 400, "it was loaded and generates text");
}

#[test]
fn many_requests_wait_for_one_load() {
    let (server, shelf) = start(|config| config.models.on_demand = true);
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let body = json!({ "model": "gated", "messages": messages, "temperature": 0 }).to_string();
    clients.iter_mut().for_each(|client| client.begin_post("/v1/chat/completions", &body));
    eventually("all wait", || server.metric("janus_requests_in_flight") == 5.0);
    assert_eq!(described(&server, "gated").len(), 1);
    shelf.open_gate();
    for client in &mut clients {
        assert_eq!(content(&client.reply()), EXTRA_ANSWER);
    }
}

#[test]
fn without_permission_requests_load_nothing() {
    let (server, _) = start(|_| {});
    assert_eq!(ask(&server, "extra").error().2, Some("model_not_found".into()));
    assert!(!listed(&server).contains(&"extra".to_owned()));
    assert_eq!(server.get("/v1/models/extra").error().0, 404);
}

fn loader_of(models: Vec<LoadedModel>, shelf: Arc<MockShelf>) -> (Engine, Arc<Loader>) {
    let engine = Engine::start(models, engine::EngineOptions::default()).unwrap();
    let loader = Loader::new(engine.clone(), shelf);
    (engine, loader)
}

#[test]
fn a_model_that_is_served_by_now_is_not_loaded_again() {
    let shelf = Arc::new(MockShelf::default());
    let served = chat_model("broken", Duration::ZERO, answers(ANSWER));
    let (engine, loader) = loader_of(vec![served], Arc::clone(&shelf));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // From the shelf it could not be loaded at all.
    runtime.block_on(loader.load_on_demand("broken")).unwrap();
    assert!(engine.model("broken").is_ok());
}

#[test]
fn remembered_failures_keep_no_model_from_being_loaded() {
    let (engine, loader) = loader_of(Vec::new(), Arc::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let order =
        |model: &str, served_name: String| LoadOrder { model: model.into(), served_name, pinned: false };
    for number in 0..20 {
        let failed = runtime.block_on(loader.load(order("broken", format!("broken-{number}"))));
        assert!(matches!(*failed.unwrap_err(), LoadError::Engine(_)), "load {number} was tried");
    }
    runtime.block_on(loader.load(order("extra", "extra".into()))).unwrap();
    assert!(engine.model("extra").is_ok());
}
