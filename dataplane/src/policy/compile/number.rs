//! Numbers for identities and rules.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    blocks::{Class, TermId},
    term::{Term, fingerprint},
};

/// Identities below this one are the node's own.
pub const FIRST_COMPILED: u32 = 256;

/// Gives the same set of terms the same number in every process, so that a
/// restart changes none.
#[derive(Debug)]
pub(super) struct Identities {
    fingerprints: Vec<u64>,
    peers: HashMap<Class, u32>,
    node: HashMap<Class, u32>,
    taken: HashSet<u32>,
}

impl Identities {
    pub fn new(terms: &[Arc<Term>]) -> Self {
        Self {
            fingerprints: terms.iter().map(|term| term.fingerprint()).collect(),
            peers: HashMap::new(),
            node: HashMap::new(),
            taken: HashSet::new(),
        }
    }

    /// The number of a class of peers; 0 where no term holds.
    pub fn peer(&mut self, class: &[TermId]) -> u32 {
        if class.is_empty() {
            return 0;
        }
        if let Some(number) = self.peers.get(class) {
            return *number;
        }
        let number = self.free(class, |hash| {
            FIRST_COMPILED + (hash % u64::from(u32::MAX - FIRST_COMPILED)) as u32
        });
        self.peers.insert(class.to_vec(), number);
        number
    }

    /// The number of a class of the node's own addresses. Should a node ever
    /// have more than 254 classes, the last ones share 255, which no policy's
    /// table then has.
    pub fn node(&mut self, class: &[TermId]) -> u32 {
        if class.is_empty() {
            return 1;
        }
        if let Some(number) = self.node.get(class) {
            return *number;
        }
        if self.node.len() >= 253 {
            return 255;
        }
        let number = self.free(class, |hash| 2 + (hash % 253) as u32);
        self.node.insert(class.to_vec(), number);
        number
    }

    /// The numbers whose class has each term.
    pub fn numbers_by_term(&self) -> Vec<Vec<u32>> {
        let mut numbers = vec![Vec::new(); self.fingerprints.len()];
        for (class, number) in self.peers.iter().chain(&self.node) {
            for term in class {
                numbers[*term as usize].push(*number);
            }
        }
        numbers.iter_mut().for_each(|list| list.sort_unstable());
        numbers
    }

    fn free(&mut self, class: &[TermId], number: impl Fn(u64) -> u32) -> u32 {
        let mut fingerprints: Vec<_> = class
            .iter()
            .map(|term| self.fingerprints[*term as usize])
            .collect();
        fingerprints.sort_unstable();
        let mut salt = 0_u32;
        loop {
            let number = number(fingerprint(&(salt, &fingerprints)));
            if self.taken.insert(number) {
                return number;
            }
            salt += 1;
        }
    }
}
