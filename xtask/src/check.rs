//! Format, clippy and tidy: of what changed since main, or of everything.

use std::collections::BTreeSet;

use anyhow::Context;

use crate::process::{cargo, command, output, step};
use crate::{aarch64, root, tidy};

pub const HELP: &str = "\
Format, clippy and tidy of the crates that changed since main (seconds when little changed); kernels for
aarch64 as well, where `rustup target add aarch64-unknown-linux-gnu` was run.

Usage: cargo xtask check [--all]

Options:
  --all    every crate, as .ci/run does";

pub fn run(arguments: &[String]) -> anyhow::Result<bool> {
    match arguments {
        [] => packages(&changed_crates()?),
        [all] if all == "--all" => everything(),
        [other, ..] => anyhow::bail!("`check` does not know `{other}`; see `cargo xtask check --help`"),
    }
}

/// Every rule on every crate.
pub fn everything() -> anyhow::Result<bool> {
    let formatted = step(cargo().args(["fmt", "--all", "--check"]))?;
    let linted = step(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(kernels_for_aarch64()? && tidy::run(&[])? && formatted && linted)
}

/// Clippy of the one crate whose source differs there, where it can be compiled.
fn kernels_for_aarch64() -> anyhow::Result<bool> {
    if !aarch64::has_library()? {
        println!("NOT RUN: clippy of kernels for aarch64: {}", aarch64::no_library());
        return Ok(true);
    }
    let package = ["clippy", "--package", "kernels", "--all-targets", "--target", aarch64::TARGET];
    step(cargo().args(package).args(["--", "-D", "warnings"]))
}

fn packages(names: &BTreeSet<String>) -> anyhow::Result<bool> {
    let mut sound = step(cargo().args(["fmt", "--all", "--check"]))?;
    if !names.is_empty() {
        let mut clippy = cargo();
        clippy.args(["clippy", "--all-targets"]);
        names.iter().for_each(|name| {
            clippy.args(["--package", name]);
        });
        sound &= step(clippy.args(["--", "-D", "warnings"]))?;
    }
    if names.contains("kernels") {
        sound &= kernels_for_aarch64()?;
    }
    Ok(tidy::run(&[])? && sound)
}

/// Crates with a file that differs from main, committed or not.
fn changed_crates() -> anyhow::Result<BTreeSet<String>> {
    let base = output(command("git").args(["merge-base", "main", "HEAD"]))?;
    let changed = output(command("git").args(["diff", "--name-only", base.trim()]))?;
    let untracked = output(command("git").args(["ls-files", "--others", "--exclude-standard"]))?;
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).context("cannot read Cargo.toml")?;
    Ok(crates_of(changed.lines().chain(untracked.lines()), &members(&manifest)))
}

/// The workspace's crates, which lie in folders of their own names.
fn members(manifest: &str) -> Vec<&str> {
    let list = manifest.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    let names = list.map_or("", |(names, _)| names).split(',');
    names.map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty()).collect()
}

/// A change to the workspace itself concerns every crate.
fn crates_of<'a>(paths: impl Iterator<Item = &'a str>, crates: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in paths {
        match path.split('/').next() {
            Some(folder) if crates.contains(&folder) => drop(names.insert(folder.to_owned())),
            Some("Cargo.toml" | "clippy.toml" | "Cargo.lock") => {
                names.extend(crates.iter().map(|&name| name.to_owned()));
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str], expected: &[&str]) {
        let crates = members("[workspace]\nmembers = [\"engine\", \"kernels\",\n \"xtask\"]\nother = [1]");
        let found: Vec<String> = crates_of(paths.iter().copied(), &crates).into_iter().collect();
        assert_eq!(found, expected, "{paths:?}");
    }

    #[test]
    fn changed_paths_name_their_crates() {
        check(&[], &[]);
        check(&["README.md", "docs/a.md"], &[]);
        check(&["engine/src/a.rs", "engine/b", "xtask/src/main.rs"], &["engine", "xtask"]);
        check(&["Cargo.toml"], &["engine", "kernels", "xtask"]);
    }
}
