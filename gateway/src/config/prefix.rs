//! Section `prefix`: what is kept of prompts, in memory and on disk.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Public, check_private};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prefix {
    /// Keep them at all.
    pub enabled: bool,
    /// A folder where they outlive the process. Empty: none. One process at a time can use it.
    pub store_dir: String,
    /// What the folder may hold, in MiB; the least recently used go first.
    pub store_mib: usize,
    /// A file, closed to others, with a key of 32 bytes, or 64 hexadecimal digits, to encrypt what is stored
    /// and make its names with. Empty: it is stored in the clear, readable for whoever can read the folder, and
    /// named by a secret in the folder.
    pub store_key_file: String,
    /// Prefixes that callers share, each a section `[[prefix.public]]` with one of `system` or `system_file`
    /// (a chat's system message) and `text` or `text_file` (what prompts of completions begin with), and
    /// optionally `tenants` (a list: those of `auth.clients` that share it; default: everybody) and `model`
    /// (default: all). Whether another has used one can then be told from how quickly a prompt begins.
    pub public: Vec<Public>,
}

impl Default for Prefix {
    fn default() -> Self {
        Prefix {
            enabled: true,
            store_dir: String::new(),
            store_mib: 4096,
            store_key_file: String::new(),
            public: Vec::new(),
        }
    }
}

impl Prefix {
    /// The engine's own form of this section; opens the folder.
    ///
    /// # Errors
    /// When a file cannot be read or the folder cannot be used, naming it.
    pub fn options(&self) -> anyhow::Result<engine::PrefixOptions> {
        let public = self.public.iter().map(Public::prefix).collect::<anyhow::Result<_>>()?;
        let mut options = engine::PrefixOptions { enabled: self.enabled, store: None, public };
        if self.enabled && !self.store_dir.is_empty() {
            let key = match self.store_key_file.as_str() {
                "" => None,
                path => {
                    check_private(path.as_ref(), "prefix.store_key_file")?;
                    Some(engine::StoreKey::read(path.as_ref())?)
                }
            };
            let bytes_max = (self.store_mib as u64).saturating_mul(1 << 20);
            let folder = PathBuf::from(&self.store_dir);
            options.store = Some(engine::PageStore::open(engine::StoreOptions { folder, bytes_max, key })?);
        }
        Ok(options)
    }
}
