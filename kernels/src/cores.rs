//! Which logical CPUs worker threads run on: one of each physical core first, as two threads of a core
//! share the units that multiply.

use std::collections::HashSet;

/// Logical CPUs this process may run on, and how many physical cores they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// One of each physical core, then the others, in order.
    pub cpus: Vec<usize>,
    pub physical: usize,
}

impl Cores {
    /// Those of this process's affinity, as Linux describes them: of the calling thread's, where it was
    /// narrowed.
    pub fn of_this_process() -> Cores {
        Cores::new(&allowed_cpus(), |cpu| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            std::fs::read_to_string(path).ok()
        })
    }

    /// `siblings` names the logical CPUs of a CPU's core, the same for each; without it a CPU is a core of
    /// its own.
    fn new(allowed: &[usize], siblings: impl Fn(usize) -> Option<String>) -> Cores {
        let mut seen = HashSet::new();
        let is_first = |cpu: &usize| siblings(*cpu).is_none_or(|siblings| seen.insert(siblings));
        let (mut cpus, others): (Vec<usize>, Vec<usize>) = allowed.iter().copied().partition(is_first);
        let physical = cpus.len();
        cpus.extend(others);
        Cores { cpus, physical }
    }

    /// For a thread that computes together with so many workers on CPUs of their own ([`Cores::cpus`] from the
    /// second on): those of cores that no worker has, or of all once every core has one.
    pub fn besides_workers(&self, workers: usize) -> Vec<usize> {
        let end = if workers < self.physical { self.physical } else { self.cpus.len() };
        let of_workers = 1..=workers;
        (0..end).filter(|place| !of_workers.contains(place)).map(|place| self.cpus[place]).collect()
    }

    /// Threads that compute when nobody says how many: one a physical core, within the quota of this
    /// process's control group.
    pub fn threads(&self) -> usize {
        // Counts logical CPUs, and knows quotas.
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        if self.physical == 0 { allowed } else { self.physical.min(allowed) }
    }
}

fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is writable and its true size is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: CPU_ISSET reads bit `cpu` of a set that has CPU_SETSIZE bits.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Pins the calling thread to some of [`Cores::cpus`]; to none of them changes nothing. Best effort: a container
/// may forbid it, and then the thread just is not pinned.
pub fn pin_to(cpus: &[usize]) {
    if cpus.is_empty() {
        return;
    }
    // SAFETY: as in `allowed_cpus`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: `cpu` comes from `allowed_cpus`, so it is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: 0 is the calling thread; `set` is initialised and its true size is passed.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `siblings[cpu]`, empty where the system says nothing.
    fn check(allowed: &[usize], siblings: &[&str], expected: (&[usize], usize)) {
        let name =
            |cpu: usize| siblings.get(cpu).filter(|name| !name.is_empty()).map(|&name| name.to_owned());
        let (cpus, physical) = (expected.0.to_vec(), expected.1);
        assert_eq!(Cores::new(allowed, name), Cores { cpus, physical }, "{allowed:?} of {siblings:?}");
    }

    #[test]
    fn threads_of_one_core_count_once_and_come_last() {
        check(&[0, 1], &["0", "1"], (&[0, 1], 2));
        // Neighbours are one core, as most virtual machines have it, or halves apart, as on bare metal.
        check(&[0, 1, 2, 3], &["0-1", "0-1", "2-3", "2-3"], (&[0, 2, 1, 3], 2));
        check(&[0, 1, 2, 3], &["0,2", "1,3", "0,2", "1,3"], (&[0, 1, 2, 3], 2));
        // Only one of a core's threads is allowed.
        check(&[1, 2], &["0-1", "0-1", "2-3", "2-3"], (&[1, 2], 2));
        check(&[2, 3], &["0-1", "0-1", "2-3", "2-3"], (&[2, 3], 1));
        // A system that says nothing.
        check(&[0, 3], &["", "", "", ""], (&[0, 3], 2));
        check(&[], &[], (&[], 0));
    }

    #[test]
    fn who_computes_with_workers_keeps_off_their_cores() {
        // Two threads a core: 0 and 2, 1 and 3.
        let cores = Cores { cpus: vec![0, 1, 2, 3], physical: 2 };
        let cpus = [0, 1, 2, 3, 4].map(|workers| cores.besides_workers(workers));
        assert_eq!(cpus, [vec![0, 1], vec![0], vec![0, 3], vec![0], vec![0]]);
        assert!(Cores::default().besides_workers(1).is_empty());
    }

    #[test]
    fn this_process_has_a_thread_to_compute_on() {
        let cores = Cores::of_this_process();
        assert!(cores.physical <= cores.cpus.len());
        assert!((1..=cores.cpus.len().max(1)).contains(&cores.threads()));
    }
}
