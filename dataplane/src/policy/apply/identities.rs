//! Moving addresses from identity to identity.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use dataplane_ebpf::abi::identity::ANY;
use ipnet::IpNet;

use crate::{kernel::IdentityPrefix, policy::compile::Compiled};

/// Identities by address and prefix.
pub(super) type Held = HashMap<IdentityPrefix, u32>;

/// A change of one of them; `None` removes.
pub(super) type Move = (IdentityPrefix, Option<u32>);

/// Changes of the maps, in an order in which no address passes through an
/// identity that is neither its old nor its new one: each step of `addresses`,
/// then each of `prefixes`. What is to go has the identity around it then, so
/// that nobody sees it go.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Addresses, which no change of a prefix then concerns any more.
    pub addresses: Vec<Move>,
    /// Inner ones before those around them.
    pub prefixes: Vec<Move>,
    /// What goes, in any order.
    pub unset: Vec<Move>,
    /// Identities that addresses come to.
    pub joined: BTreeSet<u32>,
    /// Identities that addresses leave.
    pub left: BTreeSet<u32>,
}

impl Moves {
    /// From what the kernel holds to what is compiled.
    pub fn new(held: &Held, compiled: &Compiled) -> Self {
        let mut moves = Self::default();
        let cidrs = compiled.prefixes.iter();
        let cidrs = cidrs.map(|(cidr, number)| (IdentityPrefix::Cidr(*cidr), *number));
        let exact = compiled.addresses.iter();
        let exact = exact.map(|(address, number)| (IdentityPrefix::Address(*address), *number));
        let wanted = cidrs
            .chain(exact)
            .map(|(prefix, number)| (prefix, Some(number)));
        let unset = held.keys().filter(|prefix| !is_wanted(prefix, compiled));
        moves.unset = unset.map(|prefix| (*prefix, None)).collect();
        moves.set(held, compiled, wanted);
        moves.addresses.sort_unstable();
        moves
            .prefixes
            .sort_unstable_by_key(|(prefix, _)| (Reverse(length(prefix)), *prefix));
        moves
    }

    /// Notes what is to be set, and what addresses leave and come to. A prefix
    /// takes its addresses from the one around it when it comes, and gives them
    /// back before it goes.
    fn set(&mut self, held: &Held, compiled: &Compiled, wanted: impl Iterator<Item = Move>) {
        let before = Lengths::new(held.keys().filter_map(|prefix| match prefix {
            IdentityPrefix::Cidr(cidr) => Some(cidr),
            IdentityPrefix::Address(_) => None,
        }));
        let after = Lengths::new(compiled.prefixes.keys());
        for (prefix, number) in wanted.chain(self.unset.iter().copied()) {
            let present = held.get(&prefix).copied();
            let to = number
                .or_else(|| after.around(&prefix, |cidr| compiled.prefixes.get(&cidr).copied()))
                .unwrap_or(ANY);
            if present == Some(to) {
                continue;
            }
            match prefix {
                IdentityPrefix::Address(_) => self.addresses.push((prefix, Some(to))),
                IdentityPrefix::Cidr(_) => self.prefixes.push((prefix, Some(to))),
            }
            let from = present.or_else(|| {
                before.around(&prefix, |cidr| {
                    held.get(&IdentityPrefix::Cidr(cidr)).copied()
                })
            });
            let from = from.unwrap_or(ANY);
            if from != to {
                self.left.insert(from);
                self.joined.insert(to);
            }
        }
        // No table has an entry for those of whom nothing is known.
        self.left.remove(&ANY);
        self.joined.remove(&ANY);
    }
}

/// Lengths of prefixes that there are, by family.
pub(super) struct Lengths {
    v4: BTreeSet<u8>,
    v6: BTreeSet<u8>,
}

impl Lengths {
    pub fn new<'a>(prefixes: impl Iterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => v4.insert(prefix.prefix_len()),
                IpNet::V6(prefix) => v6.insert(prefix.prefix_len()),
            };
        }
        Self { v4, v6 }
    }

    /// The identity around a prefix or address.
    pub fn around(
        &self,
        prefix: &IdentityPrefix,
        find: impl Fn(IpNet) -> Option<u32>,
    ) -> Option<u32> {
        let (cidr, below) = match prefix {
            IdentityPrefix::Address(address) => {
                let whole = IpNet::from(*address);
                (whole, whole.prefix_len() + 1)
            }
            IdentityPrefix::Cidr(cidr) => (*cidr, cidr.prefix_len()),
        };
        let lengths = match cidr {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        lengths.range(..below).rev().find_map(|length| {
            let around = IpNet::new(cidr.addr(), *length).ok()?;
            find(around.trunc())
        })
    }
}

pub(super) fn is_wanted(prefix: &IdentityPrefix, compiled: &Compiled) -> bool {
    match prefix {
        IdentityPrefix::Address(address) => compiled.addresses.contains_key(address),
        IdentityPrefix::Cidr(cidr) => compiled.prefixes.contains_key(cidr),
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
