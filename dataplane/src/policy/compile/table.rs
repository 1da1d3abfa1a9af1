//! Tables: what an endpoint may exchange, in one direction, as the kernel has
//! it.

use std::sync::Arc;

use dataplane_ebpf::abi::identity;

use super::{ports::Ports, term::Term};

/// Key of an entry. The identity is exact, protocol and port may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The peer's identity; 0 is any.
    pub identity: u32,
    /// Protocol and port.
    pub ports: Ports,
}

/// One rule, resolved for the endpoints that share the table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableRule {
    /// What it asks of the peer; `None` is nothing.
    pub term: Option<Arc<Term>>,
    /// Any of these.
    pub ports: Vec<Ports>,
    /// The rule's number.
    pub rule: u32,
}

/// What an isolated endpoint may exchange in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The rules. Tables of equal rules are one.
    pub rules: Vec<TableRule>,
    /// Sorted by key; each key once, with the lowest of the rules that say it.
    pub entries: Vec<(Key, u32)>,
    /// How many entries the rules would have, where that is more than a table
    /// may hold: then it has none, and nothing may pass.
    pub too_large: Option<usize>,
}

impl Table {
    /// Spells the rules out. `numbers` are the identities that satisfy a term.
    pub(super) fn new<'a>(
        rules: Vec<TableRule>,
        numbers: impl Fn(&Term) -> &'a [u32],
        max_entries: usize,
    ) -> Self {
        let numbers_of = |rule: &TableRule| match &rule.term {
            Some(term) => numbers(term),
            None => &[0],
        };
        let size = rules
            .iter()
            .map(|rule| numbers_of(rule).len() * rule.ports.len())
            .sum();
        // Equal keys of several rules are counted more than once: a table at
        // the limit is too large a little early.
        if size > max_entries {
            return Self {
                rules,
                entries: Vec::new(),
                too_large: Some(size),
            };
        }
        let mut entries = Vec::with_capacity(size);
        for rule in &rules {
            for identity in numbers_of(rule) {
                entries.extend(rule.ports.iter().map(|ports| {
                    let key = Key {
                        identity: *identity,
                        ports: *ports,
                    };
                    (key, rule.rule)
                }));
            }
        }
        entries.sort_unstable();
        entries.dedup_by_key(|(key, _)| *key);
        Self {
            rules,
            entries,
            too_large: None,
        }
    }

    /// The rule that lets a packet pass, as the kernel looks it up: by the
    /// peer's identity, then by that of anybody. `port` is absent for
    /// protocols without ports.
    pub fn lookup(&self, identity: u32, protocol: u8, port: Option<u16>) -> Option<u32> {
        self.exact(identity, protocol, port)
            .or_else(|| self.exact(identity::ANY, protocol, port))
    }

    /// As [`Table::lookup`], by one identity alone.
    pub fn exact(&self, identity: u32, protocol: u8, port: Option<u16>) -> Option<u32> {
        Ports::candidates(protocol, port).find_map(|ports| self.get(Key { identity, ports }))
    }

    fn get(&self, key: Key) -> Option<u32> {
        let found = self.entries.binary_search_by_key(&key, |(key, _)| *key);
        found.ok().map(|at| self.entries[at].1)
    }
}
