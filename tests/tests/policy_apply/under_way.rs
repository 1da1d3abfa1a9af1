//! Packets that are interrupted between any two of their reads, while the maps
//! change under them.

use std::collections::HashSet;

use dataplane_ebpf::abi::{Direction, EndpointConfig};
use sluice_tests::policy::{ADDRESSES, Packet, Verdict, allows, identity};

use crate::memory::{Memory, Verdicts};

/// How far a packet has got: what it has read so far, in the programs' order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reading {
    Nothing,
    /// Its endpoint's epoch, which a verdict is remembered by.
    Epoch,
    /// That its direction is isolated.
    Isolated,
    /// The slot of this table.
    Slot {
        table: u32,
    },
    /// That its peer's address has no identity of its own.
    NoAddress {
        table: u32,
    },
    Peer {
        table: u32,
        identity: u32,
    },
    /// That the table has nothing of the peer.
    NotOfPeer {
        table: u32,
    },
    Judged(Verdict),
}

/// What each packet may get, and how far packets have got.
pub struct Watch {
    ids: Vec<u32>,
    before: Verdicts,
    after: Verdicts,
    packets: Vec<Packet>,
    /// Each packet of each endpoint, interrupted in every way that there is:
    /// the epoch that it has read, and the rest.
    under_way: Vec<HashSet<(u32, Reading)>>,
    /// By endpoint, when the change began.
    epochs: Vec<u32>,
    pub wrong: Option<String>,
}

impl Watch {
    pub fn new(memory: &Memory, ids: &[u32], before: Verdicts, after: Verdicts) -> Self {
        let packets = packets();
        let epochs = memory.epochs();
        Self {
            under_way: vec![HashSet::new(); ids.len() * packets.len()],
            epochs: ids.iter().map(|id| epochs[id]).collect(),
            ids: ids.to_owned(),
            before,
            after,
            packets,
            wrong: None,
        }
    }

    /// The verdicts before and after the change.
    pub fn expected(&self) -> (&Verdicts, &Verdicts) {
        (&self.before, &self.after)
    }

    /// Packets go on, as far as each likes, after `what` was done.
    pub fn look(&mut self, memory: &Memory, what: &str) {
        for (at, under_way) in self.under_way.iter_mut().enumerate() {
            let place = at / self.packets.len();
            let (id, packet) = (self.ids[place], &self.packets[at % self.packets.len()]);
            let mut going: Vec<_> = under_way.iter().copied().collect();
            going.push((0, Reading::Nothing));
            while let Some((epoch, reading)) = going.pop() {
                let next = memory.read(id, packet, epoch, reading);
                let (epoch, Reading::Judged(verdict)) = next else {
                    if under_way.insert(next) {
                        going.push(next);
                    }
                    continue;
                };
                let (before, after) = (self.before[at], self.after[at]);
                // By a new epoch only what the new policy says is remembered.
                let is_new = epoch != self.epochs[place];
                let may_be_old = !is_new && passes(verdict) == passes(before);
                if !may_be_old && passes(verdict) != passes(after) {
                    self.wrong = Some(format!(
                        "{what}: endpoint {id}, {packet:?}, after reading {reading:?}: \
                         {verdict:?}, before {before:?}, after {after:?}, new epoch: {is_new}"
                    ));
                }
            }
        }
    }

    /// All packets arrive: the kernel has waited for them.
    pub fn wait(&mut self) {
        self.under_way.iter_mut().for_each(HashSet::clear);
    }
}

fn passes(verdict: Verdict) -> bool {
    verdict != Verdict::Denied
}

fn direction(packet: &Packet) -> Direction {
    match packet.ingress {
        true => Direction::Ingress,
        false => Direction::Egress,
    }
}

impl Memory {
    /// The verdict on a packet that nothing interrupts.
    fn verdict(&self, endpoint: u32, packet: &Packet) -> Verdict {
        let mut now = (0, Reading::Nothing);
        loop {
            now = self.read(endpoint, packet, now.0, now.1);
            if let Reading::Judged(verdict) = now.1 {
                return verdict;
            }
        }
    }

    pub fn verdicts(&self, endpoints: &[u32]) -> Verdicts {
        let packets = packets();
        endpoints
            .iter()
            .flat_map(|id| packets.iter().map(|packet| self.verdict(*id, packet)))
            .collect()
    }

    /// A packet reads on, once.
    fn read(&self, endpoint: u32, packet: &Packet, epoch: u32, reading: Reading) -> (u32, Reading) {
        let allowed = |table: u32, of: u32| {
            let tables = self.tables.borrow();
            let entries = tables[table as usize].1.borrow();
            let entries = entries.keys().filter(|key| key.identity == of);
            allows(entries, of, packet)
        };
        let next = match reading {
            Reading::Nothing => {
                return (
                    self.configs.borrow()[&endpoint].policy_epoch,
                    Reading::Epoch,
                );
            }
            Reading::Epoch => {
                let enforce = EndpointConfig::enforce(direction(packet));
                match self.configs.borrow()[&endpoint].flags & enforce {
                    0 => Reading::Judged(Verdict::Open),
                    _ => Reading::Isolated,
                }
            }
            Reading::Isolated => match self.slots.borrow().get(&(endpoint, direction(packet))) {
                Some(map) => Reading::Slot { table: map.0 },
                None => Reading::Judged(Verdict::Denied),
            },
            Reading::Slot { table } => match self.addresses.borrow().get(&packet.peer) {
                Some(identity) => Reading::Peer {
                    table,
                    identity: *identity,
                },
                None => Reading::NoAddress { table },
            },
            Reading::NoAddress { table } => Reading::Peer {
                table,
                identity: identity(&Default::default(), &self.prefixes.borrow(), packet.peer),
            },
            Reading::Peer { table, identity } if allowed(table, identity) => {
                Reading::Judged(Verdict::Allowed)
            }
            Reading::Peer { table, .. } => Reading::NotOfPeer { table },
            Reading::NotOfPeer { table } if allowed(table, 0) => Reading::Judged(Verdict::Allowed),
            Reading::NotOfPeer { .. } => Reading::Judged(Verdict::Denied),
            Reading::Judged(_) => reading,
        };
        (epoch, next)
    }
}

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for ingress in [true, false] {
        for peer in ADDRESSES {
            let peer = peer.parse().unwrap();
            for (protocol, port) in [(6, 80), (6, 443), (17, 80), (1, 0)] {
                packets.push(Packet {
                    ingress,
                    peer,
                    protocol,
                    port,
                });
            }
        }
    }
    packets
}
