//! Format, clippy and tidy: of what changed since main, or of everything.

use std::collections::BTreeSet;

use crate::process::{cargo, command, output, step};
use crate::tidy;

pub const HELP: &str = "\
Format, clippy and tidy of the crates that changed since main (seconds when little changed).

Usage: cargo xtask check [--all]

Options:
  --all    every crate, as .ci/run does";

const CRATES: &[&str] = &["kernels", "openapi", "engine", "gateway", "xtask"];

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
    Ok(tidy::run(&[])? && formatted && linted)
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
    Ok(tidy::run(&[])? && sound)
}

/// Crates with a file that differs from main, committed or not.
fn changed_crates() -> anyhow::Result<BTreeSet<String>> {
    let base = output(command("git").args(["merge-base", "main", "HEAD"]))?;
    let changed = output(command("git").args(["diff", "--name-only", base.trim()]))?;
    let untracked = output(command("git").args(["ls-files", "--others", "--exclude-standard"]))?;
    Ok(crates_of(changed.lines().chain(untracked.lines())))
}

/// A change to the workspace itself concerns every crate.
fn crates_of<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in paths {
        match path.split('/').next() {
            Some(folder) if CRATES.contains(&folder) => drop(names.insert(folder.to_owned())),
            Some("Cargo.toml" | "clippy.toml" | "Cargo.lock") => {
                names.extend(CRATES.iter().map(|&name| name.to_owned()));
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
        let found: Vec<String> = crates_of(paths.iter().copied()).into_iter().collect();
        assert_eq!(found, expected, "{paths:?}");
    }

    #[test]
    fn changed_paths_name_their_crates() {
        check(&[], &[]);
        check(&["README.md", "docs/a.md"], &[]);
        check(&["engine/src/a.rs", "engine/b", "xtask/src/main.rs"], &["engine", "xtask"]);
        check(&["Cargo.toml"], &["engine", "gateway", "kernels", "openapi", "xtask"]);
    }
}
