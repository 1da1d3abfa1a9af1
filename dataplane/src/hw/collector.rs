//! One reading of everything that hardware tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    Holding, HwStats, Limit, NicCounters, PortCounters, Share, Sources,
    accumulate::Accumulators,
    nic,
    owner::{Holder, Pods, Processes},
    sets::{PortKey, SavedSets, Sets},
};
use crate::{
    api::types::PodName,
    link::NetnsRef,
    rdma::{
        CounterMode, Driver, NodeRdma, Owner, PlacedDevice, PlacedPort, Rdma, RdmaError,
        ResourceKind,
    },
};

/// Reads, and remembers what counters were between two readings.
pub struct Collector {
    sources: Box<dyn Sources>,
    /// The socket in the node's namespace. Those in pods' are closed after each reading: an open
    /// one would keep the namespace of a pod that has gone.
    host: Option<Rdma>,
    processes: Processes,
    ports: BTreeMap<PortKey, Accumulators>,
    sets: Sets,
    /// Ports at which auto mode cannot be, or is not ours to change.
    no_sets: BTreeSet<PortKey>,
    /// Something that a restarted agent has to know has changed.
    unsaved: bool,
}

/// What a reading needs to be told.
pub struct Asked<'a> {
    /// The devices.
    pub node: &'a NodeRdma,
    /// The pods.
    pub pods: Pods,
    /// Interfaces of the node that are uplinks.
    pub uplinks: Vec<String>,
    /// Whether counter sets are to be made by process.
    pub make_sets: bool,
}

/// What a restarted agent goes on with.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    ports: Vec<(PortKey, Accumulators)>,
    sets: SavedSets,
}

impl Collector {
    /// Goes on with what an earlier one saved.
    pub fn new(sources: impl Sources + 'static, saved: Saved) -> Self {
        Self {
            host: None,
            processes: Processes::new(sources.processes()),
            sources: Box::new(sources),
            ports: saved.ports.into_iter().collect(),
            sets: Sets::restore(saved.sets),
            no_sets: BTreeSet::new(),
            unsaved: false,
        }
    }

    /// What has to be saved, if what a restarted agent could not find out has changed; with `sums`,
    /// also if there are sums, which change all the time.
    pub fn to_save(&mut self, sums: bool) -> Option<Saved> {
        let changed = std::mem::take(&mut self.unsaved);
        let sums = sums && !self.sets.is_empty();
        if !changed && !sums {
            return None;
        }
        let ports = self
            .ports
            .iter()
            .map(|(key, port)| (*key, port.remembered()));
        Some(Saved {
            ports: ports.filter(|(_, port)| !port.is_empty()).collect(),
            sets: self.sets.save(),
        })
    }

    /// Reads everything once. What cannot be read is absent, and told in the log.
    pub fn read(&mut self, asked: Asked<'_>) -> HwStats {
        let Asked {
            node,
            mut pods,
            uplinks,
            make_sets,
        } = asked;
        let mut stats = HwStats::default();
        let mut present = BTreeMap::new();
        let mut opened = self.host.take().map(|host| (NetnsRef::Host, host));
        // Devices of one namespace are read over one socket.
        let mut devices: Vec<_> = node.devices.iter().collect();
        devices.sort_by_key(|device| (device.netns != NetnsRef::Host, device.netns.to_string()));
        for device in devices {
            if opened
                .as_ref()
                .is_none_or(|(netns, _)| *netns != device.netns)
            {
                if let Some((NetnsRef::Host, host)) = opened.take() {
                    self.host = Some(host);
                }
                opened = match self.sources.rdma(&device.netns) {
                    Ok(rdma) => Some((device.netns.clone(), rdma)),
                    Err(error) => {
                        tracing::debug!("RDMA devices of {}: {error}", device.netns);
                        continue;
                    }
                };
            }
            let Some((_, rdma)) = &mut opened else {
                continue;
            };
            let place = Place {
                device,
                driver: device.driver,
                pod: pods.name(&device.netns),
                make_sets,
            };
            for port in &device.ports {
                let key = key(device, port);
                present.insert(key, (device, port));
                stats.ports.push(self.read_port(rdma, &place, port, key));
                self.read_sets(rdma, &place, key, &mut pods);
            }
            self.read_holdings(rdma, &place, &mut pods, &mut stats);
        }
        if let Some((NetnsRef::Host, host)) = opened {
            self.host = Some(host);
        }
        self.finish(&pods, &present, &mut stats);
        self.read_nics(node, &pods, uplinks, &mut stats);
        stats
    }

    fn read_port(
        &mut self,
        rdma: &mut Rdma,
        place: &Place<'_>,
        port: &PlacedPort,
        key: PortKey,
    ) -> PortCounters {
        let counters = match rdma.port_counters(key.device, key.port) {
            Ok(reading) => {
                let known = self.ports.entry(key).or_default();
                let before = known.memory();
                let counted = known.read(place.driver, &reading);
                self.unsaved |= known.memory() != before;
                counted
            }
            Err(error) => {
                tracing::debug!("{error}");
                Vec::new()
            }
        };
        let device = place.device;
        PortCounters {
            device: device.device.name.clone(),
            port: key.port,
            netns: device.netns.clone(),
            pod: place.pod.clone(),
            driver: place.driver,
            protocol: device.device.protocol.clone(),
            netdev: port.port.netdev.as_ref().map(|netdev| netdev.name.clone()),
            pci: device.pci.clone(),
            state: port.port.state,
            counters,
        }
    }

    /// Reads the counter sets of a port, where they are made by process.
    fn read_sets(&mut self, rdma: &mut Rdma, place: &Place<'_>, key: PortKey, pods: &mut Pods) {
        let by_process = matches!(
            self.counter_mode(rdma, place, key),
            Some(CounterMode::Auto {
                by_process: true,
                ..
            })
        );
        if !by_process {
            return;
        }
        let sets = match rdma.counter_sets(key.device, key.port) {
            Ok(sets) => sets,
            Err(error) => {
                tracing::debug!("{error}");
                return;
            }
        };
        for set in sets {
            let owner = set.process.map_or(Owner::Unknown, Owner::Process);
            let processes = &mut self.processes;
            self.sets.read(key, place.driver, set, || {
                place.holder(&owner, pods, processes)
            });
        }
    }

    /// How queue pairs come into sets, by process if that is wished and can be.
    fn counter_mode(
        &mut self,
        rdma: &mut Rdma,
        place: &Place<'_>,
        key: PortKey,
    ) -> Option<CounterMode> {
        let mode = rdma.counter_mode(key.device, key.port).ok()?;
        if !place.make_sets || mode != CounterMode::Off || self.no_sets.contains(&key) {
            return Some(mode);
        }
        let mut set = |optional| rdma.set_auto_counters(key.device, key.port, true, true, optional);
        let done = set(true).or_else(|error| match error.errno() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => set(false),
            _ => Err(error),
        });
        match done {
            Ok(()) => Some(CounterMode::Auto {
                by_type: true,
                by_process: true,
            }),
            Err(error) => {
                tracing::info!("no counters by pod: {error}");
                self.no_sets.insert(key);
                Some(mode)
            }
        }
    }

    fn read_holdings(
        &mut self,
        rdma: &mut Rdma,
        place: &Place<'_>,
        pods: &mut Pods,
        stats: &mut HwStats,
    ) {
        let device = place.device;
        let index = device.device.index;
        match self.count(rdma, place, pods) {
            Ok(counts) => {
                let holdings = counts.into_iter().map(|((holder, kind), count)| Holding {
                    device: device.device.name.clone(),
                    netns: device.netns.clone(),
                    holder,
                    kind,
                    count,
                });
                stats.holdings.extend(holdings);
            }
            Err(error) => tracing::debug!("{error}"),
        }
        let summary = rdma.resources(index).unwrap_or_default();
        let limits = summary.into_iter().filter_map(|count| {
            Some(Limit {
                device: device.device.name.clone(),
                netns: device.netns.clone(),
                kind: count.kind,
                max: count.max?,
            })
        });
        stats.limits.extend(limits);
    }

    fn count(
        &mut self,
        rdma: &mut Rdma,
        place: &Place<'_>,
        pods: &mut Pods,
    ) -> Result<BTreeMap<(Holder, ResourceKind), u64>, RdmaError> {
        // An owner is looked up once, whatever it has.
        let mut owned = HashMap::<_, Vec<_>>::new();
        for kind in ResourceKind::ALL {
            for (owner, count) in rdma.holdings(place.device.device.index, kind)? {
                owned.entry(owner).or_default().push((kind, count));
            }
        }
        let mut counts = BTreeMap::new();
        for (owner, held) in owned {
            let holder = place.holder(&owner, pods, &mut self.processes);
            for (kind, count) in held {
                *counts.entry((holder.clone(), kind)).or_default() += count;
            }
        }
        Ok(counts)
    }

    /// Tells the shares, and forgets what is not there any more.
    fn finish(
        &mut self,
        pods: &Pods,
        present: &BTreeMap<PortKey, (&PlacedDevice, &PlacedPort)>,
        stats: &mut HwStats,
    ) {
        self.unsaved |= self.sets.end_reading(|holder| pods.has(holder));
        self.processes.end_look();
        self.ports.retain(|key, _| present.contains_key(key));
        self.no_sets.retain(|key| present.contains_key(key));
        let driver = |key: PortKey| present.get(&key).and_then(|(device, _)| device.driver);
        let shares = self
            .sets
            .sums(driver)
            .filter_map(|(key, holder, counters)| {
                let (device, _) = present.get(&key)?;
                Some(Share {
                    device: device.device.name.clone(),
                    port: key.port,
                    netns: device.netns.clone(),
                    holder: holder.clone(),
                    counters,
                })
            });
        stats.shares = shares.collect();
    }

    fn read_nics(&self, node: &NodeRdma, pods: &Pods, uplinks: Vec<String>, stats: &mut HwStats) {
        let ports = node.devices.iter().flat_map(|device| &device.ports);
        let mut nics: BTreeSet<(String, String)> = ports
            .filter_map(|port| {
                let netdev = port.port.netdev.as_ref()?;
                Some((port.netdev_netns.as_ref()?.to_string(), netdev.name.clone()))
            })
            .collect();
        let host = NetnsRef::Host.to_string();
        nics.extend(uplinks.into_iter().map(|uplink| (host.clone(), uplink)));
        for (netns, interface) in nics {
            let Ok(netns) = netns.parse::<NetnsRef>() else {
                continue;
            };
            match self.sources.nic(&netns, &interface) {
                Ok(Some(statistics)) => stats.nics.push(NicCounters {
                    pod: pods.name(&netns),
                    samples: nic::samples(&statistics),
                    interface,
                    netns,
                }),
                Ok(None) => {}
                Err(error) => tracing::debug!("{error}"),
            }
        }
    }
}

/// A device with what is known of it.
struct Place<'a> {
    device: &'a PlacedDevice,
    driver: Option<Driver>,
    /// Whose it is alone.
    pod: Option<PodName>,
    make_sets: bool,
}

impl Place<'_> {
    /// Whose an object of this device is. A device that is in a pod's namespace can be used from
    /// there only.
    fn holder(&self, owner: &Owner, pods: &mut Pods, processes: &mut Processes) -> Holder {
        let holder = pods.holder(owner, processes);
        match (&holder, &self.device.netns) {
            (Holder::Kernel, _) | (_, NetnsRef::Host) => holder,
            (_, netns) => pods.in_netns(netns).unwrap_or(holder),
        }
    }
}

fn key(device: &PlacedDevice, port: &PlacedPort) -> PortKey {
    PortKey {
        device: device.device.index,
        guid: device.device.node_guid.0,
        port: port.port.port,
    }
}
