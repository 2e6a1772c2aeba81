//! One memory budget over all models: weights, and pages for keys and values.
//!
//! Who wants memory takes a [`Reservation`] first and keeps it as long as the memory; what does not fit
//! is refused with the numbers. The budget counts what was promised, not what is touched: a cache whose
//! pages nobody has used yet counts in full, so that work once accepted never meets a machine without
//! memory. [`available`] says how much there is to promise.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::EngineError;

/// What all models of an engine may take together. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total: usize,
    used: Mutex<usize>,
}

/// Bytes of a [`MemoryBudget`], given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> MemoryBudget {
        MemoryBudget { shared: Arc::new(Shared { total, used: Mutex::new(0) }) }
    }

    pub fn total(&self) -> usize {
        self.shared.total
    }

    pub fn used(&self) -> usize {
        *self.lock()
    }

    pub fn free(&self) -> usize {
        self.total() - self.used()
    }

    /// # Errors
    /// `NoMemory` with what is needed and what is there.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, EngineError> {
        let mut used = self.lock();
        self.take(&mut used, bytes)?;
        Ok(Reservation { budget: self.clone(), bytes })
    }

    fn take(&self, used: &mut usize, bytes: usize) -> Result<(), EngineError> {
        let available = self.total() - *used;
        if bytes > available {
            return Err(EngineError::NoMemory { needed: bytes, available, total: self.total() });
        }
        *used += bytes;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        // A panic elsewhere never leaves a sum half changed.
        self.shared.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes it larger or smaller; when there is no room for that it stays what it was.
    ///
    /// # Errors
    /// `NoMemory`, where `needed` is what would have to be added.
    pub fn resize(&mut self, bytes: usize) -> Result<(), EngineError> {
        let mut used = self.budget.lock();
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.take(&mut used, more)?,
            None => *used -= self.bytes - bytes,
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Takes over another reservation of the same budget.
    pub fn merge(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.budget.lock() -= self.bytes;
    }
}

/// Bytes this process may still take: what the machine has free, or what the control groups it is in
/// leave of their limits, whichever is less. `None` where the system does not tell.
pub fn available() -> Option<usize> {
    available_under(Path::new("/"))
}

/// [`available`] of a system whose files lie under `root`.
fn available_under(root: &Path) -> Option<usize> {
    let machine = meminfo_available(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    Some(groups.lines().filter_map(|line| group_available(root, line)).fold(machine, usize::min))
}

/// `MemAvailable` of /proc/meminfo, in bytes: free memory and caches the kernel would give up.
fn meminfo_available(text: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What a line of /proc/self/cgroup (`number:controllers:/path`) leaves: the least of the group and all
/// groups around it. In a container the group's own path may not be visible; its root is.
fn group_available(root: &Path, line: &str) -> Option<usize> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (mount, names) = match controllers {
        "" => ("sys/fs/cgroup", ["memory.max", "memory.current"]),
        "memory" => ("sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.usage_in_bytes"]),
        _ => return None,
    };
    let (mount, path) = (root.join(mount), path.trim_start_matches('/'));
    let folders = Path::new(path).ancestors().map(|part| mount.join(part));
    folders.filter_map(|folder| folder_available(folder, names)).min()
}

/// Limit less usage, where file cache that can be dropped is no usage. `None` without a limit.
fn folder_available(folder: PathBuf, [limit, usage]: [&str; 2]) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<usize>().ok();
    let (limit, usage) = (read(limit)?, read(usage)?);
    let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cache = statistics.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok());
    Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_never_exceed_the_budget_and_come_back() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.reserve(60).unwrap();
        assert_eq!((budget.used(), budget.free()), (60, 40));
        let refused = budget.reserve(41).unwrap_err();
        assert!(matches!(refused, EngineError::NoMemory { needed: 41, available: 40, total: 100 }));
        let second = budget.reserve(40).unwrap();
        assert!(first.resize(61).is_err());
        assert_eq!((first.bytes(), budget.free()), (60, 0));
        first.resize(10).unwrap();
        first.merge(second);
        assert_eq!((first.bytes(), budget.used()), (50, 50));
        first.resize(100).unwrap();
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(budget.reserve(usize::MAX).is_err());
    }

    #[test]
    fn available_memory_is_the_least_of_machine_and_groups() {
        const MIB: usize = 1 << 20;
        let meminfo = "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable:    4194304 kB\n";
        let machine = 4096 * MIB;
        let v2 = |folder: &str, limit: &str, usage: usize| -> Vec<(String, String)> {
            vec![
                (format!("sys/fs/cgroup{folder}/memory.max"), limit.to_owned()),
                (format!("sys/fs/cgroup{folder}/memory.current"), usage.to_string()),
            ]
        };
        let check = |groups: &str, files: Vec<(String, String)>, expected: usize| {
            let root = tempfile::tempdir().unwrap();
            let own = [("proc/meminfo", meminfo), ("proc/self/cgroup", groups)];
            let own = own.map(|(path, text)| (path.to_owned(), text.to_owned()));
            for (path, text) in own.into_iter().chain(files) {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            assert_eq!(available_under(root.path()), Some(expected), "{groups}");
        };
        check("", vec![], machine);
        check("0::/\n", v2("", "max", 5), machine);
        check("0::/\n", v2("", &(512 * MIB).to_string(), 100 * MIB), 412 * MIB);
        // A group whose path is not visible here, under one that is.
        check("0::/a/b\n", v2("/a", &(64 * MIB).to_string(), MIB), 63 * MIB);
        let nested = [v2("/a", &(64 * MIB).to_string(), 60 * MIB), v2("/a/b", "max", MIB)].concat();
        check("0::/a/b\n", nested, 4 * MIB);
        let mut cached = v2("", &(64 * MIB).to_string(), 60 * MIB);
        cached.push(("sys/fs/cgroup/memory.stat".into(), format!("anon 1\ninactive_file {}\n", 20 * MIB)));
        check("0::/\n", cached, 24 * MIB);
        let v1 = vec![
            ("sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(), (32 * MIB).to_string()),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes".to_owned(), (64 * MIB).to_string()),
        ];
        check("4:memory:/x\n3:cpu:/x\n", v1, 0);
        assert_eq!(available_under(tempfile::tempdir().unwrap().path()), None);
    }
}
