//! What can go wrong between a model's name and its files. Texts are for the user of the command line.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error(
        "no model is called `{name}`; `janus models` lists them: {known}. A file or folder of your own is served by its path"
    )]
    UnknownModel { name: String, known: String },
    #[error("{name} is under the {licence} licence{}. {terms}. If you agree: `janus pull {name} --accept-license`",
        if *.commercial { "" } else { ", which forbids commercial use" })]
    LicenceNotAccepted { name: String, licence: String, commercial: bool, terms: String },
    #[error("{file} could not be fetched from any source:{}\nA copy you have elsewhere is taken with `janus pull {model} --from PATH_OR_URL`",
        attempts.iter().map(|attempt| format!("\n  {attempt}")).collect::<String>())]
    NoSource { model: String, file: String, attempts: Vec<String> },
    #[error("{path}: {reason}; fetch it again with `janus rm {model}` and `janus pull {model}`", path = path.display())]
    Damaged { model: String, path: PathBuf, reason: String },
    #[error("{name} is not installed; `janus pull {name}` fetches it")]
    NotInstalled { name: String },
    #[error("the disk is full: {path} needs {needed} more; free some space and run the same command again, it goes on where it stopped",
        path = path.display())]
    DiskFull { path: PathBuf, needed: String },
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("no folder for models: set JANUS_HOME, HOME, or --models-dir")]
    NoHome,
}

impl CatalogueError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CatalogueError + use<> {
        let path = path.to_owned();
        move |source| CatalogueError::Io { action, path, source }
    }
}

/// `98.4 MB`: decimal, as disks and downloads are sold.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let rows =
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (999_960_000, "1.0 GB")];
        for (bytes, expected) in rows {
            assert_eq!(size(bytes), expected);
        }
    }
}
