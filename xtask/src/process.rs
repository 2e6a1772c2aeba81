//! Running other programs from the repository's root.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::root;

/// `program`, to be run from the root.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this chore.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Prints the command, runs it, and tells whether it succeeded.
pub fn step(command: &mut Command) -> anyhow::Result<bool> {
    println!("$ {}", display(command));
    let status = command.status().with_context(|| format!("cannot run {}", display(command)))?;
    Ok(status.success())
}

/// What the command prints; an error when it fails.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = display(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown} printed something not UTF-8"))
}

/// The command as one would type it.
pub fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let program = words[0].rsplit('/').next().unwrap_or(&words[0]).to_owned();
    [vec![program], words[1..].to_vec()].concat().join(" ")
}
