//! A value that is never shown, and files of such values.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::ConfigError;

/// Shows as `***` wherever it is printed, logged or serialised.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Refuses a file of secrets that is this user's own and that others can read or write, as ssh does with its
/// keys. Whoever made another user's file readable for this one has thought about it. `setting` names it.
///
/// # Errors
/// [`ConfigError::Read`] if it is not there, [`ConfigError::Invalid`] if it is open to others.
pub fn check_private(path: &Path, setting: &'static str) -> Result<(), ConfigError> {
    use std::os::unix::fs::MetadataExt;
    const OTHERS: u32 = 0o077;
    let metadata =
        std::fs::metadata(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    if metadata.is_file() && metadata.uid() == kernels::host::user_id() && metadata.mode() & OTHERS != 0 {
        let (path, mode) = (path.display(), metadata.mode() & 0o777);
        let reason = format!("names {path}, which others can open (mode {mode:03o}): `chmod 600 {path}`");
        return Err(ConfigError::Invalid { key: setting, reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_open_to_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert!(matches!(check_private(&path, "auth.api_keys_file"), Err(ConfigError::Read { .. })));
        std::fs::write(&path, "key").unwrap();
        for (mode, private) in
            [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o644, false), (0o620, false)]
        {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let checked = check_private(&path, "auth.api_keys_file").map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), private, "{mode:o}");
            if let Err(error) = checked {
                assert!(
                    error.starts_with("`auth.api_keys_file` names ") && error.contains("chmod 600"),
                    "{error}"
                );
            }
        }
    }
}
