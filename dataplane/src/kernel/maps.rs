//! Typed views of the maps.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
        RingBuf,
    },
};
use dataplane_ebpf::abi::{
    Address, Counter, Direction, DropKey, EndpointConfig, Fault, LocalAddrKey, LocalMacKey,
    RoceFlow, RoceFlowKey, RoceKey, UplinkConfig, UplinkCounter, ep_stats_index,
    uplink_stats_index,
};
use ipnet::IpNet;
use nix::libc::{E2BIG, ENOENT, ENOSPC};

use super::{
    error::{KernelError, errno, refused},
    events::EventReader,
    flows::FlowMaps,
    object::missing,
    policy::PolicyMaps,
    prefix,
    value::Raw,
};

/// The pinned maps that user space reads and writes.
pub struct Maps {
    views: RwLock<Views>,
    policy: PolicyMaps,
    flows: FlowMaps,
}

struct Views {
    endpoints: Array<MapData, Raw<EndpointConfig>>,
    ep_stats: PerCpuArray<MapData, Raw<Counter>>,
    drops: PerCpuHashMap<MapData, Raw<DropKey>, Raw<Counter>>,
    roce_stats: PerCpuHashMap<MapData, Raw<RoceKey>, Raw<Counter>>,
    roce_flows: HashMap<MapData, Raw<RoceFlowKey>, Raw<RoceFlow>>,
    faults: PerCpuArray<MapData, u64>,
    uplinks: Array<MapData, Raw<UplinkConfig>>,
    uplink_stats: PerCpuArray<MapData, Raw<Counter>>,
    local_macs: HashMap<MapData, Raw<LocalMacKey>, u32>,
    local_addrs: HashMap<MapData, Raw<LocalAddrKey>, u32>,
    block_list: LpmTrie<MapData, Raw<Address>, Raw<Counter>>,
    events: Option<RingBuf<MapData>>,
}

/// Drops of one port, by direction and reason.
pub type Drops = Vec<(DropKey, Counter)>;
/// RoCE counters of one port, by direction, transport and kind; the keys bear
/// no marks.
pub type Roce = BTreeMap<RoceKey, Counter>;

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(object: &mut Ebpf, policy: PolicyMaps) -> Result<Self, KernelError> {
        let views = Views {
            endpoints: view(object, "endpoints")?,
            ep_stats: view(object, "ep_stats")?,
            drops: view(object, "drops")?,
            roce_stats: view(object, "roce_stats")?,
            roce_flows: view(object, "roce_flows")?,
            faults: view(object, "faults")?,
            uplinks: view(object, "uplinks")?,
            uplink_stats: view(object, "uplink_stats")?,
            local_macs: view(object, "local_macs")?,
            local_addrs: view(object, "local_addrs")?,
            block_list: view(object, "block_list")?,
            events: Some(view(object, "events")?),
        };
        Ok(Self {
            views: RwLock::new(views),
            policy,
            flows: FlowMaps::take(object)?,
        })
    }

    /// The maps of policy.
    pub fn policy(&self) -> &PolicyMaps {
        &self.policy
    }

    /// The tables of connections.
    pub fn flows(&self) -> &FlowMaps {
        &self.flows
    }

    fn read(&self) -> RwLockReadGuard<'_, Views> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Views> {
        self.views.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events; they can be read in one place only, so the second call gets
    /// `None`.
    pub fn take_events(&self) -> Option<EventReader> {
        self.write().events.take().map(EventReader::new)
    }

    /// Writes an endpoint's configuration.
    ///
    /// # Errors
    /// The kernel refuses; so for every function here.
    pub fn set_endpoint(&self, endpoint: u32, config: EndpointConfig) -> Result<(), KernelError> {
        let mut views = self.write();
        done("endpoints", views.endpoints.set(endpoint, Raw(config), 0))
    }

    /// An endpoint's configuration.
    pub fn endpoint(&self, endpoint: u32) -> Result<EndpointConfig, KernelError> {
        let views = self.read();
        done("endpoints", views.endpoints.get(&endpoint, 0)).map(|Raw(config)| config)
    }

    /// Reads an endpoint's configuration, changes it and writes it back; no
    /// other change gets between. Returns what was written.
    pub fn change_endpoint(
        &self,
        endpoint: u32,
        change: impl FnOnce(&mut EndpointConfig),
    ) -> Result<EndpointConfig, KernelError> {
        let mut views = self.write();
        let Raw(mut config) = done("endpoints", views.endpoints.get(&endpoint, 0))?;
        change(&mut config);
        done("endpoints", views.endpoints.set(endpoint, Raw(config), 0))?;
        Ok(config)
    }

    /// Forgets all that was counted for an endpoint, and the policies that it
    /// went by, so that its id can be given to another.
    pub fn clear_endpoint(&self, endpoint: u32) -> Result<(), KernelError> {
        self.policy.clear_endpoint(endpoint)?;
        let mut views = self.write();
        for direction in [Direction::Ingress, Direction::Egress] {
            let index = ep_stats_index(endpoint, direction);
            done("ep_stats", zero(&mut views.ep_stats, index))?;
        }
        views.clear_sparse(endpoint)
    }

    /// Like [`Maps::clear_endpoint`], for an uplink's number and port id.
    pub fn clear_uplink(&self, uplink: u32, port: u32) -> Result<(), KernelError> {
        let mut views = self.write();
        for counter in UplinkCounter::ALL {
            let index = uplink_stats_index(uplink, *counter);
            done("uplink_stats", zero(&mut views.uplink_stats, index))?;
        }
        views.clear_sparse(port)
    }

    /// An endpoint's packets and bytes for one direction.
    pub fn endpoint_counter(
        &self,
        endpoint: u32,
        direction: Direction,
    ) -> Result<Counter, KernelError> {
        let index = ep_stats_index(endpoint, direction);
        done("ep_stats", self.read().ep_stats.get(&index, 0)).map(|values| sum(&values))
    }

    /// One of an uplink's counters.
    pub fn uplink_counter(
        &self,
        uplink: u32,
        counter: UplinkCounter,
    ) -> Result<Counter, KernelError> {
        let index = uplink_stats_index(uplink, counter);
        done("uplink_stats", self.read().uplink_stats.get(&index, 0)).map(|values| sum(&values))
    }

    /// Every drop counter, by port id.
    pub fn drops(&self) -> Result<BTreeMap<u32, Drops>, KernelError> {
        let mut drops = BTreeMap::<u32, Drops>::new();
        for entry in self.read().drops.iter() {
            let (Raw(key), values) = done("drops", entry)?;
            drops.entry(key.port).or_default().push((key, sum(&values)));
        }
        Ok(drops)
    }

    /// Every RoCE counter, by port id.
    pub fn roce(&self) -> Result<BTreeMap<u32, Roce>, KernelError> {
        let mut roce = BTreeMap::<u32, Roce>::new();
        for entry in self.read().roce_stats.iter() {
            let (Raw(key), values) = done("roce_stats", entry)?;
            let counter = sum(&values);
            let port = roce.entry(key.port).or_default();
            for key in key.kinds() {
                let total = port.entry(key).or_default();
                total.packets += counter.packets;
                total.bytes += counter.bytes;
            }
        }
        Ok(roce)
    }

    /// Every RoCE flow, in no order. While traffic changes the table, a few may
    /// be missed or come twice.
    pub fn roce_flows(&self) -> Result<Vec<(RoceFlowKey, RoceFlow)>, KernelError> {
        self.read()
            .roce_flows
            .iter()
            .map(|entry| done("roce_flows", entry).map(|(Raw(key), Raw(flow))| (key, flow)))
            .collect()
    }

    /// How often a fault occurred.
    pub fn fault(&self, fault: Fault) -> Result<u64, KernelError> {
        done("faults", self.read().faults.get(&(fault as u32), 0)).map(|values| values.iter().sum())
    }

    /// Writes an uplink's configuration.
    pub fn set_uplink(&self, uplink: u32, config: UplinkConfig) -> Result<(), KernelError> {
        let mut views = self.write();
        done("uplinks", views.uplinks.set(uplink, Raw(config), 0))
    }

    /// The MAC addresses of local pods that are in the map.
    pub fn local_macs(&self) -> Result<std::collections::HashMap<LocalMacKey, u32>, KernelError> {
        self.read()
            .local_macs
            .iter()
            .map(|entry| done("local_macs", entry).map(|(Raw(key), owner)| (key, owner)))
            .collect()
    }

    /// Adds or removes (`None`) a local pod's MAC address.
    pub fn set_local_mac(&self, key: LocalMacKey, owner: Option<u32>) -> Result<(), KernelError> {
        let mut views = self.write();
        match owner {
            Some(owner) => done("local_macs", views.local_macs.insert(Raw(key), owner, 0)),
            None => absent_ok("local_macs", views.local_macs.remove(&Raw(key))),
        }
    }

    /// The addresses of the node and its pods that are in the map.
    pub fn local_addrs(&self) -> Result<std::collections::HashMap<LocalAddrKey, u32>, KernelError> {
        self.read()
            .local_addrs
            .iter()
            .map(|entry| done("local_addrs", entry).map(|(Raw(key), owner)| (key, owner)))
            .collect()
    }

    /// Adds or removes (`None`) an address of the node or of a local pod.
    pub fn set_local_addr(&self, key: LocalAddrKey, owner: Option<u32>) -> Result<(), KernelError> {
        let mut views = self.write();
        match owner {
            Some(owner) => done("local_addrs", views.local_addrs.insert(Raw(key), owner, 0)),
            None => absent_ok("local_addrs", views.local_addrs.remove(&Raw(key))),
        }
    }

    /// Puts a source prefix on the block list, unless it is there.
    pub fn block(&self, cidr: IpNet) -> Result<(), KernelError> {
        let mut views = self.write();
        let key = prefix::key(cidr);
        let present = views
            .block_list
            .keys()
            .flatten()
            .any(|other| prefix::same(&other, &key));
        if present {
            return Ok(());
        }
        done(
            "block_list",
            views.block_list.insert(&key, Raw(Counter::default()), 0),
        )
    }

    /// Takes a prefix off the block list; false where it was not on it.
    pub fn unblock(&self, cidr: IpNet) -> Result<bool, KernelError> {
        match self.write().block_list.remove(&prefix::key(cidr)) {
            Err(error) if errno(&error) == Some(ENOENT) => Ok(false),
            result => done("block_list", result).map(|()| true),
        }
    }

    /// The block list with what each prefix stopped.
    pub fn blocks(&self) -> Result<Vec<(IpNet, Counter)>, KernelError> {
        let views = self.read();
        let mut blocks = Vec::new();
        for entry in views.block_list.iter() {
            let (key, Raw(counter)) = done("block_list", entry)?;
            blocks.push((prefix::cidr(&key), counter));
        }
        blocks.sort_by_key(|(cidr, _)| *cidr);
        Ok(blocks)
    }
}

impl Views {
    fn clear_sparse(&mut self, port: u32) -> Result<(), KernelError> {
        let keys: Vec<_> = self.drops.keys().flatten().collect();
        for key in keys.iter().filter(|key| key.0.port == port) {
            absent_ok("drops", self.drops.remove(key))?;
        }
        let keys: Vec<_> = self.roce_stats.keys().flatten().collect();
        for key in keys.iter().filter(|key| key.0.port == port) {
            absent_ok("roce_stats", self.roce_stats.remove(key))?;
        }
        let keys: Vec<_> = self.roce_flows.keys().flatten().collect();
        for key in keys.iter().filter(|key| key.0.port == port) {
            absent_ok("roce_flows", self.roce_flows.remove(key))?;
        }
        Ok(())
    }
}

pub(super) fn view<T: TryFrom<Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<T, KernelError> {
    let map = object
        .take_map(name)
        .ok_or_else(|| missing(&format!("map {name}")))?;
    T::try_from(map).map_err(|error| refused(format!("opening map {name}"), &error))
}

pub(super) fn done<T>(map: &'static str, result: Result<T, MapError>) -> Result<T, KernelError> {
    result.map_err(|error| match errno(&error) {
        Some(E2BIG | ENOSPC) => KernelError::Full { map },
        _ => refused(format!("map {map}"), &error),
    })
}

/// A removal of what is not there has reached its aim.
pub(super) fn absent_ok(
    map: &'static str,
    result: Result<(), MapError>,
) -> Result<(), KernelError> {
    match result {
        Err(error) if errno(&error) == Some(ENOENT) => Ok(()),
        result => done(map, result),
    }
}

fn zero(map: &mut PerCpuArray<MapData, Raw<Counter>>, index: u32) -> Result<(), MapError> {
    let processors = map.get(&index, 0)?.len();
    let zeros = vec![Raw(Counter::default()); processors];
    map.set(index, PerCpuValues::try_from(zeros)?, 0)
}

fn sum(values: &PerCpuValues<Raw<Counter>>) -> Counter {
    values
        .iter()
        .fold(Counter::default(), |sum, Raw(value)| Counter {
            packets: sum.packets + value.packets,
            bytes: sum.bytes + value.bytes,
        })
}
