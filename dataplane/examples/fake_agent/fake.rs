//! A dataplane that lives in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dataplane::{
    agent::{Error, Result},
    api::{
        Cni, Dataplane, Hardware, Policies,
        hardware::{CountersRequest, NodeRdma, Pf, PortOptions, RdmaResources, VfsRequest},
        roce::{FlowCounts, RoceFlow, RoceFlows, SeenAt},
        types::{
            AttachRequest, Block, Count, DropCount, Endpoint, EndpointSelector, EndpointStats,
            Event, FlowStats, Health, MapStatus, RoceCount, RoceEndpoints, RoceVisibility, Stats,
            Status, TcMechanism, Uplink, UplinkRequest, UplinkStats, XdpMode,
        },
    },
};
use dataplane::{
    hw::HwStats,
    link::NetnsRef,
    rdma::{
        Driver, GidTable, Guid, NetnsMode, PhysicalState, PlacedDevice, PlacedPort, PortState,
        RdmaDevice, RdmaPort,
    },
};
use dataplane_ebpf::roce::Kind;
use ipnet::IpNet;
use tokio::sync::broadcast;

/// Endpoints that fit.
pub const MAX_ENDPOINTS: usize = 512;
/// Events that wait for a client before it misses some.
pub const EVENT_QUEUE: usize = 16;

/// Holds what it is told and counts made-up traffic by the clock.
pub struct Fake {
    /// What its hardware counts.
    pub hw: HwStats,
    started: Instant,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    endpoints: Vec<Endpoint>,
    uplinks: Vec<Uplink>,
    blocks: Vec<IpNet>,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            hw: HwStats::default(),
            started: Instant::now(),
            state: Mutex::default(),
            events: broadcast::channel(EVENT_QUEUE).0,
        }
    }

    /// Tells the clients that follow; how many there are.
    pub fn emit(&self, event: Event) -> usize {
        self.events.send(event).unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A drop, as the agent would report it.
pub fn event(psn: u32) -> Event {
    Event {
        time: 1_790_000_000.25,
        endpoint: 0,
        interface: Some("net1".into()),
        pod: None,
        peer: None,
        direction: "ingress".into(),
        kind: "roce".into(),
        reason: "rnr_nak".into(),
        ether_type: 0x0800,
        source: Some([10, 0, 0, 1].into()),
        destination: Some([10, 0, 0, 2].into()),
        protocol: 17,
        source_port: 49152,
        destination_port: 4791,
        length: 62,
        destination_qp: 17,
        psn,
    }
}

impl Hardware for Fake {
    fn rdma(&self) -> Result<NodeRdma> {
        Ok(NodeRdma {
            mode: NetnsMode::Shared,
            devices: vec![PlacedDevice {
                device: RdmaDevice {
                    index: 0,
                    name: "mlx5_0".into(),
                    protocol: Some("roce".into()),
                    firmware: None,
                    node_guid: Guid(1),
                    system_guid: Guid(1),
                    ports: 1,
                },
                netns: NetnsRef::Host,
                driver: Some(Driver::Mlx5),
                pci: Some("0000:3b:00.0".into()),
                ports: vec![PlacedPort {
                    port: RdmaPort {
                        device: 0,
                        port: 1,
                        state: PortState::Active,
                        physical: PhysicalState::LinkUp,
                        lid: None,
                        netdev: None,
                    },
                    netdev_netns: None,
                    gids: GidTable {
                        capacity: 128,
                        entries: Vec::new(),
                    },
                }],
                char_devices: Vec::new(),
            }],
            cm_device: None,
        })
    }

    fn hw(&self) -> Result<Arc<HwStats>> {
        Ok(Arc::new(self.hw.clone()))
    }

    fn rdma_resources(&self) -> Result<RdmaResources> {
        Ok(RdmaResources {
            holdings: Vec::new(),
            queue_pairs: Vec::new(),
        })
    }

    fn rdma_counters(&self) -> Result<Vec<PortOptions>> {
        Ok(Vec::new())
    }

    fn set_rdma_counters(&self, request: &CountersRequest) -> Result<Vec<PortOptions>> {
        Err(Error::NotFound(format!(
            "no counter {:?}",
            request.counters
        )))
    }

    fn set_rdma_mode(&self, mode: NetnsMode) -> Result<NodeRdma> {
        Err(Error::Conflict(format!("cannot set the mode to {mode}")))
    }

    fn sriov(&self) -> Result<Vec<Pf>> {
        Ok(Vec::new())
    }

    fn set_vfs(&self, request: &VfsRequest) -> Result<Pf> {
        Err(Error::Unsupported(format!("{} has no SR-IOV", request.pf)))
    }
}

impl Dataplane for Fake {
    fn cni(&self) -> Option<&dyn Cni> {
        None
    }

    fn policies(&self) -> Option<&dyn Policies> {
        None
    }

    fn hardware(&self) -> Option<&dyn Hardware> {
        Some(self)
    }

    fn roce_flows(&self) -> Result<RoceFlows> {
        let state = self.state();
        let time_ns = self.started.elapsed().as_nanos() as u64;
        let flows = state.endpoints.iter().map(|e| flow(e, time_ns / 1_000_000));
        Ok(RoceFlows {
            time_ns,
            limit: 16384,
            flows: flows.collect(),
        })
    }

    fn attach(&self, request: &AttachRequest) -> Result<Endpoint> {
        if request.interface == "lo" {
            return Err(Error::Invalid("lo: not a pod's interface".into()));
        }
        if request.interface == "panic" {
            panic!("as asked");
        }
        let mut state = self.state();
        if state.endpoints.len() == MAX_ENDPOINTS {
            return Err(Error::Exhausted(format!(
                "all {MAX_ENDPOINTS} endpoints are taken; raise max_endpoints"
            )));
        }
        let number = state.endpoints.len() as u32;
        let endpoint = Endpoint {
            id: number,
            netns: request.netns.clone(),
            netns_inode: 4_026_532_000 + u64::from(number),
            interface: request.interface.clone(),
            ifindex: 2,
            kind: "macvlan".into(),
            mac: None,
            addresses: Vec::new(),
            pod: request.pod.clone(),
            beside: None,
            uplink: state.uplinks.first().map(|uplink| uplink.interface.clone()),
            rdma: None,
            roce: Some(RoceVisibility::None),
            mechanism: TcMechanism::Tcx,
            health: Health::Attached,
        };
        state.endpoints.push(endpoint.clone());
        Ok(endpoint)
    }

    fn detach(&self, selector: &EndpointSelector) -> Result<Endpoint> {
        let mut state = self.state();
        let position = state.endpoints.iter().position(|e| match selector {
            EndpointSelector::Id { id } => e.id == *id,
            EndpointSelector::Interface { netns, interface } => {
                e.netns == *netns && e.interface == *interface
            }
        });
        match position {
            Some(position) => Ok(state.endpoints.remove(position)),
            None => Err(Error::NotFound("no such endpoint".into())),
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.state().endpoints.clone()
    }

    fn stats(&self) -> Result<Stats> {
        let state = self.state();
        let time_ns = self.started.elapsed().as_nanos() as u64;
        let ms = time_ns / 1_000_000;
        Ok(Stats {
            time_ns,
            endpoints: state.endpoints.iter().map(|e| traffic(e, ms)).collect(),
            uplinks: state
                .uplinks
                .iter()
                .map(|u| uplink_traffic(u, ms))
                .collect(),
            repairs: 0,
            flows: FlowStats {
                answered: 1000,
                unanswered: 10,
                answered_limit: 65536,
                unanswered_limit: 8192,
                events: BTreeMap::from([("created".into(), ms)]),
            },
            faults: BTreeMap::from([("events_throttled".into(), ms / 1000)]),
        })
    }

    fn status(&self) -> Result<Status> {
        let state = self.state();
        Ok(Status {
            version: "0.0.0-fake".into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            kernel: "6.18.0".into(),
            cpus: 2,
            mechanism: TcMechanism::Tcx,
            pins: "/sys/fs/bpf/sluice/v1".into(),
            layout: 1,
            pipeline: "0123456789abcdef".into(),
            endpoints: state.endpoints.len() as u32,
            max_endpoints: MAX_ENDPOINTS as u32,
            maps: vec![MapStatus {
                name: "ep_stats".into(),
                kind: "percpu_array".into(),
                max_entries: 1024,
                memory_bytes: 32768,
            }],
            memory_bytes: 32768,
            roce: RoceEndpoints::default(),
            uplinks: state.uplinks.clone(),
            problems: Vec::new(),
        })
    }

    fn add_uplink(&self, request: &UplinkRequest) -> Result<Uplink> {
        let mut state = self.state();
        if state
            .uplinks
            .iter()
            .any(|u| u.interface == request.interface)
        {
            return Err(Error::Conflict(format!(
                "{} is an uplink already",
                request.interface
            )));
        }
        let uplink = Uplink {
            id: state.uplinks.len() as u32,
            interface: request.interface.clone(),
            ifindex: 3,
            mac: None,
            addresses: Vec::new(),
            host_reach: request.host_reach,
            xdp: XdpMode::Native,
            mechanism: TcMechanism::Tcx,
            health: Health::Attached,
        };
        state.uplinks.push(uplink.clone());
        Ok(uplink)
    }

    fn remove_uplink(&self, interface: &str) -> Result<Uplink> {
        let mut state = self.state();
        let position = state.uplinks.iter().position(|u| u.interface == interface);
        match position {
            Some(position) => Ok(state.uplinks.remove(position)),
            None => Err(Error::NotFound(format!("{interface} is not an uplink"))),
        }
    }

    fn uplinks(&self) -> Vec<Uplink> {
        self.state().uplinks.clone()
    }

    fn block(&self, cidr: IpNet) -> Result<Block> {
        self.state().blocks.push(cidr);
        Ok(Block {
            cidr,
            count: Count::default(),
        })
    }

    fn unblock(&self, cidr: IpNet) -> Result<Block> {
        let mut state = self.state();
        match state.blocks.iter().position(|block| *block == cidr) {
            Some(position) => Ok(Block {
                cidr: state.blocks.remove(position),
                count: packets(7, 64),
            }),
            None => Err(Error::NotFound(format!("{cidr} is not blocked"))),
        }
    }

    fn blocks(&self) -> Result<Vec<Block>> {
        let block = |cidr: &IpNet| Block {
            cidr: *cidr,
            count: Count::default(),
        };
        Ok(self.state().blocks.iter().map(block).collect())
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

fn packets(packets: u64, size: u64) -> Count {
    Count {
        packets,
        bytes: packets * size,
    }
}

/// What an endpoint has seen `ms` milliseconds after the start: the higher its
/// id, the more.
fn traffic(endpoint: &Endpoint, ms: u64) -> EndpointStats {
    let load = u64::from(endpoint.id % 16) + 1;
    let drop = |reason: &str, packets_: u64| DropCount {
        direction: "ingress".into(),
        reason: reason.into(),
        count: packets(packets_, 60),
    };
    EndpointStats {
        id: endpoint.id,
        interface: endpoint.interface.clone(),
        netns: endpoint.netns.clone(),
        pod: endpoint.pod.clone(),
        ingress: packets(ms * load * 3, 900),
        egress: packets(ms * load, 120),
        drops: vec![drop("ipv4_truncated", ms * (load % 3) / 100)],
        would_drop: vec![drop("policy_denied", ms * (load % 5) / 100)],
        roce: roce(ms * load),
    }
}

/// A flow of WRITEs from an endpoint, the faster the higher its id.
fn flow(endpoint: &Endpoint, ms: u64) -> RoceFlow {
    let load = u64::from(endpoint.id % 16) + 1;
    RoceFlow {
        seen_at: SeenAt {
            endpoint: Some(endpoint.id),
            interface: endpoint.interface.clone(),
        },
        direction: "egress".into(),
        local: [10, 0, 0, 1].into(),
        pod: endpoint.pod.clone(),
        peer: [10, 0, 0, 2].into(),
        peer_pod: None,
        destination_qp: 17,
        source_qp: None,
        path_mtu: Some(1024),
        idle_seconds: 0.0,
        counts: FlowCounts {
            packets: ms * load,
            bytes: ms * load * 1082,
            operations: BTreeMap::from([("write".into(), ms * load)]),
            duplicates: ms * load / 100,
            ..FlowCounts::default()
        },
        round_trip: None,
    }
}

/// Some of each kind, the rarer the further down in the list.
fn roce(load: u64) -> Vec<RoceCount> {
    let count = |(number, kind): (usize, &Kind)| RoceCount {
        direction: if number % 2 == 0 { "ingress" } else { "egress" }.into(),
        transport: "rc".into(),
        kind: kind.name().into(),
        operation: kind.is_operation(),
        count: packets(load / (number as u64 * 8 + 1), 1082),
    };
    Kind::ALL.iter().enumerate().map(count).collect()
}

fn uplink_traffic(uplink: &Uplink, ms: u64) -> UplinkStats {
    UplinkStats {
        interface: uplink.interface.clone(),
        counters: BTreeMap::from([
            ("received".into(), packets(ms * 50, 900)),
            ("malformed".into(), packets(ms / 1000, 60)),
            ("node_to_pod".into(), packets(ms / 10, 98)),
            ("pod_to_node".into(), packets(ms / 10, 98)),
            ("neighbor_copied".into(), packets(ms / 2000, 42)),
        ]),
        drops: vec![DropCount {
            direction: "ingress".into(),
            reason: "block_list".into(),
            count: packets(ms / 20, 74),
        }],
        roce: roce(ms * 10),
    }
}
