//! Names of requests and replies: unique, not secret.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// `prefix` and 32 hexadecimal digits.
pub fn unique(prefix: &str) -> String {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut id = String::with_capacity(prefix.len() + 32);
    id.push_str(prefix);
    // The standard library's keyed hash (SipHash under a random key) of a counter does not repeat in
    // practice and tells nobody how many requests there were.
    for half in 0..2_u8 {
        write!(id, "{:016x}", SEED.hash_one((number, half))).expect("writing to a string never fails");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_a_form() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| unique("req_")).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 36 && id.starts_with("req_")));
    }
}
