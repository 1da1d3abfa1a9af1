//! What a fault test counts, and its chance: seeded, so that a run can be had again.

use std::{
    collections::BTreeMap,
    env,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

/// Numbers by chance: splitmix64, of <https://prng.di.unimi.it/splitmix64.c> (public domain), which
/// is small and the same everywhere.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    /// True so often in a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

/// The seed of this run: the environment variable `SLUICE_SEED`, or the clock's.
///
/// # Errors
/// The variable is no number.
pub fn seed() -> Result<u64> {
    match env::var("SLUICE_SEED") {
        Ok(text) => text.parse().context("SLUICE_SEED is no number"),
        Err(_) => Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()),
    }
}

/// How many faults were injected, by kind.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, usize>>);

impl Tally {
    /// Counts one.
    pub fn count(&self, fault: &str) {
        let mut counts = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        *counts.entry(fault.to_owned()).or_default() += 1;
    }

    /// All of them.
    pub fn total(&self) -> usize {
        let counts = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        counts.values().sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let parts: Vec<_> = counts
            .iter()
            .map(|(fault, count)| format!("{count} × {fault}"))
            .collect();
        write!(f, "{}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_the_same_from_the_same_seed() {
        let numbers = |seed| {
            let mut chance = Chance::of(seed);
            [(); 4].map(|()| chance.below(1000))
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }
}
