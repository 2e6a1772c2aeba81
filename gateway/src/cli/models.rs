//! `janus pull`, `janus models`, `janus rm`.

use std::io::IsTerminal;
use std::path::Path;

use serde_json::json;

use super::DONE;
use super::arguments::PullArguments;
use super::output::{Paint, print, table};
use crate::catalogue::report::for_stderr;
use crate::catalogue::{self, Catalogue, Installed, ModelEntry, PullOptions, Store, size};

pub fn pull(arguments: &PullArguments, folder: Option<&Path>) -> anyhow::Result<u8> {
    let (catalogue, store, report) = (Catalogue::built_in(), Store::locate(folder)?, for_stderr());
    let model = catalogue.find(&arguments.name)?;
    let there_already = store.installed(model) == Installed::Complete;
    let options = PullOptions { accept_licence: arguments.accept_license, from: arguments.from.as_deref() };
    catalogue::pull(&store, model, &options, &*report)?;
    if arguments.verify {
        store.verify(model, &*report)?;
    }
    let place = store.folder(model);
    match there_already {
        true => eprintln!("{} is installed already, in {}", model.name, place.display()),
        false => eprintln!("{} ({}) is installed in {}", model.name, size(model.bytes()), place.display()),
    }
    Ok(DONE)
}

pub fn list(json: bool, folder: Option<&Path>) -> anyhow::Result<u8> {
    let (catalogue, store) = (Catalogue::built_in(), Store::locate(folder)?);
    print(&if json { as_json(&catalogue, &store) } else { as_text(&catalogue, &store) })
}

fn as_text(catalogue: &Catalogue, store: &Store) -> String {
    let paint = Paint::new(std::io::stdout().is_terminal());
    let heading = ["NAME", "TASK", "SIZE", "CONTEXT", "LICENCE", "INSTALLED"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> =
        std::iter::once(heading).chain(catalogue.models.iter().map(|model| row(model, store))).collect();
    let listing = table(&rows);
    let (first, rest) = listing.split_once('\n').unwrap_or((&listing, ""));
    let mut text = format!("{}\n{rest}\n", paint.bold(first));
    for model in &catalogue.models {
        let default = if model.default { " (served by default)" } else { "" };
        text.push_str(&paint.dim(&format!("{}: {}{default}\n", model.name, model.about)));
    }
    text.push_str(&paint.dim(&format!("Kept in {}\n", store.root().display())));
    text
}

fn row(model: &ModelEntry, store: &Store) -> Vec<String> {
    let installed = match store.installed(model) {
        Installed::Complete => "yes".to_owned(),
        Installed::Partly { bytes } => format!("{} of {}", size(bytes), size(model.bytes())),
        Installed::Missing => "no".to_owned(),
    };
    let licence = match (&model.terms, model.commercial) {
        (_, false) => format!("{} (no commercial use)", model.licence),
        (Some(_), true) => format!("{} (terms)", model.licence),
        (None, true) => model.licence.clone(),
    };
    let task = model.task.name().to_owned();
    let context = model.context_tokens.to_string();
    vec![model.name.clone(), task, size(model.bytes()), context, licence, installed]
}

fn as_json(catalogue: &Catalogue, store: &Store) -> String {
    let models: Vec<serde_json::Value> = catalogue
        .models
        .iter()
        .map(|model| {
            let installed = store.installed(model);
            json!({
                "name": model.name,
                "about": model.about,
                "task": model.task.name(),
                "default": model.default,
                "parameters": model.parameters,
                "context_tokens": model.context_tokens,
                "bytes": model.bytes(),
                "licence": model.licence,
                "commercial_use": model.commercial,
                "terms": model.terms,
                "installed": installed == Installed::Complete,
                "bytes_present": match installed {
                    Installed::Complete => model.bytes(),
                    Installed::Partly { bytes } => bytes,
                    Installed::Missing => 0,
                },
                "path": store.load_path(model),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "folder": store.root(), "models": models }))
}

pub fn remove(name: &str, folder: Option<&Path>) -> anyhow::Result<u8> {
    let (catalogue, store) = (Catalogue::built_in(), Store::locate(folder)?);
    let model = catalogue.find(name)?;
    match store.remove(model, &*for_stderr())? {
        0 => anyhow::bail!("{name} is not installed in {}", store.root().display()),
        bytes => eprintln!("{name} is deleted; {} are free again", size(bytes)),
    }
    Ok(DONE)
}
