//! Committed expected values, made again by the scripts that made them first.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::process::{command, step};
use crate::root;

pub const HELP: &str = "\
Makes committed expected values again. Read the diff before you commit it.

Usage: cargo xtask goldens [NAME]

Arguments:
  NAME    only scripts whose path contains this, e.g. `gguf`

Scripts are files named `make_*.py` beside the values they write. They need the Python packages named in
their first lines; set PYTHON to an interpreter that has them.";

pub fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let wanted = arguments.first().map_or("", String::as_str);
    let scripts: Vec<PathBuf> =
        scripts(&root()).into_iter().filter(|path| path.to_string_lossy().contains(wanted)).collect();
    if scripts.is_empty() {
        bail!("no make_*.py has `{wanted}` in its path");
    }
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let mut sound = true;
    for script in &scripts {
        sound &= step(command(&python).arg(script))?;
    }
    Ok(sound)
}

/// `make_*.py` below `folder`, sorted; build outputs and hidden folders are not entered.
fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            found.extend(scripts(&path));
        } else if name.starts_with("make_") && name.ends_with(".py") {
            found.push(path);
        }
    }
    found.sort();
    found
}
