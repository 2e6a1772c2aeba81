//! Seeded mutations of sound files: a parser may refuse them, but never panic, and what it accepts must
//! hold together. The coverage-guided version is in `fuzz/`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::draft::Draft;
use crate::invariants::{read_gguf, read_safetensors};

const MUTATIONS: u64 = 20_000;
const FIRST_SEED: u64 = 1;

/// xorshift64*: the same sequence everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0..limit; `limit` is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 32) as usize % limit
    }
}

/// One to four edits of the kinds that reach deep: flips, extreme numbers, copied and cut ranges.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => overwrite(bytes, at, &EXTREMES[random.below(EXTREMES.len())].to_le_bytes()),
            3 => overwrite(bytes, at, &(random.below(64) as u64).to_le_bytes()),
            4 => bytes.truncate(at),
            _ => {
                let end = (at + random.below(32)).min(bytes.len());
                let copied = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                overwrite(bytes, to, &copied);
            }
        }
    }
}

const EXTREMES: [u64; 8] =
    [0, u64::MAX, 1 << 63, i64::MAX as u64, u32::MAX as u64, 1 << 32, 1 << 61, u64::MAX - 31];

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes[at..].iter_mut().zip(with) {
        *byte = *new;
    }
}

/// Runs `read` on mutations of `sound`; returns how many were accepted.
fn run(sound: &[u8], read: impl Fn(&[u8]) -> bool) -> u64 {
    let mut accepted = 0;
    for seed in FIRST_SEED..FIRST_SEED + MUTATIONS {
        let mut bytes = sound.to_vec();
        mutate(&mut bytes, &mut Random(seed));
        match catch_unwind(AssertUnwindSafe(|| read(&bytes))) {
            Ok(sound) => accepted += u64::from(sound),
            Err(_) => panic!("seed {seed} made the parser panic"),
        }
    }
    accepted
}

#[test]
fn gguf_mutations() {
    let sound = Draft::sound().bytes();
    assert!(read_gguf(&sound));
    let accepted = run(&sound, read_gguf);
    println!("{accepted} of {MUTATIONS} accepted");
    assert!((1..MUTATIONS).contains(&accepted), "mutations are too weak or too strong: {accepted}");
}

#[test]
fn safetensors_mutations() {
    let sound = crate::safetensors::sound();
    assert!(read_safetensors(&sound));
    let accepted = run(&sound, read_safetensors);
    println!("{accepted} of {MUTATIONS} accepted");
    assert!((1..MUTATIONS).contains(&accepted), "mutations are too weak or too strong: {accepted}");
}
