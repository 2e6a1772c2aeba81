//! What the tests of all ops share: seeded numbers, error measures, every instruction set.

use std::sync::Mutex;

use crate::Isa;

/// SplitMix64 (Steele et al. 2014): small, and the same everywhere.
pub struct Seeded(u64);

impl Seeded {
    pub fn new(seed: u64) -> Seeded {
        Seeded(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (self.next() >> 40) as f32 / (1_u64 << 24) as f32 * (high - low)
    }

    pub fn fill(&mut self, values: &mut [f32], low: f32, high: f32) {
        values.iter_mut().for_each(|value| *value = self.uniform(low, high));
    }
}

/// Runs `check` on every instruction set this machine has, and tells for each whether it ran: lines that
/// `cargo xtask test` gathers in its summary.
pub fn for_each_isa(mut check: impl FnMut(Isa)) {
    for &isa in Isa::ALL {
        if isa.is_available() {
            check(isa);
            tell(isa, "ran");
        } else {
            tell(isa, "NOT RUN: this machine lacks it");
        }
    }
}

/// Once an instruction set, however many tests there are.
fn tell(isa: Isa, what: &str) {
    static TOLD: Mutex<Vec<Isa>> = Mutex::new(Vec::new());
    let mut told = TOLD.lock().unwrap();
    if !told.contains(&isa) {
        told.push(isa);
        println!("isa {isa}: {what}");
    }
}

/// Largest difference, relative to the largest expected value.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |max, value| max.max(value.abs()));
    found.iter().zip(expected).fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest
}
