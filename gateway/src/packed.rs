//! Where packed weights are kept from start to start: the engine's cache, as the configuration has it.

use std::path::PathBuf;

use engine::{PackedCache, PackedOptions};

use crate::config::Models;

/// The cache; `None` where it is switched off or there is no place for it.
pub fn cache(models: &Models) -> Option<PackedCache> {
    if !models.packed {
        return None;
    }
    let folder = folder(&models.packed_folder, |name| std::env::var_os(name).map(PathBuf::from))?;
    let bytes_max = (models.packed_mib as u64).saturating_mul(1 << 20);
    let model_bytes_min = PackedOptions::MODEL_BYTES_MIN;
    Some(PackedCache::new(PackedOptions { folder, bytes_max, model_bytes_min }))
}

/// `explicit`, else what the environment has for caches.
fn folder(explicit: &str, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.as_os_str().is_empty());
    let explicit = Some(PathBuf::from(explicit)).filter(|folder| !folder.as_os_str().is_empty());
    explicit
        .or_else(|| Some(variable("JANUS_HOME")?.join("packed")))
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("janus/packed")))
        .or_else(|| Some(variable("HOME")?.join(".cache/janus/packed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(explicit: &str, variables: &[(&str, &str)], expected: Option<&str>) {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
        };
        assert_eq!(folder(explicit, variable), expected.map(PathBuf::from), "{explicit:?} {variables:?}");
    }

    #[test]
    fn the_folder_is_the_first_that_is_named() {
        let all = [("JANUS_HOME", "/j"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        check("/p", &all, Some("/p"));
        check("", &all, Some("/j/packed"));
        check("", &all[1..], Some("/x/janus/packed"));
        check("", &all[2..], Some("/h/.cache/janus/packed"));
        check("", &[("JANUS_HOME", ""), ("HOME", "/h")], Some("/h/.cache/janus/packed"));
        check("", &[], None);
    }

    #[test]
    fn it_can_be_switched_off() {
        let on = Models { packed_folder: "/p".into(), ..Models::default() };
        assert!(cache(&on).is_some());
        assert!(cache(&Models { packed: false, ..on }).is_none());
    }
}
