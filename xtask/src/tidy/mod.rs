//! Rules of the repository that neither rustc nor clippy knows.
//!
//! A rule is a function from the [`Tree`] to findings; [`RULES`] lists them. Each has its own table of
//! test rows, good and bad.

mod docs;
mod edges;
mod length;
mod source;

use std::path::Path;

use anyhow::{Context, bail};

use crate::process::{command, output};
use crate::root;

pub const HELP: &str = "\
Checks rules that neither rustc nor clippy knows (under a second).

Usage: cargo xtask tidy

Rules:
  edges    a crate uses only the crates (and third-party families) its layer may; see xtask/src/tidy/edges.rs
  unsafe   `unsafe` stands only in kernels/, each under a SAFETY comment
  length   no Rust file is longer than 600 lines
  words    no unfinished-work macros, no package registry's host name in any tracked file
  docs     files that documents name in backticks exist";

/// One thing wrong, with its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    /// From 1; 0 when it concerns the whole file.
    pub line: usize,
    pub text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, text: text.into() }
    }
}

/// Tracked text files: path from the root, and contents.
pub struct Tree {
    pub files: Vec<(String, String)>,
}

impl Tree {
    /// Files git tracks or would track; binary ones are left out.
    fn read(root: &Path) -> anyhow::Result<Tree> {
        let listed =
            output(command("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
        let mut files = Vec::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            let on_disk = root.join(path);
            // A deletion not committed yet, or a link.
            if !on_disk.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                continue;
            }
            let bytes = std::fs::read(&on_disk).with_context(|| format!("cannot read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push((path.to_owned(), text));
            }
        }
        Ok(Tree { files })
    }

    /// Rust files.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| (&**path, &**text))
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: &[(&str, Rule)] = &[
    ("edges", edges::check),
    ("unsafe", source::check_unsafe),
    ("length", length::check),
    ("words", source::check_words),
    ("docs", docs::check),
];

pub fn run(arguments: &[String]) -> anyhow::Result<bool> {
    if let Some(argument) = arguments.first() {
        bail!("`tidy` does not know `{argument}`; see `cargo xtask tidy --help`");
    }
    let tree = Tree::read(&root())?;
    let mut findings = 0;
    for (name, rule) in RULES {
        for finding in rule(&tree) {
            findings += 1;
            println!("{}:{}: {name}: {}", finding.path, finding.line, finding.text);
        }
    }
    match findings {
        0 => println!("tidy: {} files, nothing to tidy", tree.files.len()),
        count => println!("tidy: {count} findings; `cargo xtask tidy --help` explains the rules"),
    }
    Ok(findings == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let tree = Tree::read(&root()).unwrap();
        let findings: Vec<Finding> = RULES.iter().flat_map(|(_, rule)| rule(&tree)).collect();
        assert_eq!(findings, []);
    }
}
