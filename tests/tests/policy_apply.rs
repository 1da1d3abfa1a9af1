//! Applying, step by step: after each single change of a map, every packet's
//! verdict is that of the old or of the new policy. The maps are kept in
//! memory here, because nobody can look at all packets between two system
//! calls on the kernel's.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    rc::Rc,
};

use dataplane::{
    kernel::{IdentityPrefix, KernelError},
    policy::{
        apply::{Applied, Switches, Tables},
        compile::{Compiled, Compiler, Endpoint, Key, RuleNumbers},
    },
};
use dataplane_ebpf::abi::{Direction, EndpointConfig};
use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::json;
use sluice_tests::policy::{
    ADDRESSES, Cluster, Packet, Verdict, allows, cluster, endpoints, identity, model,
};

type Result<T> = std::result::Result<T, KernelError>;
type Map = Rc<(u32, RefCell<BTreeMap<Key, u32>>)>;
type Verdicts = Vec<Verdict>;

/// The maps, in memory.
#[derive(Default)]
struct Memory {
    addresses: RefCell<HashMap<IpAddr, u32>>,
    prefixes: RefCell<HashMap<IpNet, u32>>,
    slots: RefCell<BTreeMap<(u32, Direction), Map>>,
    configs: RefCell<BTreeMap<u32, EndpointConfig>>,
    maps: Cell<u32>,
    /// Prefixes that fit.
    room: Cell<usize>,
    /// Steps until the agent dies.
    steps_left: Cell<usize>,
    /// What each packet may get, where that is looked at.
    allowed: RefCell<Option<(Vec<u32>, Verdicts, Verdicts)>>,
    wrong: RefCell<Option<String>>,
}

impl Memory {
    fn new(endpoints: &[Endpoint]) -> Self {
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

    fn verdicts(&self, endpoints: &[u32]) -> Verdicts {
        let packets = packets();
        endpoints
            .iter()
            .flat_map(|id| packets.iter().map(|packet| self.verdict(*id, packet)))
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

/// A cluster, and what became of it when some of its objects were replaced.
fn change() -> impl Strategy<Value = (Cluster, Cluster)> {
    let replaced = proptest::collection::vec(any::<bool>(), 16);
    (cluster(), cluster(), replaced).prop_map(|(before, other, replaced)| {
        let mut after = before.clone();
        for ((object, new), replace) in after.objects.iter_mut().zip(&other.objects).zip(replaced) {
            if replace && object["kind"] == new["kind"] {
                let name = object["metadata"]["name"].clone();
                *object = new.clone();
                object["metadata"]["name"] = name;
            }
        }
        (before, after)
    })
}

struct World {
    memory: Memory,
    before: Compiled,
    after: Compiled,
    ids: Vec<u32>,
    switches: Switches,
}

impl World {
    fn new(before: &Cluster, after: &Cluster) -> Self {
        let attached = endpoints(after);
        let attached: Vec<_> = attached.into_iter().map(|(_, endpoint)| endpoint).collect();
        let mut compiler = Compiler::new(
            Default::default(),
            RuleNumbers::default(),
            Default::default(),
        );
        let node = ["192.0.2.1".parse().unwrap()];
        let before = compiler.compile(&model(before), &attached, &node);
        let after = compiler.compile(&model(after), &attached, &node);
        Self {
            memory: Memory::new(&attached),
            ids: attached.iter().map(|endpoint| endpoint.id).collect(),
            before,
            after,
            switches: Switches::default(),
        }
    }

    /// The verdicts when a state is reached from nothing.
    fn verdicts_of(&self, compiled: &Compiled) -> Verdicts {
        let fresh = Memory::default();
        fresh.room.set(usize::MAX);
        fresh.steps_left.set(usize::MAX);
        for id in &self.ids {
            let config = EndpointConfig {
                flags: EndpointConfig::IN_USE,
                ..EndpointConfig::default()
            };
            fresh.configs.borrow_mut().insert(*id, config);
        }
        let outcome = Applied::default().apply(&fresh, compiled, &self.switches);
        assert_eq!(outcome.problems, Vec::<String>::new());
        fresh.verdicts(&self.ids)
    }

    /// From now on each step is looked at.
    fn watch(&self) {
        let (before, after) = (
            self.verdicts_of(&self.before),
            self.verdicts_of(&self.after),
        );
        *self.memory.allowed.borrow_mut() = Some((self.ids.clone(), before, after));
    }

    fn check_end(&self) -> std::result::Result<(), TestCaseError> {
        prop_assert_eq!(self.memory.wrong.take(), None);
        prop_assert_eq!(
            self.memory.verdicts(&self.ids),
            self.verdicts_of(&self.after)
        );
        prop_assert_eq!(&*self.memory.addresses.borrow(), &self.after.addresses);
        prop_assert_eq!(&*self.memory.prefixes.borrow(), &self.after.prefixes);
        // Nothing is left over in any table.
        for ((id, direction), map) in &*self.memory.slots.borrow() {
            let table = self.after.endpoints[id].table(*direction).unwrap();
            let entries: Vec<_> = map
                .1
                .borrow()
                .iter()
                .map(|(key, rule)| (*key, *rule))
                .collect();
            prop_assert_eq!(&entries, &table.entries);
        }
        Ok(())
    }
}

/// A pod whose egress is isolated, and perhaps may reach a block.
fn with_block(block: Option<serde_json::Value>) -> Cluster {
    let egress: Vec<_> = block
        .into_iter()
        .map(|block| json!({"to": [{"ipBlock": block}]}))
        .collect();
    Cluster {
        objects: vec![
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "one", "name": "a"},
            }),
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": "one", "name": "p"},
                "spec": {"policyTypes": ["Egress"], "egress": egress},
            }),
        ],
    }
}

/// From one to the other and back.
fn ensure_no_wrong_step(one: &Cluster, other: &Cluster) {
    for (before, after) in [(one, other), (other, one)] {
        let world = World::new(before, after);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        world.watch();
        applied.apply(&world.memory, &world.after, &world.switches);
        world.check_end().unwrap();
    }
}

#[test]
fn an_except_is_in_place_before_its_block_and_as_long_as_it() {
    let none = with_block(None);
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/16"]});
    let block = with_block(Some(block));
    ensure_no_wrong_step(&none, &block);
}

#[test]
fn a_pod_that_becomes_a_peer_is_one_before_an_except_names_its_address() {
    let cluster = |to: serde_json::Value, from: serde_json::Value| {
        let peer = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "one", "name": "peer", "labels": {"app": "peer"}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let mut cluster = with_block(None);
        cluster.objects[1]["spec"] = json!({
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": [to]}],
            "ingress": [{"from": [from]}],
        });
        cluster.objects.push(peer);
        cluster
    };
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8"}});
    let except = json!({"ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.1/32"]}});
    let pods = json!({"podSelector": {"matchLabels": {"app": "peer"}}});
    let by_address = cluster(block.clone(), block);
    let by_label = cluster(pods, except);
    ensure_no_wrong_step(&by_address, &by_label);
}

#[test]
fn where_an_except_does_not_fit_its_block_is_closed() {
    let block = json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.0/16", "10.255.0.0/16"]});
    let world = World::new(&with_block(None), &with_block(Some(block)));
    for room in 0..3 {
        world.memory.room.set(room);
        let outcome = Applied::default().apply(&world.memory, &world.after, &world.switches);
        let closed: Vec<_> = outcome.closed.keys().copied().collect();
        assert_eq!(closed, [(1, Direction::Egress)], "room for {room}");
        let reason = outcome.closed.values().next().unwrap();
        assert!(reason.contains("did not fit"), "{reason}");
        let verdicts = world.memory.verdicts(&world.ids);
        assert!(!verdicts.contains(&Verdict::Allowed), "room for {room}");
    }
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(40, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]

    #[test]
    fn at_no_step_a_packet_gets_a_verdict_that_neither_policy_gives((before, after) in change()) {
        let world = World::new(&before, &after);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        world.watch();
        let outcome = applied.apply(&world.memory, &world.after, &world.switches);
        prop_assert_eq!(outcome.problems, Vec::<String>::new());
        world.check_end()?;
        // Applied again, there is nothing to do.
        let again = applied.apply(&world.memory, &world.after, &world.switches);
        prop_assert!(!again.changed, "{:?}", again);
        // Nor for an agent that starts anew.
        let afresh = Applied::default().apply(&world.memory, &world.after, &world.switches);
        prop_assert!(!afresh.changed, "{:?}", afresh);
    }

    #[test]
    fn an_agent_killed_at_any_step_is_followed_by_one_that_finishes(
        (before, after) in change(),
        steps in 0_usize..40,
    ) {
        let world = World::new(&before, &after);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        world.watch();
        world.memory.steps_left.set(steps);
        applied.apply(&world.memory, &world.after, &world.switches);
        world.memory.steps_left.set(usize::MAX);
        let outcome = Applied::default().apply(&world.memory, &world.after, &world.switches);
        prop_assert_eq!(outcome.problems, Vec::<String>::new());
        world.check_end()?;
    }

    /// Where prefixes do not fit, nobody gets more than the policy allows.
    #[test]
    fn a_full_map_never_lets_more_pass((before, after) in change(), room in 0_usize..6) {
        let world = World::new(&before, &after);
        world.memory.room.set(room);
        let mut applied = Applied::default();
        applied.apply(&world.memory, &world.before, &world.switches);
        applied.apply(&world.memory, &world.after, &world.switches);
        let right = world.verdicts_of(&world.after);
        for (now, right) in world.memory.verdicts(&world.ids).into_iter().zip(right) {
            prop_assert!(now == right || now == Verdict::Denied, "{:?} instead of {:?}", now, right);
        }
        // With room again, all is as it should be.
        world.memory.room.set(usize::MAX);
        let outcome = applied.apply(&world.memory, &world.after, &world.switches);
        prop_assert!(outcome.closed.is_empty());
        world.check_end()?;
    }
}
