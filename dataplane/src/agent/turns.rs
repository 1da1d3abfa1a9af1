//! One at a time for each thing, side by side for different things.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, PoisonError},
};

/// Keys that somebody is at work on.
#[derive(Debug)]
pub(super) struct Turns<K> {
    taken: Mutex<BTreeSet<K>>,
    given_back: Condvar,
}

/// The right to work on one key, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a, K: Ord> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }
}

impl<K: Ord + Clone> Turns<K> {
    /// Waits until nobody else works on this key.
    pub(super) fn take(&self, key: K) -> Turn<'_, K> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while !taken.insert(key.clone()) {
            taken = self
                .given_back
                .wait(taken)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Turn { turns: self, key }
    }
}

impl<K: Ord> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let mut taken = self
            .turns
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.key);
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn one_at_a_time_for_each_key() {
        let turns = Turns::default();
        let inside = [AtomicU32::new(0), AtomicU32::new(0)];
        thread::scope(|scope| {
            for number in 0..8_usize {
                let (turns, inside) = (&turns, &inside[number % 2]);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _turn = turns.take(number % 2);
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn another_key_is_free() {
        let turns = Turns::default();
        let _one = turns.take(1);
        let _other = turns.take(2);
    }
}
