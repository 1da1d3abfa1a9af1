//! The maps of policy: identities of addresses, the policies themselves, and
//! which endpoint goes by which.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
};

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, lpm_trie::Key},
};
use dataplane_ebpf::abi::{
    Address, Counter, Direction, DropKey, MAX_RULES, PolicyData, PolicyKey, PolicyRule, PrefixKey,
    policy_index,
};
use ipnet::IpNet;
use nix::libc::ENOENT;

use super::{
    batch::Batched,
    error::{KernelError, errno, refused},
    maps::{Drops, absent_ok, done, view},
    object::missing,
    prefix, sys,
    value::Raw,
};

type Trie<'a> = LpmTrie<&'a mut MapData, Raw<PolicyData>, Raw<PolicyRule>>;
type Slots<'a> = ArrayOfMaps<&'a mut MapData>;

/// Slots that are emptied side by side: the kernel waits for packets under way
/// after each, and those who wait at the same time wait for the same ones.
const EMPTIED_AT_ONCE: usize = 32;
/// The name of a policy's own map.
pub(super) const POLICY_NAME: &str = "policy_rules";

/// Addresses that share an identity: one address, or all of a prefix that have
/// no longer prefix and no identity of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdentityPrefix {
    /// One address. Goes before every prefix.
    Address(IpAddr),
    /// A prefix.
    Cidr(IpNet),
}

impl IdentityPrefix {
    fn address(&self) -> Option<Address> {
        match self {
            Self::Address(address) => Some(Address::from(*address)),
            Self::Cidr(_) => None,
        }
    }

    fn cidr(&self) -> Option<PrefixKey> {
        match self {
            Self::Address(_) => None,
            Self::Cidr(cidr) => {
                let key = prefix::key(*cidr);
                Some(PrefixKey {
                    prefix_len: key.prefix_len(),
                    address: key.data().0,
                })
            }
        }
    }
}

/// A policy in the kernel. Endpoints that go by the same policy share one; the
/// kernel keeps it for as long as a slot or a `PolicyMap` refers to it.
#[derive(Clone)]
pub struct PolicyMap {
    map: Arc<Mutex<Map>>,
    id: u32,
    capacity: u32,
}

impl PolicyMap {
    fn new(map: MapData) -> Result<Self, KernelError> {
        let info = map
            .info()
            .map_err(|error| refused("asking for a policy's map", &error))?;
        Ok(Self {
            map: Arc::new(Mutex::new(Map::LpmTrie(map))),
            id: info.id(),
            capacity: info.max_entries(),
        })
    }

    /// The kernel's number for it: two slots with the same policy show the
    /// same number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Entries that it can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batched<T>(
        &self,
        work: impl FnOnce(Batched<'_>) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let Map::LpmTrie(map) = &*self.lock() else {
            return Err(missing("inner map of policy"));
        };
        work(Batched::new(POLICY_NAME, map.fd()))
    }

    fn with<T>(
        &self,
        work: impl FnOnce(Trie<'_>) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let mut map = self.lock();
        let trie = Trie::try_from(&mut *map);
        work(trie.map_err(|error| refused("opening a policy's map", &error))?)
    }
}

impl std::fmt::Debug for PolicyMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PolicyMap({})", self.id)
    }
}

/// The maps of policy.
pub struct PolicyMaps {
    views: RwLock<Views>,
    template: Template,
}

struct Views {
    identity: HashMap<MapData, Raw<Address>, u32>,
    identity_fd: OwnedFd,
    identity_cidr: LpmTrie<MapData, Raw<Address>, u32>,
    identity_cidr_fd: OwnedFd,
    policy: Map,
    rule_hits: Array<MapData, u64>,
    would_drop: HashMap<MapData, Raw<DropKey>, Raw<Counter>>,
}

/// What every policy's map is made like.
struct Template {
    map: aya_obj::Map,
    /// Describes the types by name, for bpftool.
    btf: OwnedFd,
}

impl Template {
    /// From the object's definition of the slots' content, and the types that
    /// the kernel got with the object's programs.
    fn new(object: &[u8], btf_id: u32) -> Result<Self, KernelError> {
        let parsed = aya_obj::Object::parse(object)
            .map_err(|error| refused("reading the eBPF object", &error))?;
        let map = parsed.maps.get("policy").and_then(aya_obj::Map::inner);
        Ok(Self {
            map: map.ok_or_else(|| missing("inner map of policy"))?,
            btf: sys::btf(btf_id)
                .map_err(|error| refused("opening the eBPF object's types", &error))?,
        })
    }
}

impl PolicyMaps {
    pub(super) fn take(object: &mut Ebpf, bytes: &[u8], btf_id: u32) -> Result<Self, KernelError> {
        let views = Views {
            identity_fd: descriptor(object, "identity")?,
            identity_cidr_fd: descriptor(object, "identity_cidr")?,
            identity: view(object, "identity")?,
            identity_cidr: view(object, "identity_cidr")?,
            policy: object
                .take_map("policy")
                .ok_or_else(|| missing("map policy"))?,
            rule_hits: view(object, "rule_hits")?,
            would_drop: view(object, "would_drop")?,
        };
        Ok(Self {
            views: RwLock::new(views),
            template: Template::new(bytes, btf_id)?,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Views> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Views> {
        self.views.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a policy with these entries and room for `room` more.
    ///
    /// # Errors
    /// The kernel refuses; so for every function here. [`KernelError::Full`]
    /// where a map has no room.
    pub fn create_policy(
        &self,
        entries: &[(PolicyKey, PolicyRule)],
        room: u32,
    ) -> Result<PolicyMap, KernelError> {
        let mut map = self.template.map.clone();
        let size = u32::try_from(entries.len())
            .ok()
            .and_then(|entries| entries.checked_add(room))
            .ok_or(KernelError::Full { map: POLICY_NAME })?;
        // The kernel makes no map without room, and a policy may allow nothing.
        map.set_max_entries(size.max(1));
        let map = MapData::create(map, POLICY_NAME, Some(self.template.btf.as_fd()))
            .map_err(|error| refused("making a policy's map", &error))?;
        let policy = PolicyMap::new(map)?;
        self.extend_policy(&policy, entries)?;
        Ok(policy)
    }

    /// Adds entries to a policy, or changes what is there.
    pub fn extend_policy(
        &self,
        policy: &PolicyMap,
        entries: &[(PolicyKey, PolicyRule)],
    ) -> Result<(), KernelError> {
        let (keys, rules): (Vec<_>, Vec<_>) = entries.iter().copied().unzip();
        policy.batched(|map| map.update(&keys, &rules))
    }

    /// Takes entries out of a policy; those that are not in it are no error.
    pub fn remove_from_policy(
        &self,
        policy: &PolicyMap,
        keys: &[PolicyKey],
    ) -> Result<(), KernelError> {
        policy.batched(|map| map.remove(keys))
    }

    /// A policy's entries, as the kernel has them.
    pub fn read_policy(
        &self,
        policy: &PolicyMap,
    ) -> Result<Vec<(PolicyKey, PolicyRule)>, KernelError> {
        policy.with(|trie| {
            trie.iter()
                .map(|entry| {
                    let (key, Raw(rule)) = done(POLICY_NAME, entry)?;
                    let key = PolicyKey {
                        prefix_len: key.prefix_len(),
                        data: key.data().0,
                    };
                    Ok((key, rule))
                })
                .collect()
        })
    }

    /// What a policy says of a packet that looks for `key`
    /// ([`PolicyKey::of_packet`]): the kernel's own lookup.
    pub fn lookup_policy(
        &self,
        policy: &PolicyMap,
        key: PolicyKey,
    ) -> Result<Option<PolicyRule>, KernelError> {
        policy.with(|trie| {
            let found = present(POLICY_NAME, trie.get(&trie_key(key), 0))?;
            Ok(found.map(|Raw(rule)| rule))
        })
    }

    /// Makes an endpoint go by a policy in one direction, in one step; `None`
    /// empties the slot: an isolated endpoint then drops everything. As
    /// [`PolicyMaps::set_policy_slots`] and [`PolicyMaps::clear_policy_slots`]
    /// of one.
    pub fn set_policy_slot(
        &self,
        endpoint: u32,
        direction: Direction,
        policy: Option<&PolicyMap>,
    ) -> Result<(), KernelError> {
        match policy {
            Some(policy) => self.set_policy_slots(&[(endpoint, direction, policy)]),
            None => self.clear_policy_slots(&[(endpoint, direction)]),
        }
    }

    /// Makes endpoints go by policies: each is one step, all together are not.
    /// Waits for packets under way, some ten milliseconds, once for all.
    pub fn set_policy_slots(
        &self,
        changes: &[(u32, Direction, &PolicyMap)],
    ) -> Result<(), KernelError> {
        let (mut indices, mut maps) = (Vec::new(), Vec::new());
        for (endpoint, direction, policy) in changes {
            let Map::LpmTrie(map) = &*policy.lock() else {
                return Err(missing("inner map of policy"));
            };
            indices.push(policy_index(*endpoint, *direction));
            // Stays open for as long as the policy, which the caller holds.
            maps.push(map.fd().as_fd().as_raw_fd().cast_unsigned());
        }
        let views = self.write();
        Batched::new("policy", views.slots_fd()?).update(&indices, &maps)
    }

    /// Empties slots, each in one step. Waits as
    /// [`PolicyMaps::set_policy_slots`] does, a little longer for many, and not
    /// at all where all are empty.
    pub fn clear_policy_slots(&self, slots: &[(u32, Direction)]) -> Result<(), KernelError> {
        let mut views = self.write();
        let mut filled = Vec::new();
        for (endpoint, direction) in slots {
            let index = policy_index(*endpoint, *direction);
            if present("policy", views.slots()?.get(&index, 0))?.is_some() {
                filled.push(index);
            }
        }
        let map = Batched::new("policy", views.slots_fd()?);
        let share = filled.len().div_ceil(EMPTIED_AT_ONCE).max(1);
        if let [index] = filled[..] {
            return map.remove(&[index]);
        }
        thread::scope(|scope| {
            let shares: Vec<_> = filled
                .chunks(share)
                .map(|indices| scope.spawn(|| map.remove(indices)))
                .collect();
            shares.into_iter().try_for_each(|share| {
                let emptied = share.join();
                emptied.unwrap_or_else(|_| Err(missing("whoever empties slots")))
            })
        })
    }

    /// The policy in an endpoint's slot, to be adopted after a restart.
    pub fn open_policy_slot(
        &self,
        endpoint: u32,
        direction: Direction,
    ) -> Result<Option<PolicyMap>, KernelError> {
        let mut views = self.write();
        let slots = views.slots()?;
        let found = slots.get(&policy_index(endpoint, direction), 0);
        present("policy", found)?.map(PolicyMap::new).transpose()
    }

    /// Gives identities to addresses and prefixes, or (`None`) takes them. In
    /// order; stops at the first that fails.
    pub fn set_identities(
        &self,
        changes: &[(IdentityPrefix, Option<u32>)],
    ) -> Result<(), KernelError> {
        let views = self.write();
        // Runs of one kind, so that the order stays.
        let kind = |(prefix, identity): &(IdentityPrefix, Option<u32>)| {
            let exact = matches!(prefix, IdentityPrefix::Address(_));
            (exact, identity.is_some())
        };
        for run in changes.chunk_by(|one, other| kind(one) == kind(other)) {
            let identities: Vec<_> = run.iter().filter_map(|(_, identity)| *identity).collect();
            let exact: Vec<_> = run
                .iter()
                .filter_map(|(prefix, _)| prefix.address())
                .collect();
            let cidrs: Vec<_> = run.iter().filter_map(|(prefix, _)| prefix.cidr()).collect();
            let address_map = Batched::new("identity", &views.identity_fd);
            let cidr_map = Batched::new("identity_cidr", &views.identity_cidr_fd);
            match (exact.is_empty(), identities.is_empty()) {
                (false, false) => address_map.update(&exact, &identities)?,
                (false, true) => address_map.remove(&exact)?,
                (true, false) => cidr_map.update(&cidrs, &identities)?,
                (true, true) => cidr_map.remove(&cidrs)?,
            }
        }
        Ok(())
    }

    /// Every identity that is in the maps.
    pub fn identities(&self) -> Result<Vec<(IdentityPrefix, u32)>, KernelError> {
        let views = self.read();
        let exact = views.identity.iter().map(|entry| {
            done("identity", entry)
                .map(|(Raw(address), identity)| (IdentityPrefix::Address(address.into()), identity))
        });
        let cidrs = views.identity_cidr.iter().map(|entry| {
            done("identity_cidr", entry)
                .map(|(key, identity)| (IdentityPrefix::Cidr(prefix::cidr(&key)), identity))
        });
        exact.chain(cidrs).collect()
    }

    /// An address's identity, looked up as the programs do: 0 where it has none.
    pub fn lookup_identity(&self, address: IpAddr) -> Result<u32, KernelError> {
        let views = self.read();
        let exact = views.identity.get(&Raw(Address::from(address)), 0);
        if let Some(identity) = present("identity", exact)? {
            return Ok(identity);
        }
        let longest = views.identity_cidr.get(&prefix::key_of_address(address), 0);
        Ok(present("identity_cidr", longest)?.unwrap_or_default())
    }

    /// Flows that each rule has opened, of rules that opened any.
    pub fn rule_hits(&self) -> Result<Vec<(u32, u64)>, KernelError> {
        let views = self.read();
        let mut hits = Vec::new();
        for (rule, entry) in (0..).zip(views.rule_hits.iter()) {
            let count = done("rule_hits", entry)?;
            if count > 0 {
                hits.push((rule, count));
            }
        }
        Ok(hits)
    }

    /// Flows that one rule has opened.
    pub fn rule_hit(&self, rule: u32) -> Result<u64, KernelError> {
        if rule >= MAX_RULES {
            return Ok(0);
        }
        done("rule_hits", self.read().rule_hits.get(&rule, 0))
    }

    /// Starts rules' counters anew, before their numbers mean other rules.
    pub fn clear_rule_hits(&self, rules: &[u32]) -> Result<(), KernelError> {
        let mut views = self.write();
        let counted = rules.iter().filter(|rule| **rule < MAX_RULES);
        counted
            .into_iter()
            .try_for_each(|rule| done("rule_hits", views.rule_hits.set(*rule, 0, 0)))
    }

    /// What audit mode let pass, by endpoint id, as drops are counted.
    pub fn would_drop(&self) -> Result<BTreeMap<u32, Drops>, KernelError> {
        let mut drops = BTreeMap::<u32, Drops>::new();
        for entry in self.read().would_drop.iter() {
            let (Raw(key), Raw(count)) = done("would_drop", entry)?;
            drops.entry(key.port).or_default().push((key, count));
        }
        Ok(drops)
    }

    /// Forgets what an endpoint went by and what was counted for it.
    pub(super) fn clear_endpoint(&self, endpoint: u32) -> Result<(), KernelError> {
        let slots = [Direction::Ingress, Direction::Egress];
        self.clear_policy_slots(&slots.map(|direction| (endpoint, direction)))?;
        let mut views = self.write();
        let keys: Vec<_> = views.would_drop.keys().flatten().collect();
        for key in keys.iter().filter(|key| key.0.port == endpoint) {
            absent_ok("would_drop", views.would_drop.remove(key))?;
        }
        Ok(())
    }
}

impl Views {
    fn slots(&mut self) -> Result<Slots<'_>, KernelError> {
        Slots::try_from(&mut self.policy).map_err(|error| refused("opening map policy", &error))
    }

    fn slots_fd(&self) -> Result<&impl AsFd, KernelError> {
        match &self.policy {
            Map::ArrayOfMaps(map) => Ok(map.fd()),
            _ => Err(missing("map policy")),
        }
    }
}

/// A descriptor of a map's own, for what aya does not offer.
fn descriptor(object: &Ebpf, name: &str) -> Result<OwnedFd, KernelError> {
    let map = match object.map(name) {
        Some(Map::HashMap(map) | Map::LpmTrie(map)) => map.fd().as_fd().try_clone_to_owned(),
        _ => return Err(missing(&format!("map {name}"))),
    };
    map.map_err(|error| refused(format!("opening map {name}"), &error))
}

fn trie_key(key: PolicyKey) -> Key<Raw<PolicyData>> {
    Key::new(key.prefix_len, Raw(key.data))
}

/// A lookup that finds nothing is an answer too.
fn present<T>(
    map: &'static str,
    found: Result<T, aya::maps::MapError>,
) -> Result<Option<T>, KernelError> {
    match found {
        Err(aya::maps::MapError::KeyNotFound) => Ok(None),
        Err(error) if errno(&error) == Some(ENOENT) => Ok(None),
        found => done(map, found).map(Some),
    }
}
