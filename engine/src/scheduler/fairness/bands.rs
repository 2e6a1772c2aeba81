//! Which priority band goes first: the most urgent one that wants to, unless another is owed part of
//! its floor or has been passed over for too long.

use std::time::Duration;

use crate::Band;

/// The most urgent first; a band's place here is its index.
pub const BANDS: [Band; 4] = [Band::System, Band::Interactive, Band::Batch, Band::BestEffort];

/// What a band gets of the service, in thousandths, while it and others want more than there is. What
/// is left goes by urgency.
const FLOORS: [i64; 4] = [0, 300, 100, 20];

/// Most that is remembered as owed or as overdrawn, in thousandths of a token: about what a batch full
/// of sequences gets.
const CREDIT_MAX: i64 = 1000 << 16;

/// A band in which nobody was admitted for so long goes first once.
const PASSED_OVER_MAX: Duration = Duration::from_secs(30);

/// One flag a band.
pub type BandSet = [bool; BANDS.len()];

/// What each band is owed. Counted only while bands compete: what one got while nobody else wanted it
/// is not held against it.
#[derive(Debug, Default)]
pub struct Floors {
    credit: [i64; BANDS.len()],
    /// Since when somebody waits and nobody was admitted.
    passed_over_since: [Option<Duration>; BANDS.len()],
}

impl Floors {
    /// Counts service of `cost` tokens to a band while those of `wanting` compete.
    pub fn charge(&mut self, band: Band, cost: u64, wanting: BandSet) {
        if wanting.iter().filter(|wants| **wants).count() < 2 {
            self.credit = Default::default();
            return;
        }
        let cost = i64::try_from(cost).unwrap_or(CREDIT_MAX).min(CREDIT_MAX / 1000);
        for (index, wants) in wanting.into_iter().enumerate() {
            let taken = if index == band as usize { 1000 * cost } else { 0 };
            let earned = if wants { FLOORS[index] * cost } else { 0 };
            self.credit[index] = (self.credit[index] + earned - taken).clamp(-CREDIT_MAX, CREDIT_MAX);
        }
    }

    /// Of the bands in `wanting`, the one that goes first.
    pub fn first(&self, wanting: BandSet) -> Option<Band> {
        let wants = |band: &&Band| wanting[**band as usize];
        let owed = BANDS.iter().filter(wants).filter(|band| self.credit[**band as usize] > 0);
        // Of equals the more urgent.
        let owed = owed.rev().max_by_key(|band| self.credit[**band as usize]);
        owed.or_else(|| BANDS.iter().find(wants)).copied()
    }

    /// The band passed over for longest, if that is too long, and by how much.
    pub fn overdue(&self, now: Duration) -> Option<(Duration, Band)> {
        let waits = |band: &Band| Some((self.passed_over_since[*band as usize]?, *band));
        let (since, band) = BANDS.iter().filter_map(waits).min()?;
        Some((now.checked_sub(since + PASSED_OVER_MAX)?, band))
    }

    /// Takes note of who waits.
    pub fn watch(&mut self, now: Duration, waiting: BandSet) {
        for (since, waits) in self.passed_over_since.iter_mut().zip(waiting) {
            *since = waits.then(|| since.unwrap_or(now));
        }
    }

    /// Somebody of this band was admitted.
    pub fn admitted(&mut self, band: Band, now: Duration) {
        let since = &mut self.passed_over_since[band as usize];
        *since = since.and(Some(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of the service that each band gets when those of `wanting` always want more.
    fn shares(wanting: BandSet) -> [usize; 4] {
        let mut floors = Floors::default();
        let mut served = [0; 4];
        for _ in 0..1000 {
            let band = floors.first(wanting).expect("somebody wants it");
            floors.charge(band, 100, wanting);
            served[band as usize] += 1;
        }
        served
    }

    #[test]
    fn every_band_gets_its_floor_and_the_most_urgent_the_rest() {
        let rows = [
            ([true, true, true, true], [580, 300, 100, 20]),
            ([false, true, true, false], [0, 900, 100, 0]),
            ([true, false, false, true], [980, 0, 0, 20]),
            ([false, false, true, false], [0, 0, 1000, 0]),
        ];
        for (wanting, expected) in rows {
            let got = shares(wanting);
            let near = got.iter().zip(expected).all(|(got, expected)| got.abs_diff(expected) <= 2);
            assert!(near, "{wanting:?}: {got:?} instead of {expected:?}");
        }
    }

    #[test]
    fn service_without_competition_is_not_held_against_a_band() {
        let mut floors = Floors::default();
        let (batch, both) = ([false, false, true, false], [false, true, true, false]);
        (0..1000).for_each(|_| floors.charge(Band::Batch, 1000, batch));
        floors.charge(Band::Interactive, 10, both);
        assert_eq!(floors.first(both), Some(Band::Batch), "it is owed a token of those ten");
    }

    #[test]
    fn a_band_passed_over_for_long_goes_first_once() {
        let mut floors = Floors::default();
        let waiting = [true, false, false, true];
        floors.watch(Duration::ZERO, waiting);
        for second in 1..30 {
            floors.watch(Duration::from_secs(second), waiting);
            floors.admitted(Band::System, Duration::from_secs(second));
            assert_eq!(floors.overdue(Duration::from_secs(second)), None);
        }
        let now = Duration::from_secs(32);
        assert_eq!(floors.overdue(now), Some((Duration::from_secs(2), Band::BestEffort)));
        floors.admitted(Band::BestEffort, now);
        assert_eq!(floors.overdue(now), None);
    }
}
