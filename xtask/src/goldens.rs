//! Committed expected values, made again by the scripts that made them first.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::process::{cargo, command, step};
use crate::root;

pub const HELP: &str = "\
Makes committed expected values again. Read the diff before you commit it.

Usage: cargo xtask goldens [NAME]

Arguments:
  NAME    only those whose path contains this, e.g. `quant` or `openapi`

They are openapi/openapi.json, which the wire types generate, and the values written by scripts named
`make_*.py` that lie beside them. The scripts need the Python packages named in their first lines; set
PYTHON to an interpreter that has them.";

const DOCUMENT: &str = "openapi/openapi.json";

pub fn run(arguments: &[String]) -> anyhow::Result<bool> {
    let wanted = arguments.first().map_or("", String::as_str);
    let is_wanted = |path: &Path| path.to_string_lossy().contains(wanted);
    let scripts: Vec<PathBuf> = scripts(&root())
        .into_iter()
        .filter(|path| is_wanted(path.strip_prefix(root()).unwrap_or(path)))
        .collect();
    let document = is_wanted(Path::new(DOCUMENT));
    if scripts.is_empty() && !document {
        bail!("no golden has `{wanted}` in its path");
    }
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let mut sound = true;
    if document {
        let mut test = cargo();
        test.args(["test", "--package", "openapi", "--test", "document"]);
        sound &= step(test.env("UPDATE_GOLDENS", "1"))?;
    }
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
