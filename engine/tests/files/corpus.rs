//! Opening files that should be refused, with a clock and an eye on memory.

use std::path::Path;
use std::time::Duration;

use engine::EngineError;
use engine::files::ModelFiles;

const REFUSAL_TIME_MAX: Duration = Duration::from_millis(100);
const MEMORY_GROWTH_KIB_MAX: u64 = 128 << 10;

/// Opens `path`, which must be refused as damaged, soon, cheaply, and for a reason that says `expected`.
pub fn check_refused(case: &str, path: &Path, expected: &str) {
    let memory_before = peak_memory_kib();
    let start = thread_time();
    let result = ModelFiles::open(path);
    let elapsed = thread_time() - start;
    match result {
        Err(error @ EngineError::BadFile { .. }) => {
            let reason = error.to_string();
            assert!(reason.contains(expected), "{case}: refused because {reason:?}, not {expected:?}");
        }
        Err(other) => panic!("{case}: {other} is another kind of error"),
        Ok(_) => panic!("{case}: opened"),
    }
    assert!(elapsed < REFUSAL_TIME_MAX, "{case}: took {elapsed:?}");
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

/// Time this thread has run: other tests and programs take turns, which is not the reader's doing. Zero
/// where /proc does not tell.
fn thread_time() -> Duration {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let run_ns = statistics.split_whitespace().next().and_then(|run_ns| run_ns.parse().ok());
    Duration::from_nanos(run_ns.unwrap_or(0))
}

/// Largest resident set of this process so far; 0 where /proc does not tell.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
