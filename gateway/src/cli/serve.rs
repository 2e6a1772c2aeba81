//! `janus serve`: configuration, models, engine, server; then one block that says what is where.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use engine::Engine;
use engine::model::{LoadedModel, ModelInfo, Task};
use tokio::sync::oneshot;

use super::DONE;
use super::arguments::ServeArguments;
use super::interrupt::stop_signal;
use super::output::{Paint, print, table};
use crate::catalogue::size;
use crate::config::{Config, Sources};
use crate::loader::LoadError;
use crate::open::{self, Opener, Source};
use crate::packed;
use crate::server::Server;
use crate::shelf::StoreShelf;
use crate::telemetry::start_logs;
use crate::wiring::{Front, SharedFront};

/// After the server has stopped: for what still runs on its threads.
const LAST_TASKS: Duration = Duration::from_secs(2);

pub fn run(arguments: &ServeArguments, folder: Option<&Path>) -> anyhow::Result<u8> {
    let start = Instant::now();
    let config = configuration(arguments, folder)?;
    start_logs(&config.log)?;
    kernels::host::return_buffers_when_freed();
    let front = Front::new(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that serve connections")?;
    let served = runtime.block_on(serve(config, &front, start));
    // Dropping the runtime would wait for its blocking work without end.
    runtime.shutdown_timeout(LAST_TASKS);
    // With it goes the engine, which keeps pages of prompts before it ends.
    drop(front);
    served.map(|()| DONE)
}

/// Listens, loads the models beside it, and serves until it is told to end or they cannot be loaded.
async fn serve(config: Config, front: &SharedFront, start: Instant) -> anyhow::Result<()> {
    let server = Server::bind(Arc::clone(front)).await?;
    let stop = stop_signal().context("cannot listen for signals")?;
    let address = server.local_address();
    let (report, opened) = oneshot::channel();
    let opening = Arc::clone(front);
    let open = move || {
        let models = open(&config, &opening);
        // Nobody listens any more when the server was told to end meanwhile.
        let _ = report.send(models.map(|models| ready(address, &models, start.elapsed())));
    };
    std::thread::Builder::new().name("opener".to_owned()).spawn(open).context("cannot start a thread")?;
    let mut ended = Ok(());
    server.run(async { ended = until_told(stop, opened).await }).await;
    ended
}

/// Loads the models, starts their engine and lets requests in; what is served then.
fn open(config: &Config, front: &Front) -> anyhow::Result<Vec<ModelInfo>> {
    let mut options = config.engine.options();
    options.prefix = config.prefix.options()?;
    options.pin_first_models = config.models.keep;
    let (models, shelf) = load_models(config, options.memory_bytes_max, &|model| front.set_loading(model))?;
    let engine = Engine::start(models, options)?;
    let models = engine.models();
    front.open(engine, Arc::new(shelf));
    Ok(models)
}

/// Prints the block of a ready server when it is, and returns when the server has to end.
async fn until_told(
    mut stop: oneshot::Receiver<()>,
    opened: oneshot::Receiver<anyhow::Result<String>>,
) -> anyhow::Result<()> {
    tokio::select! {
        _ = &mut stop => return Ok(()),
        opened = opened => print(&opened.map_err(|_| LoadError::Crashed)??)?,
    };
    // The sender lives on a thread that outlives this.
    let _ = stop.await;
    Ok(())
}

/// Defaults, file, environment, flags.
fn configuration(arguments: &ServeArguments, folder: Option<&Path>) -> anyhow::Result<Config> {
    let mut overrides: Vec<(String, String)> = Vec::new();
    for set in &arguments.set {
        let (key, value) =
            set.split_once('=').with_context(|| format!("--set {set}: write SECTION.KEY=VALUE"))?;
        overrides.push((key.to_owned(), value.to_owned()));
    }
    let mut flag = |key: &str, value: Option<String>| {
        overrides.extend(value.map(|value| (key.to_owned(), value)));
    };
    arguments.model.iter().for_each(|model| flag("models.serve", Some(model.clone())));
    arguments.draft.iter().for_each(|draft| flag("models.drafts", Some(draft.clone())));
    flag("models.folder", folder.map(|folder| folder.display().to_string()));
    flag("models.context_tokens_max", arguments.context.map(|tokens| tokens.to_string()));
    flag("engine.kv_format", arguments.kv_format.clone());
    flag("engine.threads", arguments.threads.map(|threads| threads.to_string()));
    flag("prefix.store_dir", arguments.kv_store.as_ref().map(|folder| folder.display().to_string()));
    flag("server.listen", arguments.listen.clone());
    let environment = Sources::process_environment();
    Ok(Config::load(&Sources { file: arguments.config.as_deref(), environment, overrides })?)
}

/// Loads what the configuration names, or the catalogue's defaults; the shelf has those and the
/// catalogue's others. `begin` is told each one's name as its turn comes.
fn load_models(
    config: &Config,
    memory_bytes: usize,
    begin: &dyn Fn(&str),
) -> anyhow::Result<(Vec<LoadedModel>, StoreShelf)> {
    let models = &config.models;
    let folder = Some(Path::new(&models.folder)).filter(|folder| !folder.as_os_str().is_empty());
    let mut opener = Opener::new(folder, Some(config.engine.threads).filter(|&threads| threads > 0))?;
    opener.device = opener.device.with_kv_format(config.engine.kv_format.kernels());
    opener.verify = models.verify;
    opener.packed = packed::cache(models);
    opener.keeps_pages = config.prefix.enabled && !config.prefix.store_dir.is_empty();
    opener.context_tokens = Some(models.context_tokens_max).filter(|&tokens| tokens > 0);
    for (name, draft) in drafts(&models.drafts)? {
        let source = opener.locate(&draft)?;
        opener.drafts.insert(name, source);
    }
    let mut wanted = models.serve.clone();
    if wanted.is_empty() {
        wanted = opener.catalogue.defaults().map(|model| model.name.clone()).collect();
    }
    let locate = |wanted: &String| {
        begin(open::label(wanted));
        opener.locate(wanted)
    };
    let sources = wanted.iter().map(locate).collect::<anyhow::Result<Vec<_>>>()?;
    let bytes = sources.iter().map(Source::bytes).sum();
    if bytes > memory_bytes as u64 {
        let (bytes, memory) = (size(bytes), size(memory_bytes as u64));
        bail!("the models take {bytes}, and {memory} of memory are theirs to use; see engine.memory_mib");
    }
    let mut loaded: Vec<LoadedModel> = Vec::new();
    for (wanted, source) in wanted.iter().zip(&sources) {
        begin(open::label(wanted));
        let model = opener.load(source)?;
        if loaded.iter().any(|other| other.info.name == model.info.name) {
            bail!("two models are called `{0}`; name one of them with --model NAME=PATH", model.info.name);
        }
        loaded.push(model);
    }
    if let Some(name) = opener.drafts.keys().find(|name| loaded.iter().all(|model| model.info.name != **name))
    {
        bail!("--draft {name}=...: no model is served as `{name}`");
    }
    let configured = loaded.iter().map(|model| model.info.name.clone()).zip(sources).collect();
    Ok((loaded, StoreShelf::new(opener, configured)))
}

/// `SERVED=MODEL`, each name once.
fn drafts(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut drafts = BTreeMap::new();
    for pair in given {
        let (name, draft) = pair.split_once('=').with_context(|| {
            format!("--draft {pair}: write NAME=MODEL, the served name and what guesses for it")
        })?;
        if drafts.insert(name.to_owned(), draft.to_owned()).is_some() {
            bail!("--draft names two models that guess for `{name}`");
        }
    }
    Ok(drafts)
}

/// The block a user reads when everything is up: where, what, and a line to try.
fn ready(address: SocketAddr, models: &[ModelInfo], took: Duration) -> String {
    let paint = Paint::new(std::io::stdout().is_terminal());
    let url = format!("http://{address}");
    let heading = format!("Janus {} is ready at {url}", env!("CARGO_PKG_VERSION"));
    let rows: Vec<Vec<String>> = models.iter().map(row).collect();
    let listing: String = table(&rows).lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "\n{} (after {:.1} s)\n{listing}\nTry it:\n{}\nCtrl-C stops it once running requests are done.\n\n",
        paint.bold(&heading),
        took.as_secs_f32(),
        example(&url, models)
    )
}

fn row(model: &ModelInfo) -> Vec<String> {
    let (task, size) = match model.task {
        Task::Generate if model.chat_template.is_none() => {
            ("completions", format!("context of {} tokens", model.context_tokens))
        }
        Task::Generate => ("chat", format!("context of {} tokens", model.context_tokens)),
        Task::Embed { dimensions, .. } => {
            ("embeddings", format!("{dimensions} values, up to {} tokens", model.context_tokens))
        }
    };
    let parameters = format!("{:.0}M parameters", model.parameters as f64 / 1e6);
    vec![task.into(), model.name.clone(), model.architecture.clone(), parameters, size]
}

/// A curl line for the first model.
fn example(url: &str, models: &[ModelInfo]) -> String {
    let model = models.iter().find(|model| model.task == Task::Generate).or(models.first());
    let Some(model) = model else { return String::new() };
    let (path, body) = match model.task {
        Task::Generate if model.chat_template.is_some() => {
            ("chat/completions", r#""messages": [{"role": "user", "content": "Say hello"}]"#)
        }
        Task::Generate => ("completions", r#""prompt": "Once upon a time""#),
        Task::Embed { .. } => ("embeddings", r#""input": "a text""#),
    };
    let name = &model.name;
    format!(
        "  curl {url}/v1/{path} -H 'content-type: application/json' \\\n    -d '{{\"model\": \"{name}\", {body}}}'\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{Arguments, Command};
    use super::*;
    use clap::Parser;

    #[test]
    fn drafts_are_named_once_each() {
        let parse = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|&pair| pair.to_owned()).collect();
            drafts(&given).map(|drafts| drafts.into_iter().collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        assert_eq!(parse(&["a=./b=c.gguf"]), Ok(vec![("a".to_owned(), "./b=c.gguf".to_owned())]));
        assert!(parse(&["a"]).unwrap_err().contains("write NAME=MODEL"));
        assert!(parse(&["a=b", "a=c"]).unwrap_err().contains("two models"));
    }

    fn configured(line: &str) -> anyhow::Result<Config> {
        let arguments = Arguments::parse_from(std::iter::once("janus").chain(line.split_whitespace()));
        match &arguments.command {
            Command::Serve(serve) => configuration(serve, arguments.models_dir.as_deref()),
            _ => panic!("{line} is not `serve`"),
        }
    }

    #[test]
    fn flags_become_settings() {
        let config = configured(
            "serve --model a --model b=c --listen 127.0.0.1:9 --threads 3 --context 64 \
             --models-dir /m --kv-store /k --set engine.kv_mib=7",
        )
        .unwrap();
        assert_eq!(config.models.serve, ["a", "b=c"]);
        assert_eq!(config.server.listen, "127.0.0.1:9");
        assert_eq!((config.engine.threads, config.engine.kv_mib), (3, 7));
        assert_eq!(config.models.context_tokens_max, 64);
        assert_eq!((config.models.folder.as_str(), config.prefix.store_dir.as_str()), ("/m", "/k"));
    }

    #[test]
    fn wrong_settings_are_named() {
        for (line, words) in
            [("serve --set x", "SECTION.KEY=VALUE"), ("serve --set server.lisen=x", "listen")]
        {
            let error = configured(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
