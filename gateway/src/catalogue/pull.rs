//! Brings one model into the store: file by file, from the first source that has it.

use std::fs;
use std::path::Path;

use super::partial::{Mismatch, Partial};
use super::report::Report;
use super::source::http::{Http, hub_endpoint, hub_url};
use super::source::pip::Pip;
use super::source::{SourceError, local};
use super::{CatalogueError, FileEntry, Installed, ModelEntry, SourceKind, Store};

/// How to pull.
pub struct PullOptions<'a> {
    /// The user agrees to the model's terms.
    pub accept_licence: bool,
    /// Take the files from this path or URL and nowhere else.
    pub from: Option<&'a str>,
}

/// Fetches what is missing of `model`; returns at once when nothing is. Several processes may ask for
/// the same model: one fetches, the others wait and then find it there.
pub fn pull(
    store: &Store,
    model: &ModelEntry,
    options: &PullOptions<'_>,
    report: &dyn Report,
) -> Result<(), CatalogueError> {
    let sources = Sources::new(options.from, &hub_endpoint(), store, model);
    pull_from(sources, store, model, options, report)
}

fn pull_from(
    mut sources: Sources,
    store: &Store,
    model: &ModelEntry,
    options: &PullOptions<'_>,
    report: &dyn Report,
) -> Result<(), CatalogueError> {
    if store.installed(model) == Installed::Complete {
        return Ok(());
    }
    check_licence(model, options.accept_licence)?;
    let _lock = store.lock(model, report)?;
    for file in &model.files {
        if !store.has(model, file) {
            sources.fetch(&store.file(model, file), model, file, report)?;
        }
    }
    remove_work_folder(&store.work_folder(model))
}

fn remove_work_folder(work: &Path) -> Result<(), CatalogueError> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CatalogueError::io("remove", work)(error))
        }
        _ => Ok(()),
    }
}

fn check_licence(model: &ModelEntry, accepted: bool) -> Result<(), CatalogueError> {
    if accepted || !model.needs_consent() {
        return Ok(());
    }
    Err(CatalogueError::LicenceNotAccepted {
        name: model.name.clone(),
        licence: model.licence.clone(),
        commercial: model.commercial,
        terms: model.terms.clone().unwrap_or_else(|| "Read it before you use the model".into()),
    })
}

/// Smaller files are fetched without a word.
pub const NOTED_BYTES: u64 = 1_000_000;

/// One place to try.
#[derive(Clone)]
enum Source {
    /// Base address; the file's path follows.
    Url(String),
    Hub {
        endpoint: String,
    },
    Pip,
    Path(std::path::PathBuf),
}

/// The places to try, and those found dead.
struct Sources {
    order: Vec<Source>,
    http: Http,
    pip: Pip,
}

impl Sources {
    fn new(from: Option<&str>, hub: &str, store: &Store, model: &ModelEntry) -> Sources {
        let order = match from {
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                vec![Source::Url(url.to_owned())]
            }
            Some(path) => vec![Source::Path(path.into())],
            None => model.sources.iter().map(|kind| Source::of(*kind, hub)).collect(),
        };
        Sources { order, http: Http::default(), pip: Pip::new(store.work_folder(model)) }
    }

    /// Tries each source for one file. One that is unreachable is not asked again for the next file.
    fn fetch(
        &mut self,
        target: &Path,
        model: &ModelEntry,
        file: &FileEntry,
        report: &dyn Report,
    ) -> Result<(), CatalogueError> {
        let (order, mut attempts) = (self.order.clone(), Vec::new());
        let tried = order.len();
        for source in order {
            let label = source.label(model, file);
            let why = match self.fetch_from(&source, target, model, file, report) {
                Ok(()) => {
                    if file.bytes >= NOTED_BYTES {
                        report.note(&format!("{} came from {label}", file.path));
                    }
                    return Ok(());
                }
                Err(SourceError::Here(error)) => return Err(error),
                Err(SourceError::Unreachable(why)) => {
                    self.order.retain(|other| !other.is_like(&source));
                    why
                }
                Err(SourceError::Refused(why)) => why,
            };
            attempts.push(format!("{label}: {why}"));
            if attempts.len() < tried {
                report.note(&format!("{label}: {why}; trying the next source"));
            }
        }
        Err(CatalogueError::NoSource { model: model.name.clone(), file: file.path.clone(), attempts })
    }

    /// Fetches, checks, moves into place. Bytes left by an earlier, other source may be the wrong part:
    /// then the same source is tried once more from the beginning.
    fn fetch_from(
        &mut self,
        source: &Source,
        target: &Path,
        model: &ModelEntry,
        file: &FileEntry,
        report: &dyn Report,
    ) -> Result<(), SourceError> {
        let mut part = Partial::open(target, file)?;
        let resumed = part.bytes() > 0;
        self.append(source, &mut part, model, report)?;
        match part.finish()? {
            Ok(()) => Ok(()),
            Err(Mismatch::Hash { .. }) if resumed => {
                let mut part = Partial::open(target, file)?;
                self.append(source, &mut part, model, report)?;
                part.finish()?.map_err(|mismatch| SourceError::Refused(mismatch.to_string()))
            }
            Err(mismatch) => Err(SourceError::Refused(mismatch.to_string())),
        }
    }

    fn append(
        &mut self,
        source: &Source,
        part: &mut Partial<'_>,
        model: &ModelEntry,
        report: &dyn Report,
    ) -> Result<(), SourceError> {
        match source {
            Source::Pip => self.pip.fetch(part, report),
            Source::Path(from) => local::fetch(&local::place(from, model, part.entry()), part, report),
            Source::Url(_) | Source::Hub { .. } => {
                let url = source.label(model, part.entry());
                self.http.fetch(&url, part, report)
            }
        }
    }
}

impl Source {
    fn of(kind: SourceKind, hub: &str) -> Source {
        match kind {
            SourceKind::Hub => Source::Hub { endpoint: hub.to_owned() },
            SourceKind::Pip => Source::Pip,
        }
    }

    fn is_like(&self, other: &Source) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The exact place of `file`, as shown to the user; for HTTP it is the address itself.
    fn label(&self, model: &ModelEntry, file: &FileEntry) -> String {
        match (self, &model.hub) {
            (Source::Url(base), _) if model.files.len() == 1 && base.ends_with(&file.path) => base.clone(),
            (Source::Url(base), _) => format!("{}/{}", base.trim_end_matches('/'), file.path),
            (Source::Hub { endpoint }, Some(hub)) => hub_url(endpoint, hub, &file.path),
            (Source::Hub { endpoint }, None) => endpoint.clone(),
            (Source::Path(from), _) => local::place(from, model, file).display().to_string(),
            (Source::Pip, _) => {
                let packages: Vec<&str> = file.pip.iter().map(|part| part.package.as_str()).collect();
                format!("pip {}", packages.join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests;
