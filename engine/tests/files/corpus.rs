//! Opening files that should be refused, with an eye on memory.

use std::path::Path;

use engine::EngineError;
use engine::files::ModelFiles;

const MEMORY_GROWTH_KIB_MAX: u64 = 128 << 10;

/// Opens `path`, which must be refused as damaged, cheaply, and for a reason that says `expected`.
pub fn check_refused(case: &str, path: &Path, expected: &str) {
    let memory_before = peak_memory_kib();
    match ModelFiles::open(path) {
        Err(error @ EngineError::BadFile { .. }) => {
            let reason = error.to_string();
            assert!(reason.contains(expected), "{case}: refused because {reason:?}, not {expected:?}");
        }
        Err(other) => panic!("{case}: {other} is another kind of error"),
        Ok(_) => panic!("{case}: opened"),
    }
    // The kernel's count is approximate and may fall a little.
    let growth = peak_memory_kib().saturating_sub(memory_before);
    assert!(growth < MEMORY_GROWTH_KIB_MAX, "{case}: took {growth} KiB");
}

/// Writes `bytes` to a file of its own and checks that it is refused.
pub fn check_bytes_refused(case: &str, extension: &str, bytes: &[u8], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("model.{extension}"));
    std::fs::write(&path, bytes).unwrap();
    check_refused(case, &path, expected);
}

/// Largest resident set of this process so far; 0 where /proc does not tell.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
