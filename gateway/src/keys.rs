//! API keys: read once, kept as SHA-256, compared in constant time, never logged.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::{Auth, ConfigError};

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
        let mut hashes: Vec<Hash> = auth.api_keys.iter().map(|key| hash(key.reveal().trim())).collect();
        if auth.api_keys.iter().any(|key| key.reveal().trim().is_empty()) {
            return Err(ConfigError::Invalid { key: "auth.api_keys", reason: "holds an empty key".into() });
        }
        if !auth.api_keys_file.is_empty() {
            hashes.extend(read_file(Path::new(&auth.api_keys_file))?);
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

fn read_file(path: &Path) -> Result<Vec<Hash>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let hashes: Vec<Hash> = lines.filter(|key| !key.is_empty()).map(hash).collect();
    if hashes.is_empty() {
        let reason = format!("names {}, which holds no key", path.display());
        return Err(ConfigError::Invalid { key: "auth.api_keys_file", reason });
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
    use crate::config::Secret;

    #[test]
    fn keys_come_from_both_places() {
        let path = std::env::temp_dir().join(format!("janus-keys-{}", std::process::id()));
        std::fs::write(&path, "# team\nalpha\n\n  beta  # ann\n").unwrap();
        let file = path.to_string_lossy().into_owned();
        let keys = ApiKeys::load(&Auth { api_keys: vec![Secret::new("gamma")], api_keys_file: file.clone() })
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
        assert!(ApiKeys::load(&Auth { api_keys: vec![], api_keys_file: file.clone() }).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(ApiKeys::load(&Auth { api_keys: vec![], api_keys_file: file }).is_err());
        assert!(
            ApiKeys::load(&Auth { api_keys: vec![Secret::new(" ")], api_keys_file: String::new() }).is_err()
        );
        assert!(!ApiKeys::default().is_required());
    }
}
