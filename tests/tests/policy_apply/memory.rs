//! The maps of policy, in memory.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    rc::Rc,
};

use dataplane::{
    kernel::{IdentityPrefix, KernelError},
    policy::{
        apply::Tables,
        compile::{Endpoint, Key},
    },
};
use dataplane_ebpf::abi::{Direction, EndpointConfig};
use ipnet::IpNet;
use sluice_tests::policy::{ADDRESSES, Packet, Verdict, allows, identity};

type Result<T> = std::result::Result<T, KernelError>;
type Map = Rc<(u32, RefCell<BTreeMap<Key, u32>>)>;
pub type Verdicts = Vec<Verdict>;

/// The maps, in memory.
#[derive(Default)]
pub struct Memory {
    pub addresses: RefCell<HashMap<IpAddr, u32>>,
    pub prefixes: RefCell<HashMap<IpNet, u32>>,
    pub slots: RefCell<BTreeMap<(u32, Direction), Map>>,
    pub configs: RefCell<BTreeMap<u32, EndpointConfig>>,
    maps: Cell<u32>,
    /// Prefixes that fit.
    pub room: Cell<usize>,
    /// Steps until the agent dies.
    pub steps_left: Cell<usize>,
    /// What each packet may get, where that is looked at.
    pub allowed: RefCell<Option<(Vec<u32>, Verdicts, Verdicts)>>,
    pub wrong: RefCell<Option<String>>,
}

impl Memory {
    pub fn new(endpoints: &[Endpoint]) -> Self {
        let this = Self::default();
        this.room.set(usize::MAX);
        this.steps_left.set(usize::MAX);
        for endpoint in endpoints {
            let config = EndpointConfig {
                flags: EndpointConfig::IN_USE,
                ..EndpointConfig::default()
            };
            this.configs.borrow_mut().insert(endpoint.id, config);
        }
        this
    }

    fn verdict(&self, endpoint: u32, packet: &Packet) -> Verdict {
        let direction = match packet.ingress {
            true => Direction::Ingress,
            false => Direction::Egress,
        };
        let flags = self.configs.borrow()[&endpoint].flags;
        if flags & EndpointConfig::enforce(direction) == 0 {
            return Verdict::Open;
        }
        let slots = self.slots.borrow();
        let Some(map) = slots.get(&(endpoint, direction)) else {
            return Verdict::Denied;
        };
        let identity = identity(
            &self.addresses.borrow(),
            &self.prefixes.borrow(),
            packet.peer,
        );
        match allows(map.1.borrow().keys(), identity, packet) {
            true => Verdict::Allowed,
            false => Verdict::Denied,
        }
    }

    pub fn verdicts(&self, endpoints: &[u32]) -> Verdicts {
        let packets = packets();
        endpoints
            .iter()
            .flat_map(|id| packets.iter().map(|packet| self.verdict(*id, packet)))
            .collect()
    }

    pub fn epochs(&self) -> BTreeMap<u32, u32> {
        let configs = self.configs.borrow();
        let epochs = configs.iter();
        epochs
            .map(|(id, config)| (*id, config.policy_epoch))
            .collect()
    }

    /// Before each change: the agent may die. After it: all packets are tried.
    fn step(&self, what: &str, change: impl FnOnce()) -> Result<()> {
        let left = self.steps_left.get();
        if left == 0 {
            return Err(KernelError::Unsupported("killed".into()));
        }
        self.steps_left.set(left - 1);
        change();
        if let Some((ids, before, after)) = &*self.allowed.borrow() {
            let now = self.verdicts(ids);
            let passes = |verdict: &Verdict| *verdict != Verdict::Denied;
            for (at, verdict) in now.iter().enumerate() {
                let (before, after) = (&before[at], &after[at]);
                if passes(verdict) != passes(before) && passes(verdict) != passes(after) {
                    let packets = packets();
                    let (id, packet) = (ids[at / packets.len()], packets[at % packets.len()]);
                    *self.wrong.borrow_mut() = Some(format!(
                        "{what}: endpoint {id}, {packet:?}: {verdict:?}, \
                         before {before:?}, after {after:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Tables for Memory {
    type Map = Map;

    fn create(&self, entries: &[(Key, u32)], _room: u32) -> Result<Map> {
        self.maps.set(self.maps.get() + 1);
        let entries = entries.iter().copied().collect();
        Ok(Rc::new((self.maps.get(), RefCell::new(entries))))
    }

    fn extend(&self, map: &Map, entries: &[(Key, u32)]) -> Result<()> {
        entries.iter().try_for_each(|(key, rule)| {
            self.step("extend", || {
                map.1.borrow_mut().insert(*key, *rule);
            })
        })
    }

    fn remove(&self, map: &Map, keys: &[Key]) -> Result<()> {
        keys.iter().try_for_each(|key| {
            self.step("remove", || {
                map.1.borrow_mut().remove(key);
            })
        })
    }

    fn read(&self, map: &Map) -> Result<Option<Vec<(Key, u32)>>> {
        let entries = map.1.borrow();
        Ok(Some(
            entries.iter().map(|(key, rule)| (*key, *rule)).collect(),
        ))
    }

    fn id(&self, map: &Map) -> u32 {
        map.0
    }

    fn set_slots(&self, slots: &[(u32, Direction, &Map)]) -> Result<()> {
        slots.iter().try_for_each(|(endpoint, direction, map)| {
            self.step("slot", || {
                let mut slots = self.slots.borrow_mut();
                slots.insert((*endpoint, *direction), Rc::clone(map));
            })
        })
    }

    fn clear_slots(&self, slots: &[(u32, Direction)]) -> Result<()> {
        slots.iter().try_for_each(|slot| {
            self.step("empty slot", || {
                self.slots.borrow_mut().remove(slot);
            })
        })
    }

    fn slot(&self, endpoint: u32, direction: Direction) -> Result<Option<Map>> {
        Ok(self.slots.borrow().get(&(endpoint, direction)).cloned())
    }

    fn set_identities(&self, changes: &[(IdentityPrefix, Option<u32>)]) -> Result<()> {
        for (prefix, number) in changes {
            let full = |present: bool, count: usize| {
                let fits = number.is_none() || present || count < self.room.get();
                fits.then_some(())
                    .ok_or(KernelError::Full { map: "identity" })
            };
            match prefix {
                IdentityPrefix::Address(address) => {
                    self.step("address", || {
                        let mut addresses = self.addresses.borrow_mut();
                        match number {
                            Some(number) => addresses.insert(*address, *number),
                            None => addresses.remove(address),
                        };
                    })?;
                }
                IdentityPrefix::Cidr(cidr) => {
                    let prefixes = self.prefixes.borrow();
                    full(prefixes.contains_key(cidr), prefixes.len())?;
                    drop(prefixes);
                    self.step("prefix", || {
                        let mut prefixes = self.prefixes.borrow_mut();
                        match number {
                            Some(number) => prefixes.insert(*cidr, *number),
                            None => prefixes.remove(cidr),
                        };
                    })?;
                }
            }
        }
        Ok(())
    }

    fn identities(&self) -> Result<Vec<(IdentityPrefix, u32)>> {
        let addresses = self.addresses.borrow();
        let addresses = addresses.iter();
        let addresses =
            addresses.map(|(address, number)| (IdentityPrefix::Address(*address), *number));
        let prefixes = self.prefixes.borrow();
        let prefixes = prefixes.iter();
        let prefixes = prefixes.map(|(cidr, number)| (IdentityPrefix::Cidr(*cidr), *number));
        Ok(addresses.chain(prefixes).collect())
    }

    fn config(&self, endpoint: u32) -> Result<EndpointConfig> {
        Ok(self.configs.borrow()[&endpoint])
    }

    fn change_config(
        &self,
        endpoint: u32,
        change: &mut dyn FnMut(&mut EndpointConfig),
    ) -> Result<()> {
        self.step("flags", || {
            change(self.configs.borrow_mut().get_mut(&endpoint).unwrap());
        })
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
