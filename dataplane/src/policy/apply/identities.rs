//! Moving addresses from identity to identity.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{kernel::IdentityPrefix, policy::compile::Compiled};

/// Identities by address and prefix.
pub(super) type Held = HashMap<IdentityPrefix, u32>;

/// Changes of the maps, in an order in which no address passes through an
/// identity that is neither its old nor its new one.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Addresses, which no change of a prefix then concerns any more; then inner
    /// prefixes before those around them.
    pub set: Vec<(IdentityPrefix, Option<u32>)>,
    /// Outer prefixes before those inside, then addresses.
    pub unset: Vec<(IdentityPrefix, Option<u32>)>,
    /// Every identity that an address got or lost.
    pub numbers: BTreeSet<u32>,
}

impl Moves {
    /// From what the kernel holds to what is compiled.
    pub fn new(held: &Held, compiled: &Compiled) -> Self {
        let mut moves = Self::default();
        let cidrs = compiled.prefixes.iter();
        let cidrs = cidrs.map(|(cidr, number)| (IdentityPrefix::Cidr(*cidr), *number));
        let exact = compiled.addresses.iter();
        let exact = exact.map(|(address, number)| (IdentityPrefix::Address(*address), *number));
        for (prefix, number) in cidrs.chain(exact) {
            let before = held.get(&prefix);
            if before != Some(&number) {
                moves.set.push((prefix, Some(number)));
                moves.numbers.extend(before);
                moves.numbers.insert(number);
            }
        }
        for (prefix, number) in held {
            if !is_wanted(prefix, compiled) {
                moves.unset.push((*prefix, None));
                moves.numbers.insert(*number);
            }
        }
        // What is around a prefix that comes or goes loses addresses to it.
        let around: Vec<_> = moves
            .set
            .iter()
            .chain(&moves.unset)
            .filter_map(|(prefix, _)| covering(prefix, &compiled.prefixes))
            .collect();
        moves.numbers.extend(around);
        moves.numbers.remove(&0);
        moves.set.sort_unstable_by_key(|(prefix, _)| {
            (Reverse(rank(prefix)), Reverse(length(prefix)), *prefix)
        });
        moves
            .unset
            .sort_unstable_by_key(|(prefix, _)| (rank(prefix), length(prefix), *prefix));
        moves
    }

    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.unset.is_empty()
    }
}

/// The identity around a prefix or address.
pub(super) fn covering(prefix: &IdentityPrefix, prefixes: &HashMap<IpNet, u32>) -> Option<u32> {
    let mut next = match prefix {
        IdentityPrefix::Address(address) => Some(IpNet::from(*address)),
        IdentityPrefix::Cidr(cidr) => cidr.supernet(),
    };
    while let Some(cidr) = next {
        if let Some(number) = prefixes.get(&cidr) {
            return Some(*number);
        }
        next = cidr.supernet();
    }
    None
}

fn is_wanted(prefix: &IdentityPrefix, compiled: &Compiled) -> bool {
    match prefix {
        IdentityPrefix::Address(address) => compiled.addresses.contains_key(address),
        IdentityPrefix::Cidr(cidr) => compiled.prefixes.contains_key(cidr),
    }
}

fn rank(prefix: &IdentityPrefix) -> u8 {
    match prefix {
        IdentityPrefix::Cidr(_) => 0,
        IdentityPrefix::Address(_) => 1,
    }
}

/// Leading bits that decide, in the form in which both families share a map.
fn length(prefix: &IdentityPrefix) -> u8 {
    match prefix {
        IdentityPrefix::Cidr(IpNet::V4(v4)) => 96 + v4.prefix_len(),
        IdentityPrefix::Cidr(IpNet::V6(v6)) => v6.prefix_len(),
        IdentityPrefix::Address(IpAddr::V4(_) | IpAddr::V6(_)) => 128,
    }
}
