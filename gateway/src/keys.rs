//! API keys: read once, kept as SHA-256, compared in constant time, never logged.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use engine::Caller;
use sha2::{Digest, Sha256};

use crate::config::{Auth, Client, ConfigError, Secret, check_private};

type Hash = [u8; 32];

/// The keys that open this server, and who sends them; none leaves it open.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Vec<(Hash, Caller)>,
}

impl ApiKeys {
    /// Reads the keys `auth` lists, those of its file, and those of its clients.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if a file cannot be read, [`ConfigError::Invalid`] if it holds no key, or if
    /// two clients have a key in common.
    pub fn load(auth: &Auth) -> Result<ApiKeys, ConfigError> {
        let names = ["auth.api_keys", "auth.api_keys_file"];
        let mut keys = ApiKeys::read(&auth.api_keys, &auth.api_keys_file, names)?;
        for client in &auth.clients {
            let caller = caller_named(client);
            for hash in hashes(&client.keys, &client.keys_file, ["auth.clients"; 2])? {
                if keys.keys.iter().any(|(known, other)| *known == hash && *other != caller) {
                    let reason = format!("gives `{}` a key that is also another's", client.name);
                    return Err(ConfigError::Invalid { key: "auth.clients", reason });
                }
                keys.keys.push((hash, caller.clone()));
            }
        }
        Ok(keys)
    }

    /// The same for the keys that may load and unload models.
    ///
    /// # Errors
    /// As [`ApiKeys::load`].
    pub fn load_admin(auth: &Auth) -> Result<ApiKeys, ConfigError> {
        let names = ["auth.admin_keys", "auth.admin_keys_file"];
        ApiKeys::read(&auth.admin_keys, &auth.admin_keys_file, names)
    }

    /// Keys of which each is a client of its own. `names` are those of the list and of the file in the
    /// configuration.
    fn read(listed: &[Secret], file: &str, names: [&'static str; 2]) -> Result<ApiKeys, ConfigError> {
        let hashes = hashes(listed, file, names)?;
        Ok(ApiKeys { keys: hashes.into_iter().map(|hash| (hash, caller_of(&hash))).collect() })
    }

    /// Whether there is any key: without one everybody may come in.
    pub fn is_required(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whose key it is, if it is one of them. Every stored key is compared in full, so that the time taken
    /// tells nothing.
    pub fn caller(&self, key: &str) -> Option<Caller> {
        let offered = hash(key);
        let compare = |found, (index, (stored, _)): (usize, &(Hash, Caller))| {
            if equal(stored, &offered) { Some(index) } else { found }
        };
        let found = self.keys.iter().enumerate().fold(None, compare);
        found.map(|index| self.keys[index].1.clone())
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &str) -> bool {
        self.caller(key).is_some()
    }
}

fn caller_named(client: &Client) -> Caller {
    Caller {
        tenant: client.tenant().into(),
        principal: client.name.as_str().into(),
        weight: NonZeroU32::new(client.weight).unwrap_or(NonZeroU32::MIN),
        band: client.band.into(),
    }
}

/// Who has a key but no name: known by half of its hash, which does not tell the key.
fn caller_of(hash: &Hash) -> Caller {
    let digits: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let name: Arc<str> = format!("key-{digits}").into();
    Caller { tenant: Arc::clone(&name), principal: name, ..Caller::default() }
}

/// Hashes of the keys listed and of those in a file.
fn hashes(listed: &[Secret], file: &str, names: [&'static str; 2]) -> Result<Vec<Hash>, ConfigError> {
    let mut hashes: Vec<Hash> = listed.iter().map(|key| hash(key.reveal().trim())).collect();
    if listed.iter().any(|key| key.reveal().trim().is_empty()) {
        return Err(ConfigError::Invalid { key: names[0], reason: "holds an empty key".into() });
    }
    if !file.is_empty() {
        hashes.extend(read_file(Path::new(file), names[1])?);
    }
    Ok(hashes)
}

fn read_file(path: &Path, key: &'static str) -> Result<Vec<Hash>, ConfigError> {
    check_private(path, key)?;
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
        assert!(
            ApiKeys::load(&Auth { api_keys_file: path.display().to_string(), ..Auth::default() }).is_err()
        );
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
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

    #[test]
    fn keys_tell_who_asks() {
        let client = |name: &str, tenant: &str, keys: &[&str]| Client {
            name: name.into(),
            tenant: tenant.into(),
            weight: 3,
            band: crate::config::Band::Batch,
            keys: keys.iter().map(|key| Secret::new(*key)).collect(),
            ..Client::default()
        };
        let auth = |clients| Auth {
            api_keys: vec![Secret::new("bare"), Secret::new("other")],
            clients,
            ..Auth::default()
        };
        let clients = vec![client("ann", "", &["a1", "a2"]), client("bob", "team", &["b"])];
        let keys = ApiKeys::load(&auth(clients)).unwrap();
        let names = |key| keys.caller(key).map(|c| (c.principal.to_string(), c.tenant.to_string()));
        for (key, principal, tenant) in [("a1", "ann", "ann"), ("a2", "ann", "ann"), ("b", "bob", "team")] {
            assert_eq!(names(key), Some((principal.into(), tenant.into())));
        }
        let ann = keys.caller("a1").unwrap();
        assert_eq!((ann.weight.get(), ann.band), (3, engine::Band::Batch));
        let (bare, other) = (keys.caller("bare").unwrap(), keys.caller("other").unwrap());
        assert_ne!(bare.tenant, other.tenant, "each key is a tenant of its own");
        assert_eq!((bare.weight.get(), bare.band), (1, engine::Band::Interactive));
        assert!(!bare.principal.contains("bare") && keys.caller("ann").is_none());
        for shared in
            [vec![client("ann", "", &["bare"])], vec![client("a", "", &["k"]), client("b", "", &["k"])]]
        {
            assert!(ApiKeys::load(&auth(shared)).is_err(), "a key of two clients");
        }
    }
}
