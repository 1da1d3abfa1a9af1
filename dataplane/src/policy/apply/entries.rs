//! Entries of tables, sorted by key.

use std::{collections::BTreeSet, sync::Arc};

use dataplane_ebpf::abi::identity;

use crate::policy::compile::{Key, Table};

/// Sorted; each key once.
pub(super) type Entries = Vec<(Key, u32)>;

/// A table whose rules stay and whose entries change.
pub(super) struct Growth {
    pub added: Entries,
    pub removed: Vec<Key>,
    /// What is there at the end.
    pub entries: Arc<Entries>,
}

impl Growth {
    pub fn new(present: &Entries, table: &Table) -> Self {
        let missing =
            |from: &Entries, (key, rule): &(Key, u32)| from.binary_search(&(*key, *rule)).is_err();
        let lacks_key =
            |from: &Entries, key: &Key| from.binary_search_by_key(key, |(key, _)| *key).is_err();
        let wanted = &table.entries;
        let added = wanted.iter().filter(|entry| missing(present, entry));
        let removed = present.iter().filter(|(key, _)| lacks_key(wanted, key));
        Self {
            added: added.copied().collect(),
            removed: removed.map(|(key, _)| *key).collect(),
            entries: Arc::new(wanted.clone()),
        }
    }
}

/// What an endpoint goes by while addresses move: the new entries of the
/// identities that addresses come to, the old ones of all others, and those of
/// anybody from both.
pub(super) fn meanwhile(old: &Entries, new: &Entries, joined: &BTreeSet<u32>) -> Entries {
    let is_new = |key: &Key| joined.contains(&key.identity);
    let old = old.iter().filter(|(key, _)| !is_new(key));
    let new = new
        .iter()
        .filter(|(key, _)| key.identity == identity::ANY || is_new(key));
    let mut entries: Entries = old.chain(new).copied().collect();
    entries.sort_unstable();
    entries.dedup_by_key(|(key, _)| *key);
    entries
}

/// The entries of one identity.
pub(super) fn of(entries: &Entries, number: u32) -> &[(Key, u32)] {
    let from = entries.partition_point(|(key, _)| key.identity < number);
    let rest = &entries[from..];
    let count = rest.partition_point(|(key, _)| key.identity == number);
    &rest[..count]
}

/// Whether there are any of these identities. Goes through the fewer.
pub(super) fn have_any(entries: &Entries, numbers: &BTreeSet<u32>) -> bool {
    if entries.len() < numbers.len() {
        return entries
            .iter()
            .any(|(key, _)| numbers.contains(&key.identity));
    }
    numbers
        .iter()
        .any(|number| !of(entries, *number).is_empty())
}
