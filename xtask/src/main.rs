//! The project's own chores, as `cargo xtask NAME`. Plain std and anyhow, so that it builds in seconds.
//!
//! | chore | file |
//! |---|---|
//! | `tidy` | [`tidy`]: crate edges, where `unsafe` may stand, file lengths, words that stay out |
//! | `check` | [`check`]: format, clippy and tidy of what changed |
//! | `test` | [`test`]: models, cargo tests, client tests, one summary |
//! | `goldens` | [`goldens`]: expected values made again by their scripts |
//! | `ci` | [`check`] of everything, then [`test`] |

#![forbid(unsafe_code)]

mod aarch64;
mod check;
mod goldens;
mod process;
mod summary;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
The project's own chores.

Usage: cargo xtask <CHORE> [ARGUMENTS]

Chores:
  tidy             crate edges, `unsafe` only in kernels, file lengths, forbidden words
  check            format, clippy and tidy of the crates that changed since main
  test [CRATE]     fetch the test models, run every test, print one summary
  goldens [NAME]   make committed expected values again; read the diff before you commit it
  ci               what .ci/run does once its tools are installed: check of all, then test

`cargo xtask <CHORE> --help` tells more.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `Ok(false)` when the chore ran and found something wrong, which it has printed.
fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let (chore, rest) = match arguments.split_first() {
        Some((chore, rest)) => (chore.as_str(), rest),
        None => ("help", arguments),
    };
    let help = rest.iter().any(|argument| argument == "--help" || argument == "-h");
    match chore {
        "tidy" if help => Ok(print(tidy::HELP)),
        "check" if help => Ok(print(check::HELP)),
        "test" if help => Ok(print(test::HELP)),
        "goldens" if help => Ok(print(goldens::HELP)),
        "tidy" => tidy::run(rest),
        "check" => check::run(rest),
        "test" => test::run(rest),
        "goldens" => goldens::run(rest),
        "ci" => Ok(check::everything()? && test::run(&[])?),
        "help" | "--help" | "-h" => Ok(print(HELP)),
        other => anyhow::bail!("there is no chore `{other}`; `cargo xtask --help` lists them"),
    }
}

fn print(text: &str) -> bool {
    println!("{text}");
    true
}

/// The repository's root.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies one folder below the root").to_owned()
}
