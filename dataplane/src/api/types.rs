//! What travels between the agent and its clients, as JSON.

pub mod policy;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
pub use sluice_api::{ApiError, PodName, cni};

use super::hardware::EndpointRdma;
use crate::link::{Mac, NetnsRef};

/// `POST /v1/endpoints`: attach an interface to the dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The interface's network namespace.
    pub netns: NetnsRef,
    /// The interface's name there.
    pub interface: String,
    /// The pod that it belongs to, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

/// Which endpoint is meant: by its id, or by where its interface is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EndpointSelector {
    /// By id.
    Id {
        /// Endpoint id.
        id: u32,
    },
    /// By interface.
    Interface {
        /// The interface's network namespace.
        netns: NetnsRef,
        /// The interface's name there.
        interface: String,
    },
}

/// How a program hangs on a TC hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcMechanism {
    /// A pinned TCX link (Linux 6.6 and newer).
    Tcx,
    /// A filter on the clsact qdisc.
    Clsact,
}

/// How the XDP program runs on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the network stack, where the driver cannot.
    Generic,
}

/// Whether an endpoint or uplink is what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum Health {
    /// Programs attached.
    Attached,
    /// Not in force; the reason, and what the agent does about it.
    Lost(String),
}

/// One pod interface in the dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Number that indexes the maps.
    pub id: u32,
    /// The interface's network namespace, as given at attach.
    pub netns: NetnsRef,
    /// Inode number of the namespace.
    pub netns_inode: u64,
    /// Interface name in the namespace.
    pub interface: String,
    /// Interface index in the namespace.
    pub ifindex: u32,
    /// Kind of interface: macvlan, ipvlan, veth, vf, ...
    pub kind: String,
    /// MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Addresses on the interface.
    pub addresses: Vec<IpNet>,
    /// The pod, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// Nobody asked for it: it has come to be in the namespace beside the
    /// endpoint of this interface, to whose policies it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// The registered uplink that the interface hangs off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// What it has of RDMA, when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdma: Option<EndpointRdma>,
    /// Who sees its RoCE; absent when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roce: Option<RoceVisibility>,
    /// How the programs are attached.
    pub mechanism: TcMechanism,
    /// Whether they are.
    #[serde(flatten)]
    pub health: Health,
}

/// Who sees an endpoint's RoCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoceVisibility {
    /// Its packets pass the programs: there are wire counters.
    Wire,
    /// Its NIC makes and reads them: there are hardware counters only.
    Offloaded,
    /// It has no RDMA device to speak RoCE with.
    None,
}

/// Endpoints by who sees their RoCE.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoceEndpoints {
    /// How many have wire counters.
    pub wire: u32,
    /// The ids of those that have hardware counters only.
    pub offloaded: Vec<u32>,
    /// How many have no RDMA device.
    pub none: u32,
    /// The ids of those of which it is not known.
    pub unknown: Vec<u32>,
}

impl RoceVisibility {
    /// As in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Offloaded => "offloaded",
            Self::None => "none",
        }
    }
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

impl From<dataplane_ebpf::abi::Counter> for Count {
    fn from(counter: dataplane_ebpf::abi::Counter) -> Self {
        Self {
            packets: counter.packets,
            bytes: counter.bytes,
        }
    }
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// `ingress` or `egress`, seen from the pod.
    pub direction: String,
    /// Name of the drop reason.
    pub reason: String,
    /// How many.
    #[serde(flatten)]
    pub count: Count,
}

/// RoCE packets of one kind, seen on the wire by eBPF.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoceCount {
    /// `ingress` or `egress`, seen from the pod.
    pub direction: String,
    /// Transport service: rc, uc, ud, ...
    pub transport: String,
    /// Operation or mark: send, read_request, ack, cnp, ce_marked, gap, ...
    pub kind: String,
    /// Whether `kind` is an operation (each packet counts under exactly one)
    /// or a mark that a packet may carry besides.
    pub operation: bool,
    /// How many.
    #[serde(flatten)]
    pub count: Count,
}

/// Counters of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStats {
    /// Endpoint id.
    pub id: u32,
    /// Interface name.
    pub interface: String,
    /// Network namespace.
    pub netns: NetnsRef,
    /// The pod, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// To the pod.
    pub ingress: Count,
    /// From the pod.
    pub egress: Count,
    /// Drops by reason; only reasons that occurred.
    pub drops: Vec<DropCount>,
    /// What audit mode let pass, by the reason for which it would be dropped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_drop: Vec<DropCount>,
    /// RoCE by kind; only kinds that occurred.
    pub roce: Vec<RoceCount>,
}

/// Counters of one uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStats {
    /// Interface name.
    pub interface: String,
    /// Counters by name: received, malformed, node_to_pod, pod_to_node,
    /// neighbor_copied.
    pub counters: BTreeMap<String, Count>,
    /// Drops by reason, the block list's among them.
    pub drops: Vec<DropCount>,
    /// RoCE that arrived.
    pub roce: Vec<RoceCount>,
}

/// `GET /v1/stats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When they were read, ns of the monotonic clock.
    pub time_ns: u64,
    /// By endpoint id.
    pub endpoints: Vec<EndpointStats>,
    /// By name.
    pub uplinks: Vec<UplinkStats>,
    /// Faults of the dataplane by name; each makes another number incomplete.
    pub faults: BTreeMap<String, u64>,
    /// Filters that were put back after somebody had removed them, which only
    /// clsact lets a pod do, and interfaces taken out of ipvlan mode l3s, since
    /// the agent started.
    #[serde(default)]
    pub repairs: u64,
    /// Connections of isolated endpoints.
    #[serde(default)]
    pub flows: FlowStats,
}

/// The tables of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStats {
    /// Connections of which both sides have spoken, at most ten seconds ago.
    pub answered: u64,
    /// Connections that nobody has answered, at most ten seconds ago.
    pub unanswered: u64,
    /// Answered connections that the table has room for.
    pub answered_limit: u64,
    /// Unanswered connections that the table has room for.
    pub unanswered_limit: u64,
    /// What happened to connections: created, established, rejudged, refused.
    pub events: BTreeMap<String, u64>,
}

/// `POST /v1/uplinks`: register an uplink, or change its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkRequest {
    /// Interface name in the agent's namespace.
    pub interface: String,
    /// Turn frames between the node and its pods around.
    #[serde(default = "yes")]
    pub host_reach: bool,
}

fn yes() -> bool {
    true
}

/// `DELETE /v1/uplinks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkName {
    /// Interface name in the agent's namespace.
    pub interface: String,
}

/// One uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Number in the maps.
    pub id: u32,
    /// Interface name in the agent's namespace.
    pub interface: String,
    /// Interface index.
    pub ifindex: u32,
    /// MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The node's addresses on it.
    pub addresses: Vec<IpNet>,
    /// Frames between the node and its pods are turned around.
    pub host_reach: bool,
    /// How XDP runs.
    pub xdp: XdpMode,
    /// How the TC program is attached.
    pub mechanism: TcMechanism,
    /// Whether they are attached.
    #[serde(flatten)]
    pub health: Health,
}

/// `POST` and `DELETE /v1/blocks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRequest {
    /// Source prefix.
    pub cidr: IpNet,
}

/// An element of `GET /v1/blocks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Source prefix.
    pub cidr: IpNet,
    /// What it stopped since it was added.
    #[serde(flatten, default)]
    pub count: Count,
}

/// One pinned map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    /// Name, as bpftool shows it.
    pub name: String,
    /// Kind, as bpftool names it.
    pub kind: String,
    /// Entries that it can hold.
    pub max_entries: u32,
    /// Memory when full, in bytes, computed from its sizes and the processors
    /// of this node.
    pub memory_bytes: u64,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Kernel release.
    pub kernel: String,
    /// Possible processors, which multiply the per-CPU maps.
    pub cpus: u32,
    /// How endpoints are attached on this kernel.
    pub mechanism: TcMechanism,
    /// The pins' folder.
    pub pins: PathBuf,
    /// Version of the map layout.
    pub layout: u32,
    /// Fingerprint of the pipeline's programs, as the kernel computes it.
    pub pipeline: String,
    /// Endpoints attached.
    pub endpoints: u32,
    /// Endpoints that fit.
    pub max_endpoints: u32,
    /// The maps.
    pub maps: Vec<MapStatus>,
    /// All maps when full, in bytes.
    pub memory_bytes: u64,
    /// Who sees the endpoints' RoCE.
    #[serde(default)]
    pub roce: RoceEndpoints,
    /// Uplinks.
    pub uplinks: Vec<Uplink>,
    /// What is not as it should be, one line each with cause and remedy.
    pub problems: Vec<String>,
}

/// Something that happened to a packet or to an endpoint, in `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970, with the coarse clock's resolution.
    pub time: f64,
    /// Endpoint id.
    pub endpoint: u32,
    /// Interface name, when the endpoint is still known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The pod, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The pod at the other side's address, where exactly one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PodName>,
    /// `ingress` or `egress`, seen from the pod.
    pub direction: String,
    /// `drop`, `would_drop` or `roce`; of the endpoint itself, with nothing of a
    /// packet: `policy` (closed), `repair` (something was put back), `sibling`
    /// (it came to be beside another one and was attached).
    pub kind: String,
    /// Drop reason, RoCE kind, or what happened.
    pub reason: String,
    /// Ethertype, host byte order.
    pub ether_type: u16,
    /// Source address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Destination address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port, or ICMP type.
    pub source_port: u16,
    /// Destination port, or ICMP code.
    pub destination_port: u16,
    /// Frame length in bytes.
    pub length: u32,
    /// RoCE: destination queue pair.
    pub destination_qp: u32,
    /// RoCE: packet sequence number.
    pub psn: u32,
}

/// What a line of `GET /v1/events` can be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// Something happened.
    Event(Box<Event>),
    /// The client did not keep up; the events are lost to it, not to others.
    Missed {
        /// How many events it missed here.
        missed: u64,
    },
}
