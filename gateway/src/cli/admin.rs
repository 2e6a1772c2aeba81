//! `janus ps`, `janus load`, `janus unload`: the models of a running server.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use openapi::admin::{AdminModel, AdminModelList, AdminModelState, Unloaded};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::arguments::{LoadArguments, ServerArguments, UnloadArguments};
use super::client::Client;
use super::output::{Paint, print, table};
use crate::catalogue::size;
use crate::config;

const LIST: &str = "/admin/models";
const LIST_MAX: Duration = Duration::from_secs(5);
/// Checking and packing a large model from a slow disk.
const LOAD_MAX: Duration = Duration::from_secs(600);

pub fn list(server: &ServerArguments) -> anyhow::Result<u8> {
    let answer = client(server).get(LIST, LIST_MAX)?;
    if server.json {
        return print_json(&answer);
    }
    let list: AdminModelList = parsed(answer)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let paint = Paint::new(std::io::stdout().is_terminal());
    print(&listing(&list, now, paint))
}

pub fn load(arguments: &LoadArguments) -> anyhow::Result<u8> {
    let mut body = json!({ "model": arguments.model, "pin": arguments.pin });
    if let Some(name) = &arguments.served_name {
        body["served_name"] = name.as_str().into();
    }
    let answer = client(&arguments.server).post("/admin/models/load", &body)?;
    if arguments.server.json {
        return print_json(&answer);
    }
    let model: AdminModel = parsed(answer)?;
    let bytes = model.loaded.map_or(0, |loaded| loaded.weight_bytes + loaded.kv_bytes);
    print(&format!("{} is loaded and takes {}\n", model.id, size(bytes)))
}

pub fn unload(arguments: &UnloadArguments) -> anyhow::Result<u8> {
    let body = json!({ "model": arguments.model, "cancel": arguments.cancel });
    let answer = client(&arguments.server).post("/admin/models/unload", &body)?;
    if arguments.server.json {
        return print_json(&answer);
    }
    let Unloaded { id, unloaded, bytes } = parsed(answer)?;
    print(&match unloaded {
        true => format!("{id} is unloaded; {} are free again\n", size(bytes)),
        false => format!("{id} takes no new requests and goes when the last one is done (`janus ps`)\n"),
    })
}

fn client(server: &ServerArguments) -> Client {
    let default = || format!("http://{}", config::Config::default().server.listen);
    Client::new(&server.url.clone().unwrap_or_else(default), server.api_key.as_deref(), LOAD_MAX)
}

fn parsed<T: DeserializeOwned>(answer: Value) -> anyhow::Result<T> {
    serde_json::from_value(answer).context("the server is of another version: it answers in another form")
}

fn print_json(answer: &Value) -> anyhow::Result<u8> {
    print(&format!("{answer:#}\n"))
}

/// One line a model, then the memory. `now` in seconds since 1970.
fn listing(list: &AdminModelList, now: u64, paint: Paint) -> String {
    let heading = ["NAME", "STATE", "WEIGHTS", "CONTEXT", "PAGES", "REQUESTS", "LAST USED", "PINNED"];
    let rows: Vec<Vec<String>> = std::iter::once(heading.map(str::to_owned).to_vec())
        .chain(list.data.iter().map(|model| row(model, now)))
        .collect();
    let rows = table(&rows);
    let (first, rest) = rows.split_once('\n').unwrap_or((&rows, ""));
    let used = size(list.memory.used_bytes);
    let memory = match list.memory.total_bytes {
        Some(total) => format!("{used} of {} memory in use", size(total)),
        None => format!("{used} memory in use"),
    };
    format!("{}\n{rest}\n{}\n", paint.bold(first), paint.dim(&memory))
}

fn row(model: &AdminModel, now: u64) -> Vec<String> {
    let state = match (model.state, model.progress) {
        (AdminModelState::Ready, _) => "ready".to_owned(),
        (AdminModelState::Unloading, _) => "unloading".to_owned(),
        (AdminModelState::Loading, part) => format!("loading {:.0} %", part.unwrap_or(0.0) * 100.0),
    };
    let mut row = vec![model.id.clone(), state];
    if let Some(loaded) = &model.loaded {
        row.extend([
            size(loaded.weight_bytes),
            size(loaded.kv_bytes),
            format!("{} of {}", loaded.kv_pages_used, loaded.kv_pages),
            loaded.requests.to_string(),
            ago(now.saturating_sub(loaded.last_used)),
            if loaded.pinned { "yes" } else { "no" }.to_owned(),
        ]);
    }
    row
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..2 => "now".to_owned(),
        2..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        _ => format!("{} h ago", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_table_and_a_sum() {
        let list = json!({
            "object": "list",
            "data": [
                {
                    "id": "chat", "object": "model", "state": "ready", "architecture": "llama",
                    "parameters": 1, "max_model_len": 1, "pinned": true, "weight_bytes": 98_000_000,
                    "kv_bytes": 1_000_000, "kv_pages": 10, "kv_pages_used": 3, "requests": 2, "last_used": 940
                },
                { "id": "new", "object": "model", "state": "loading", "progress": 0.25 }
            ],
            "memory": { "total_bytes": 2_000_000_000, "used_bytes": 99_000_000 }
        });
        let text = listing(&serde_json::from_value(list).unwrap(), 1000, Paint::new(false));
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        let cells =
            |line: usize| words[line].iter().copied().filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
        assert_eq!(cells(1), ["chat", "ready", "98.0 MB", "1.0 MB", "3 of 10", "2", "60 s ago", "yes"]);
        assert_eq!(cells(2), ["new", "loading 25 %"]);
        assert_eq!(text.lines().last(), Some("99.0 MB of 2.0 GB memory in use"));
    }

    #[test]
    fn times_are_short() {
        for (seconds, expected) in [(0, "now"), (2, "2 s ago"), (120, "2 min ago"), (7200, "2 h ago")] {
            assert_eq!(ago(seconds), expected);
        }
    }
}
