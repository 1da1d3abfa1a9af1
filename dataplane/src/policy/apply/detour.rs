//! Identities that no table can be right for while addresses move, and how
//! they are gone around.
//!
//! An identity that some addresses come to and others leave has to be judged
//! by the new rules for the one and by the old ones for the other. Where these
//! differ, the same state is applied with another number for the identity
//! first: then addresses only leave the one number and only come to the other.
//! After that it is applied with its own number, which no rule depends on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use dataplane_ebpf::abi::identity;

use super::{
    entries::{self, Entries},
    identities::{Held, Moves},
};
use crate::policy::compile::{Compiled, EndpointPolicy, Key, Table};

/// Looks for such identities.
pub(super) struct Detour {
    /// Addresses come and leave.
    both: Vec<u32>,
    /// Those of which some table's old and new entries differ.
    around: BTreeSet<u32>,
}

impl Detour {
    /// `None` where nothing can be wrong.
    pub fn new(moves: &Moves) -> Option<Self> {
        let both: Vec<_> = moves.joined.intersection(&moves.left).copied().collect();
        (!both.is_empty()).then_some(Self {
            both,
            around: BTreeSet::new(),
        })
    }

    /// An endpoint goes from `old` to `new`.
    pub fn compare(&mut self, old: &Entries, new: &Entries) {
        self.around.extend(differing(&self.both, old, new));
    }

    /// `compiled` with other numbers, none of which is `in_use`; `None` where
    /// that is not needed. Where there is no other number the own one stays.
    pub fn compile(
        &self,
        compiled: &Compiled,
        in_use: impl FnOnce() -> BTreeSet<u32>,
    ) -> Option<Compiled> {
        if self.around.is_empty() {
            return None;
        }
        let mut in_use = in_use();
        let mut numbers = HashMap::new();
        for number in &self.around {
            // The node's own addresses keep a number of the node's. The last
            // of these is that of addresses for which there was none.
            let mut others = match identity::is_node(*number) {
                true => identity::NODE + 1..identity::FIRST - 1,
                false => identity::FIRST..u32::MAX,
            };
            let other = others.rfind(|other| !in_use.contains(other));
            in_use.extend(other);
            numbers.extend(other.map(|other| (*number, other)));
        }
        (!numbers.is_empty()).then(|| renumbered(compiled, &numbers))
    }
}

/// Those of `numbers` of which a table's old and new entries differ.
pub(super) fn differing<'a>(
    numbers: &'a [u32],
    old: &'a Entries,
    new: &'a Entries,
) -> impl Iterator<Item = u32> + 'a {
    let keys = |entries, number| entries::of(entries, number).iter().map(|(key, _)| *key);
    let numbers = numbers.iter().copied();
    numbers.filter(move |number| keys(old, *number).ne(keys(new, *number)))
}

/// All numbers that mean something, before or after.
pub(super) fn in_use<'a>(
    held: &Held,
    present: impl Iterator<Item = &'a [(Key, u32)]>,
    compiled: &'a Compiled,
) -> BTreeSet<u32> {
    let mut numbers: BTreeSet<u32> = held.values().copied().collect();
    numbers.extend(compiled.addresses.values());
    numbers.extend(compiled.prefixes.values());
    let wanted = compiled.endpoints.values();
    let wanted = wanted.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    let wanted = wanted.map(|table| table.entries.as_slice());
    let entries = present.chain(wanted).flatten();
    numbers.extend(entries.map(|(key, _)| key.identity));
    numbers
}

fn renumbered(compiled: &Compiled, numbers: &HashMap<u32, u32>) -> Compiled {
    let other = |number: &u32| *numbers.get(number).unwrap_or(number);
    // Tables that are shared stay so.
    let mut tables = BTreeMap::<*const Table, Arc<Table>>::new();
    let mut table = |table: &Arc<Table>| {
        let made = tables.entry(Arc::as_ptr(table)).or_insert_with(|| {
            let mut made = Table::clone(table);
            for (key, _) in &mut made.entries {
                key.identity = other(&key.identity);
            }
            made.entries.sort_unstable();
            Arc::new(made)
        });
        Arc::clone(made)
    };
    let endpoints = compiled.endpoints.iter().map(|(id, policy)| {
        let policy = EndpointPolicy {
            ingress: policy.ingress.as_ref().map(&mut table),
            egress: policy.egress.as_ref().map(&mut table),
            ..policy.clone()
        };
        (*id, policy)
    });
    let addresses = compiled.addresses.iter();
    let prefixes = compiled.prefixes.iter();
    Compiled {
        endpoints: endpoints.collect(),
        addresses: addresses.map(|(of, number)| (*of, other(number))).collect(),
        prefixes: prefixes.map(|(of, number)| (*of, other(number))).collect(),
        rules: compiled.rules.clone(),
    }
}
