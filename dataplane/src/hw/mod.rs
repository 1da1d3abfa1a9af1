//! RoCE in hardware: what devices count of themselves, in one set of names, and whose it is.
//!
//! eBPF sees none of it. Numbers come from RDMA netlink (port counters, counter sets, objects with
//! their processes), from network drivers' own statistics, and carry `source="hw"` wherever they
//! are shown; they are never added to what eBPF counted.

mod accumulate;
mod catalogue;
mod collector;
mod family;
mod nic;
mod owner;
mod sets;
mod source;
mod table;

pub use accumulate::Counted;
pub use catalogue::{Entry, Kind, known, lookup};
pub use collector::{Asked, Collector, Saved};
pub use family::{Counts, Family, Meaning};
pub use nic::{NicFamily, NicSample, samples as nic_samples};
pub use owner::{Container, Holder, Pods, Process, Processes, Resident};
use serde::{Deserialize, Serialize};
pub use sets::PortKey;
pub use source::{Kernel, Sources};

use crate::{
    api::types::PodName,
    link::NetnsRef,
    rdma::{Driver, PortState, ResourceKind},
};

/// What hardware tells, read at one moment.
#[derive(Debug, Clone, Default)]
pub struct HwStats {
    /// Ports with their counters.
    pub ports: Vec<PortCounters>,
    /// Network interfaces of ports and uplinks.
    pub nics: Vec<NicCounters>,
    /// How many objects of each kind each holder has.
    pub holdings: Vec<Holding>,
    /// How many a device can have.
    pub limits: Vec<Limit>,
    /// What each holder did on devices that several share.
    pub shares: Vec<Share>,
}

/// A port of an RDMA device.
#[derive(Debug, Clone)]
pub struct PortCounters {
    /// The device.
    pub device: String,
    /// The port.
    pub port: u32,
    /// The device's namespace.
    pub netns: NetnsRef,
    /// The pod that has the device for itself.
    pub pod: Option<PodName>,
    /// The driver, where it is known.
    pub driver: Option<Driver>,
    /// `roce`, `ib`, `iw`.
    pub protocol: Option<String>,
    /// The port's network interface.
    pub netdev: Option<String>,
    /// The PCI function.
    pub pci: Option<String>,
    /// The port's state.
    pub state: PortState,
    /// Its counters; empty where the driver has none.
    pub counters: Vec<Counted>,
}

/// A network interface.
#[derive(Debug, Clone)]
pub struct NicCounters {
    /// Its name.
    pub interface: String,
    /// Its namespace.
    pub netns: NetnsRef,
    /// The pod whose namespace that is.
    pub pod: Option<PodName>,
    /// Its counters.
    pub samples: Vec<NicSample>,
}

/// Objects of one kind that one holder has of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The device.
    pub device: String,
    /// The device's namespace.
    pub netns: NetnsRef,
    /// Whose.
    #[serde(flatten)]
    pub holder: Holder,
    /// The kind.
    pub kind: ResourceKind,
    /// How many.
    pub count: u64,
}

/// How many objects of a kind a device can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The device.
    pub device: String,
    /// The device's namespace.
    pub netns: NetnsRef,
    /// The kernel's name for the kind.
    pub kind: String,
    /// How many.
    pub max: u64,
}

/// What one holder did on one port.
#[derive(Debug, Clone)]
pub struct Share {
    /// The device.
    pub device: String,
    /// The port.
    pub port: u32,
    /// The device's namespace.
    pub netns: NetnsRef,
    /// Whose.
    pub holder: Holder,
    /// Sums over the holder's counter sets.
    pub counters: Vec<Counted>,
}
