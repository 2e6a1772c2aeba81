//! The command line: arguments in, text and an exit code out.
//!
//! | file | what is in it |
//! |---|---|
//! | [`arguments`] | every command and flag, with its help |
//! | [`bench`] | `bench` |
//! | [`models`] | `pull`, `models`, `rm` |
//! | [`admin`] | `ps`, `load`, `unload` |
//! | [`inspect`] | `inspect` |
//! | [`serve`] | `serve`: configuration, models, engine, server |
//! | [`interrupt`] | the signals that end `serve` |
//! | [`chat`] | `chat` with a server or an engine of its own |
//! | [`client`] | a server's HTTP interface |
//! | [`output`] | standard output, colours |
//!
//! Results go to standard output, everything else (progress, notes, errors) to standard error.

pub mod admin;
pub mod arguments;
pub mod bench;
pub mod chat;
pub mod client;
pub mod inspect;
mod interrupt;
pub mod models;
pub mod output;
pub mod serve;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::config;
use arguments::{Arguments, Command, ConfigCommand};
use output::{Paint, print};

/// The command worked.
const DONE: u8 = 0;
/// Something went wrong; standard error says what.
const FAILED: u8 = 1;
/// Wrong usage (clap's own code too), or a file that is no sound model.
const UNUSABLE: u8 = 2;

/// Runs the command of this process's arguments.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let code = dispatch(&arguments).unwrap_or_else(|error| {
        let paint = Paint::new(std::io::stderr().is_terminal());
        eprintln!("{} {error:#}", paint.red("error:"));
        FAILED
    });
    ExitCode::from(code)
}

fn dispatch(arguments: &Arguments) -> anyhow::Result<u8> {
    let folder = arguments.models_dir.as_deref();
    match &arguments.command {
        Command::Serve(serve) => serve::run(serve, folder),
        Command::Chat(chat) => chat::run(chat, folder),
        Command::Bench(bench) => bench::run(bench, folder),
        Command::Pull(pull) => models::pull(pull, folder),
        Command::Models { json } => models::list(*json, folder),
        Command::Rm { name } => models::remove(name, folder),
        Command::Ps(server) => admin::list(server),
        Command::Load(load) => admin::load(load),
        Command::Unload(unload) => admin::unload(unload),
        Command::Inspect { path, json } => inspect::run(path, *json),
        Command::Config(ConfigCommand { print_default: _ }) => print(&config::print_default()),
    }
}
