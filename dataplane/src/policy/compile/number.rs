//! Numbers for identities.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::term::fingerprint;

/// Identities below this one are the node's own.
pub const FIRST_COMPILED: u32 = dataplane_ebpf::abi::identity::FIRST;
/// The node's addresses for which there is no other number, should a node ever
/// have so many classes of its own; no table has it.
const NODE_OVERFLOW: u32 = FIRST_COMPILED - 1;

/// What stands for a class in every process: its terms' fingerprints, sorted.
pub(super) type ClassKey = Vec<u64>;

/// Gives classes numbers, so that a class has the same one in every process,
/// and no two have the same: a number is a hash of its class, and another one
/// where two classes would share it.
#[derive(Debug)]
pub(super) struct Numbers {
    first: u32,
    count: u32,
    known: HashMap<ClassKey, u32>,
    /// Numbers that may mean another class to the kernel.
    avoid: HashSet<u32>,
}

impl Numbers {
    /// Of classes of peers. `held` are the numbers that the kernel holds.
    pub fn of_peers(held: HashSet<u32>) -> Self {
        Self::new(FIRST_COMPILED, u32::MAX - FIRST_COMPILED, held)
    }

    /// Of classes of the node's own addresses.
    pub fn of_node(held: HashSet<u32>) -> Self {
        // The lowest is that of addresses without a term.
        let first = dataplane_ebpf::abi::identity::NODE + 1;
        Self::new(first, NODE_OVERFLOW - first, held)
    }

    fn new(first: u32, count: u32, avoid: HashSet<u32>) -> Self {
        Self {
            first,
            count,
            known: HashMap::new(),
            avoid,
        }
    }

    /// Numbers all classes in use. One that had a number keeps it; the number
    /// of a class that is gone goes to no other one in the same step.
    pub fn assign(&mut self, classes: &BTreeSet<ClassKey>) {
        let mut taken: HashSet<u32> = self.known.values().copied().collect();
        self.known.retain(|class, _| classes.contains(class));
        let fresh: Vec<_> = classes
            .iter()
            .filter(|class| !self.known.contains_key(*class))
            .collect();
        let mut wishes = HashMap::<u32, u32>::new();
        for class in &fresh {
            *wishes.entry(self.candidate(class, 0)).or_default() += 1;
        }
        for class in fresh {
            let wish = self.candidate(class, 0);
            // Where two wish for the same, neither gets it: another process
            // might have given it to the other.
            let number = if wishes[&wish] == 1 && !taken.contains(&wish) {
                Some(wish)
            } else {
                self.other(class, &taken, &wishes)
            };
            if let Some(number) = number {
                taken.insert(number);
                self.known.insert(class.clone(), number);
            }
        }
        self.avoid.clear();
    }

    /// The number of a class; `None` where there are more than numbers.
    pub fn get(&self, class: &[u64]) -> Option<u32> {
        self.known.get(class).copied()
    }

    /// Every class with its number.
    pub fn all(&self) -> impl Iterator<Item = (&ClassKey, u32)> {
        self.known.iter().map(|(class, number)| (class, *number))
    }

    fn candidate(&self, class: &ClassKey, salt: u32) -> u32 {
        let hash = fingerprint(&(salt, class));
        self.first + (hash % u64::from(self.count)) as u32
    }

    fn other(
        &self,
        class: &ClassKey,
        taken: &HashSet<u32>,
        wishes: &HashMap<u32, u32>,
    ) -> Option<u32> {
        let start = self.candidate(class, 1) - self.first;
        let all = (0..self.count).map(|step| {
            let offset = (u64::from(start) + u64::from(step)) % u64::from(self.count);
            self.first + offset as u32
        });
        let mut free = all.filter(|number| {
            !taken.contains(number) && !wishes.contains_key(number) && !self.avoid.contains(number)
        });
        free.next()
    }
}

/// The number of an address of the node.
pub(super) fn node_number(numbers: &Numbers, class: &[u64]) -> u32 {
    if class.is_empty() {
        return dataplane_ebpf::abi::identity::NODE;
    }
    numbers.get(class).unwrap_or(NODE_OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(keys: impl IntoIterator<Item = u64>) -> BTreeSet<ClassKey> {
        keys.into_iter().map(|key| vec![key]).collect()
    }

    fn assigned(numbers: &Numbers) -> BTreeSet<u32> {
        numbers.all().map(|(_, number)| number).collect()
    }

    /// Twenty classes on a hundred numbers: some must wish for the same.
    #[test]
    fn classes_that_wish_for_the_same_number_get_different_ones() {
        let mut numbers = Numbers::new(FIRST_COMPILED, 100, HashSet::new());
        let all = classes(0..20);
        let wishes: BTreeSet<_> = all
            .iter()
            .map(|class| numbers.candidate(class, 0))
            .collect();
        assert!(wishes.len() < all.len(), "no collision to test");
        numbers.assign(&all);
        assert_eq!(assigned(&numbers).len(), all.len());
    }

    #[test]
    fn a_number_keeps_its_class_and_is_not_given_on_at_once() {
        let mut numbers = Numbers::new(FIRST_COMPILED, 40, HashSet::new());
        numbers.assign(&classes(0..10));
        let before = numbers.known.clone();
        numbers.assign(&classes(5..15));
        for key in 5..10 {
            assert_eq!(numbers.get(&[key]), Some(before[&vec![key]]));
        }
        let gone: Vec<_> = (0..5).map(|key| before[&vec![key]]).collect();
        for key in 10..15 {
            let number = numbers.get(&[key]).unwrap();
            assert!(!gone.contains(&number), "{number} meant another class");
        }
    }

    /// Whatever the process before gave to classes that wish for the same.
    #[test]
    fn a_contested_number_is_none_that_the_kernel_holds() {
        let mut numbers = Numbers::new(FIRST_COMPILED, 100, HashSet::new());
        numbers.assign(&classes(0..20));
        let held = assigned(&numbers);
        let mut wishes = HashMap::<u32, u32>::new();
        for class in &classes(0..20) {
            *wishes.entry(numbers.candidate(class, 0)).or_default() += 1;
        }
        let mut next = Numbers::new(FIRST_COMPILED, 100, held.iter().copied().collect());
        next.assign(&classes(0..20));
        for class in &classes(0..20) {
            let number = next.get(class).unwrap();
            let contested = wishes[&next.candidate(class, 0)] > 1;
            assert_eq!(held.contains(&number), !contested, "{class:?}");
        }
    }

    #[test]
    fn more_classes_than_numbers_leaves_some_without() {
        let mut numbers = Numbers::new(2, 3, HashSet::new());
        numbers.assign(&classes(0..5));
        assert_eq!(assigned(&numbers).len(), numbers.all().count());
        assert!(numbers.all().count() <= 3);
    }
}
