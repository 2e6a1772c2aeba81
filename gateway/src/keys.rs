//! API keys: read once, kept as SHA-256, compared in constant time, never logged.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::{Auth, ConfigError, Secret};

type Hash = [u8; 32];

/// The keys that open this server; none leaves it open.
#[derive(Clone, Default)]
pub struct ApiKeys {
    hashes: Vec<Hash>,
}

impl ApiKeys {
    /// Reads the keys `auth` lists and those of its file.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file cannot be read, [`ConfigError::Invalid`] if it holds no key.
    pub fn load(auth: &Auth) -> Result<ApiKeys, ConfigError> {
        let names = ["auth.api_keys", "auth.api_keys_file"];
        ApiKeys::read(&auth.api_keys, &auth.api_keys_file, names)
    }

    /// The same for the keys that may load and unload models.
    ///
    /// # Errors
    /// As [`ApiKeys::load`].
    pub fn load_admin(auth: &Auth) -> Result<ApiKeys, ConfigError> {
        let names = ["auth.admin_keys", "auth.admin_keys_file"];
        ApiKeys::read(&auth.admin_keys, &auth.admin_keys_file, names)
    }

    /// `names` are those of the list and of the file in the configuration.
    fn read(listed: &[Secret], file: &str, names: [&'static str; 2]) -> Result<ApiKeys, ConfigError> {
        let mut hashes: Vec<Hash> = listed.iter().map(|key| hash(key.reveal().trim())).collect();
        if listed.iter().any(|key| key.reveal().trim().is_empty()) {
            return Err(ConfigError::Invalid { key: names[0], reason: "holds an empty key".into() });
        }
        if !file.is_empty() {
            hashes.extend(read_file(Path::new(file), names[1])?);
        }
        Ok(ApiKeys { hashes })
    }

    /// Whether there is any key: without one everybody may come in.
    pub fn is_required(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// Whether `key` is one of them. Every stored key is compared in full, so that the time taken tells
    /// nothing.
    pub fn contains(&self, key: &str) -> bool {
        let offered = hash(key);
        self.hashes.iter().fold(false, |found, stored| found | equal(stored, &offered))
    }
}

fn read_file(path: &Path, key: &'static str) -> Result<Vec<Hash>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let hashes: Vec<Hash> = lines.filter(|key| !key.is_empty()).map(hash).collect();
    if hashes.is_empty() {
        let reason = format!("names {}, which holds no key", path.display());
        return Err(ConfigError::Invalid { key, reason });
    }
    Ok(hashes)
}

fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

fn equal(a: &Hash, b: &Hash) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_both_places() {
        let path = std::env::temp_dir().join(format!("janus-keys-{}", std::process::id()));
        std::fs::write(&path, "# team\nalpha\n\n  beta  # ann\n").unwrap();
        let file = path.to_string_lossy().into_owned();
        let keys = ApiKeys::load(&Auth {
            api_keys: vec![Secret::new("gamma")],
            api_keys_file: file.clone(),
            ..Auth::default()
        })
        .unwrap();
        for (key, expected) in [
            ("alpha", true),
            ("beta", true),
            ("gamma", true),
            ("", false),
            ("alph", false),
            ("# team", false),
        ] {
            assert_eq!(keys.contains(key), expected, "{key}");
        }
        assert!(keys.is_required());
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(ApiKeys::load(&Auth { api_keys_file: file.clone(), ..Auth::default() }).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(ApiKeys::load(&Auth { api_keys_file: file, ..Auth::default() }).is_err());
        assert!(ApiKeys::load(&Auth { api_keys: vec![Secret::new(" ")], ..Auth::default() }).is_err());
        assert!(!ApiKeys::default().is_required());
    }
}
