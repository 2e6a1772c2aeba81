//! Clients by name: what `[[auth.clients]]` says of each.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Secret};

/// Who sends one of these keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// Whom service is counted for.
    pub name: String,
    /// Clients of a tenant share cached prompts. Empty: the client's own name.
    pub tenant: String,
    /// Share of the service among clients of the same band that want more than there is.
    pub weight: u32,
    /// The most urgent band its requests may have.
    pub band: Band,
    pub keys: Vec<Secret>,
    /// In the form of `auth.api_keys_file`.
    pub keys_file: String,
}

/// The engine's bands by their names in files and headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    System,
    #[default]
    Interactive,
    Batch,
    BestEffort,
}

const WEIGHT_MAX: u32 = 1000;

impl Default for Client {
    fn default() -> Client {
        Client {
            name: String::new(),
            tenant: String::new(),
            weight: 1,
            band: Band::default(),
            keys: Vec::new(),
            keys_file: String::new(),
        }
    }
}

impl Client {
    /// # Errors
    /// [`ConfigError::Invalid`] for a client without a name or keys or with a weight that is none, and for
    /// two of one name: service is counted by it, and they might have different shares.
    pub fn check_all(clients: &[Client]) -> Result<(), ConfigError> {
        let mut names = HashSet::new();
        for client in clients {
            client.check()?;
            if !names.insert(client.name.as_str()) {
                let reason = format!("has two clients called `{}`: give all its keys to one", client.name);
                return Err(ConfigError::Invalid { key: "auth.clients", reason });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let reason = if self.name.trim().is_empty() {
            "has a client without a name".into()
        } else if self.keys.is_empty() && self.keys_file.is_empty() {
            format!("has no keys for `{}`: give `keys` or `keys_file`", self.name)
        } else if !(1..=WEIGHT_MAX).contains(&self.weight) {
            format!("has a weight for `{}` that is not from 1 to {WEIGHT_MAX}", self.name)
        } else {
            return Ok(());
        };
        Err(ConfigError::Invalid { key: "auth.clients", reason })
    }

    pub fn tenant(&self) -> &str {
        if self.tenant.is_empty() { &self.name } else { &self.tenant }
    }
}

impl From<Band> for engine::Band {
    fn from(band: Band) -> engine::Band {
        match band {
            Band::System => engine::Band::System,
            Band::Interactive => engine::Band::Interactive,
            Band::Batch => engine::Band::Batch,
            Band::BestEffort => engine::Band::BestEffort,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Sources};
    use super::*;

    fn load(text: &str) -> Result<Vec<Client>, String> {
        let path = std::env::temp_dir().join(format!("janus-clients-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&Sources { file: Some(&path), ..Sources::default() });
        std::fs::remove_file(&path).unwrap();
        config.map(|config| config.auth.clients).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_are_read_and_what_is_wrong_is_named_but_no_key() {
        let ann = "[[auth.clients]]\nname = \"ann\"\nkeys = [\"sesame\"]\n";
        let clients = load(&format!("{ann}band = \"best-effort\"\nweight = 5\n")).unwrap();
        assert_eq!((clients.len(), clients[0].weight, clients[0].band), (1, 5, Band::BestEffort));
        assert_eq!(clients[0].tenant(), "ann");
        for (text, expected) in [
            (format!("{ann}waight = 5"), "`auth.clients.waight`; did you mean `weight`?"),
            (format!("{ann}weight = 0"), "not from 1 to 1000"),
            (format!("{ann}{ann}weight = 2"), "two clients called `ann`"),
            (format!("{ann}tenant = [\"sesame\"]"), "`auth.clients.tenant` must be a string"),
            (format!("{ann}band = \"urgent\""), "unknown variant `urgent`"),
            ("[[auth.clients]]\nname = \"ann\"".to_owned(), "has no keys for `ann`"),
            ("[[auth.clients]]\nkeys = [\"sesame\"]".to_owned(), "without a name"),
            ("[auth]\nclients = [\"sesame\"]".to_owned(), "`auth.clients` must be a section"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("sesame"), "{error}");
        }
    }
}
