//! The secret that a folder's names are made with, in its file `names-key`.
//!
//! Names on disk stand for prompts. They are made with the configured key, or else with a secret of the
//! folder's own, drawn at random and for its owner's eyes: who reads names without it, as in a listing or a
//! log, cannot try prompts against them. Who reads the whole folder has the secret too, and the pages in the
//! clear; against that only a configured key helps.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `JANUSNK` and the version of this format |
//! | 1 | 1 if a key is configured, else 0 |
//! | 32 | what tells that key from others without naming it; or the secret |

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aes_gcm::aead::Generate;
use aes_gcm::{Aes256Gcm, Key};

use super::StoreKey;
use crate::EngineError;
use crate::pages::hmac::Hmac;
use crate::private_file;

pub const FILE: &str = "names-key";
const MAGIC: [u8; 8] = *b"JANUSNK\x01";
/// Where the content begins.
const CONTENT: usize = MAGIC.len() + 1;

/// A folder's secret, and whether it has just been made: no page there has a name by it then.
pub struct FolderSecret {
    pub secret: [u8; 32],
    pub is_new: bool,
}

impl FolderSecret {
    /// That of an open folder.
    ///
    /// # Errors
    /// `InvalidParameter` when the folder was written under another key; `Io`.
    pub fn of(folder: &Path, key: Option<&StoreKey>) -> Result<FolderSecret, EngineError> {
        let path = folder.join(FILE);
        let there = match read(&path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return create(path, key),
            Err(source) => return Err(EngineError::Io { path, source }),
        };
        let Some(there) = there else {
            let reason = format!("{} is damaged; remove it, and the pages beside it go", path.display());
            return Err(EngineError::InvalidParameter { parameter: "prefix.store_dir", reason });
        };
        match (key, there) {
            (None, Content::Secret(secret)) => Ok(FolderSecret { secret, is_new: false }),
            (Some(key), Content::Mark(mark)) if mark == key.mark() => {
                Ok(FolderSecret { secret: key.names_secret(), is_new: false })
            }
            _ => Err(EngineError::InvalidParameter {
                parameter: "prefix.store_key_file",
                reason: format!(
                    "{} was written under another key, or with none; use that, or another folder",
                    folder.display()
                ),
            }),
        }
    }
}

impl StoreKey {
    /// What a folder says of the key its pages were written under; nobody can tell the key from it.
    fn mark(&self) -> [u8; 32] {
        self.derive(b"mark")
    }

    pub(super) fn names_secret(&self) -> [u8; 32] {
        self.derive(b"names")
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut hmac = Hmac::new(&self.0);
        hmac.update(purpose);
        hmac.finalize()
    }
}

enum Content {
    Secret([u8; 32]),
    Mark([u8; 32]),
}

/// `None` when it is not a whole one.
fn read(path: &Path) -> io::Result<Option<Content>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(private_file::open(path)?, 64), &mut bytes)?;
    let Some((head, content)) = bytes.split_at_checked(CONTENT) else { return Ok(None) };
    let Ok(content) = content.try_into() else { return Ok(None) };
    Ok(match (head[..MAGIC.len()] == MAGIC, head[MAGIC.len()]) {
        (true, 0) => Some(Content::Secret(content)),
        (true, 1) => Some(Content::Mark(content)),
        _ => None,
    })
}

fn create(path: PathBuf, key: Option<&StoreKey>) -> Result<FolderSecret, EngineError> {
    let secret = key.map_or_else(|| Key::<Aes256Gcm>::generate().into(), StoreKey::names_secret);
    let content = [&MAGIC[..], &[u8::from(key.is_some())], &key.map_or(secret, StoreKey::mark)].concat();
    let fragment = path.with_extension("part");
    // A process that was killed here has left one.
    let _ = fs::remove_file(&fragment);
    private_file::create_new(&fragment)
        .and_then(|mut file| file.write_all(&content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fragment, &path))
        .map_err(|source| EngineError::Io { path, source })?;
    Ok(FolderSecret { secret, is_new: true })
}
