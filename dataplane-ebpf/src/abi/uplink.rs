//! What the programs go by on an uplink, who is behind it, and what it counts.

use super::{Address, coded_enum};

/// Value of `uplinks`, indexed by uplink number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Interface index in the agent's namespace; 0 when the slot is free.
    pub ifindex: u32,
    /// [`UplinkConfig::HOST_REACH`] and others.
    pub flags: u32,
    /// The uplink's own MAC address.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

impl UplinkConfig {
    /// Frames between the node and its pods are turned around here.
    pub const HOST_REACH: u32 = 1;
    /// The block list has entries, so packets must be looked up in it.
    pub const BLOCK_LIST: u32 = 2;
}

coded_enum! {
    /// What an uplink counts; index `uplink * UPLINK_COUNTERS + counter` of
    /// `uplink_stats`.
    pub enum UplinkCounter {
        /// Frames seen by the uplink's XDP program.
        Received = 0 => "received",
        /// Frames that XDP could not parse; they are passed on.
        Malformed = 1 => "malformed",
        /// Frames of the node turned around to a local pod.
        NodeToPod = 2 => "node_to_pod",
        /// Frames of a local pod turned around to the node.
        PodToNode = 3 => "pod_to_node",
        /// ARP and neighbour discovery frames copied to the other side.
        NeighborCopied = 4 => "neighbor_copied",
    }
}

/// Counters kept for one uplink.
pub const UPLINK_COUNTERS: u32 = UplinkCounter::ALL.len() as u32;

/// Index into `uplink_stats`; `uplink` is the number without
/// [`UPLINK_BIT`](super::UPLINK_BIT).
pub const fn uplink_stats_index(uplink: u32, counter: UplinkCounter) -> u32 {
    uplink * UPLINK_COUNTERS + counter as u32
}

/// Key of `local_macs`: MAC addresses behind an uplink that belong to pods of
/// this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalMacKey {
    /// Uplink number.
    pub uplink: u32,
    /// MAC address of the pod's interface.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

/// Key of `local_addrs`: addresses behind an uplink that are this node's own
/// or belong to its pods. The value is a port id: the endpoint, or the uplink
/// for the node's own addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddrKey {
    /// The address.
    pub address: Address,
    /// Uplink number.
    pub uplink: u32,
}
