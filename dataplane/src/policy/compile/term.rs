//! Terms: what a rule asks of a peer's address.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
};

use crate::policy::model::{Block, Labels, Namespaces, Peer, Pod, PodName, Protocol, Scope};

/// The whole peer list of a rule, in a form that is equal for equal lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Of all that follows; tells most terms apart at once.
    fingerprint: u64,
    /// Whose addresses the pods have.
    scope: Scope,
    /// Sorted; empty is every peer.
    peers: Vec<Peer>,
    /// Only peers on which the name of a port stands for this number.
    named: Option<NamedPort>,
}

/// What a port's name stands for, on some peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its name.
    pub name: String,
    /// Its number there.
    pub number: u16,
}

impl Term {
    /// `None` for every peer there is.
    pub fn new(scope: &Scope, peers: &[Peer], named: Option<NamedPort>) -> Option<Self> {
        if peers.is_empty() && named.is_none() {
            return None;
        }
        let mut peers = peers.to_vec();
        peers.sort_unstable();
        peers.dedup();
        let by_pods = peers.iter().any(|peer| matches!(peer, Peer::Pods { .. }));
        // Of no importance to blocks, which so are shared more widely.
        let scope = if by_pods { scope.clone() } else { Scope::All };
        Some(Self {
            fingerprint: fingerprint(&(&scope, &peers, &named)),
            scope,
            peers,
            named,
        })
    }

    /// 64 bits that stand for the term, the same in every process.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The blocks that any address may be in. With a named port only pods
    /// count, one by one.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        let peers = if self.named.is_some() {
            &[]
        } else {
            self.peers.as_slice()
        };
        peers.iter().filter_map(|peer| match peer {
            Peer::Block(block) => Some(block),
            Peer::Pods { .. } => None,
        })
    }

    /// The addresses by which a pod satisfies it; `blocks` not counted.
    pub fn addresses(&self, name: &PodName, pod: &Pod, namespace: &Labels) -> Vec<IpAddr> {
        if let Some(named) = &self.named {
            let NamedPort {
                protocol,
                name,
                number,
            } = named;
            if !pod.named_ports(name, *protocol).any(|port| port == *number) {
                return Vec::new();
            }
        }
        if self.peers.is_empty() {
            return pod.addresses_in(&Scope::All);
        }
        let by_labels = self.peers.iter().any(|peer| match peer {
            Peer::Block(_) => false,
            Peer::Pods { namespaces, pods } => {
                let there = match namespaces {
                    Namespaces::Only(only) => *only == name.namespace,
                    Namespaces::Matching(selector) => selector.matches(namespace),
                };
                there && pods.matches(&pod.labels)
            }
        });
        let mut addresses = if by_labels {
            pod.addresses_in(&self.scope)
        } else {
            Vec::new()
        };
        if self.named.is_some() {
            let blocks: Vec<_> = self
                .peers
                .iter()
                .filter_map(|peer| match peer {
                    Peer::Block(block) => Some(block),
                    Peer::Pods { .. } => None,
                })
                .collect();
            let others = pod.addresses_in(&Scope::All).into_iter();
            addresses.extend(
                others.filter(|address| blocks.iter().any(|block| block.contains(*address))),
            );
            addresses.sort_unstable();
            addresses.dedup();
        }
        addresses
    }
}

impl Hash for Term {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
    }
}

impl Block {
    /// Whether an address is in it, and not excepted.
    fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|inner| inner.contains(&address))
    }
}

/// 64 bits that stand for a value, the same in every process (FNV-1a).
pub(super) fn fingerprint<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
