//! The models a server can load by name: those of its configuration, and the catalogue's that are
//! installed.

use std::time::UNIX_EPOCH;

use engine::model::LoadedModel;
use kernels::Device;

use crate::catalogue::{CatalogueError, Installed, ModelEntry};
use crate::loader::{LoadError, Shelf, ShelfModel};
use crate::open::{Opener, Source};

/// What [`Opener`] can open without fetching anything.
pub struct StoreShelf {
    opener: Opener,
    /// By the name they are served under.
    configured: Vec<(String, Source)>,
    /// Packs beside running requests.
    device: Device,
}

impl StoreShelf {
    pub fn new(opener: Opener, configured: Vec<(String, Source)>) -> StoreShelf {
        let device = opener.device.clone().packing_aside();
        StoreShelf { opener, configured, device }
    }

    fn source(&self, name: &str) -> Result<Source, LoadError> {
        if let Some((_, source)) = self.configured.iter().find(|(known, _)| known == name) {
            return Ok(source.clone());
        }
        let model = self.opener.catalogue.find(name).map_err(|_| LoadError::Unknown(name.to_owned()))?;
        match self.is_installed(model) {
            true => Ok(self.opener.installed(model, None)),
            false => Err(CatalogueError::NotInstalled { name: model.name.clone() }.into()),
        }
    }

    fn is_installed(&self, model: &ModelEntry) -> bool {
        self.opener.store.installed(model) == Installed::Complete
    }

    fn describe(&self, name: &str, source: &Source) -> ShelfModel {
        let modified = source.path.metadata().and_then(|metadata| metadata.modified()).ok();
        let since_1970 = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let context_tokens = source.entry.as_ref().map(|entry| {
            let made_for = entry.context_tokens as usize;
            self.opener.context_tokens.map_or(made_for, |cap| cap.min(made_for)) as u64
        });
        ShelfModel {
            name: name.to_owned(),
            bytes: source.bytes(),
            created: since_1970.map_or(0, |since| since.as_secs()),
            context_tokens,
        }
    }
}

impl Shelf for StoreShelf {
    fn list(&self) -> Vec<ShelfModel> {
        let configured = self.configured.iter().map(|(name, source)| self.describe(name, source));
        let is_configured = |model: &&ModelEntry| self.configured.iter().any(|(name, _)| *name == model.name);
        let catalogue = &self.opener.catalogue.models;
        let installed = catalogue
            .iter()
            .filter(|model| !is_configured(model) && self.is_installed(model))
            .map(|model| self.describe(&model.name, &self.opener.installed(model, None)));
        configured.chain(installed).collect()
    }

    fn find(&self, name: &str) -> Result<ShelfModel, LoadError> {
        self.source(name).map(|source| self.describe(name, &source))
    }

    fn open(
        &self,
        model: &ShelfModel,
        served_name: &str,
        progress: &(dyn Fn(f32) + Sync),
    ) -> Result<LoadedModel, LoadError> {
        kernels::host::yield_to_others();
        self.opener.open(&self.source(&model.name)?, Some(served_name), &self.device, progress)
    }
}
