//! How many requests are in work, and whose. A permit goes with its response, and counts until the last byte
//! is sent or the client is gone.
//!
//! One principal may have all places, and keeps nobody out by it: whoever has less than an equal part of them
//! is let in all the same. With k principals in work there are thus never more requests than 1 + 1/2 + ... +
//! 1/k times the places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::ApiError;

/// The gate of all requests that cost something.
#[derive(Debug)]
pub struct Admission {
    places_max: usize,
    state: Mutex<State>,
    /// Told when the last one leaves.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    draining: bool,
    in_flight: usize,
    /// By principal, as long as it has any.
    parts: HashMap<Arc<str>, usize>,
}

/// One request's place; dropping it frees the place.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    principal: Arc<str>,
}

impl Admission {
    pub fn new(places_max: usize) -> Arc<Admission> {
        Arc::new(Admission { places_max, state: Mutex::default(), emptied: Notify::new() })
    }

    /// A place, at once or not at all.
    ///
    /// # Errors
    /// 503 while draining, or when all places are taken and `principal` has its part of them.
    pub fn admit(self: &Arc<Self>, principal: &Arc<str>) -> Result<Permit, ApiError> {
        let mut state = self.state();
        if state.draining {
            return Err(ApiError::draining());
        }
        let part = state.parts.get(principal).copied().unwrap_or(0);
        let principals = state.parts.len() + usize::from(part == 0);
        // Who has nothing has less than its part, however many there are.
        let has_part = part > 0 && part >= self.places_max / principals;
        if state.in_flight >= self.places_max && has_part {
            return Err(ApiError::overloaded());
        }
        state.in_flight += 1;
        *state.parts.entry(Arc::clone(principal)).or_default() += 1;
        Ok(Permit { admission: Arc::clone(self), principal: Arc::clone(principal) })
    }

    /// Refuses everything from now on; those in work go on.
    pub fn drain(&self) {
        self.state().draining = true;
    }

    pub fn is_draining(&self) -> bool {
        self.state().draining
    }

    pub fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// Returns once nothing is in work. Call after [`drain`](Self::drain).
    pub async fn idle(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before the lock is let go, whatever panics elsewhere.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.in_flight -= 1;
        if let Some(part) = state.parts.get_mut(&self.principal) {
            *part -= 1;
            if *part == 0 {
                state.parts.remove(&self.principal);
            }
        }
        if state.in_flight == 0 {
            self.admission.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_less_than_an_equal_part_is_let_in() {
        let rows: &[&[(&str, usize)]] = &[
            &[("ann", 12), ("bob", 6), ("cid", 4), ("ann", 0), ("bob", 0)],
            &[("ann", 5), ("bob", 7), ("cid", 4)],
        ];
        for row in rows {
            let admission = Admission::new(12);
            let mut permits = Vec::new();
            for (principal, expected) in *row {
                let before = permits.len();
                permits.extend((0..*expected).map_while(|_| admission.admit(&(*principal).into()).ok()));
                assert_eq!(permits.len() - before, *expected, "{principal} in {row:?}");
                let is_full = permits.len() >= 12;
                assert_eq!(admission.admit(&(*principal).into()).is_err(), is_full, "{principal} in {row:?}");
            }
            assert_eq!(admission.in_flight(), permits.len());
            drop(permits);
            assert!(admission.in_flight() == 0 && admission.state().parts.is_empty());
        }
    }
}
