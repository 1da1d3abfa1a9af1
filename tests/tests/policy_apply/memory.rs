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
use sluice_tests::policy::Verdict;

use crate::under_way::Watch;

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
    /// Every table that there ever was, by its number.
    pub tables: RefCell<Vec<Map>>,
    /// Prefixes that fit.
    pub room: Cell<usize>,
    /// Steps until the agent dies.
    pub steps_left: Cell<usize>,
    /// Where packets are looked at.
    pub watch: RefCell<Option<Watch>>,
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

    pub fn epochs(&self) -> BTreeMap<u32, u32> {
        let configs = self.configs.borrow();
        let epochs = configs.iter();
        epochs
            .map(|(id, config)| (*id, config.policy_epoch))
            .collect()
    }

    /// Before each change: the agent may die. After it: packets go on.
    fn step(&self, what: &str, change: impl FnOnce()) -> Result<()> {
        let left = self.steps_left.get();
        if left == 0 {
            return Err(KernelError::Unsupported("killed".into()));
        }
        self.steps_left.set(left - 1);
        change();
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            watch.look(self, what);
        }
        Ok(())
    }

    /// As the kernel does for packets under way when a slot was changed.
    fn wait(&self) {
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            watch.wait();
        }
    }
}

impl Tables for Memory {
    type Map = Map;

    fn create(&self, entries: &[(Key, u32)], _room: u32) -> Result<Map> {
        let mut tables = self.tables.borrow_mut();
        let entries = entries.iter().copied().collect();
        let table = Rc::new((tables.len() as u32, RefCell::new(entries)));
        tables.push(Rc::clone(&table));
        Ok(table)
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
        })?;
        self.wait();
        Ok(())
    }

    fn clear_slots(&self, slots: &[(u32, Direction)]) -> Result<()> {
        slots.iter().try_for_each(|slot| {
            if !self.slots.borrow().contains_key(slot) {
                return Ok(());
            }
            self.step("empty slot", || {
                self.slots.borrow_mut().remove(slot);
            })?;
            self.wait();
            Ok(())
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
