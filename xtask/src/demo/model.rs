//! The parts of the agent's answers that the demo reads, from `sluice ... -o json`.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// `sluice stats`.
#[derive(Clone, Deserialize)]
pub(super) struct Stats {
    pub(super) time_ns: u64,
    pub(super) endpoints: Vec<EndpointStats>,
    pub(super) uplinks: Vec<UplinkStats>,
    faults: BTreeMap<String, u64>,
}

/// Counters of one endpoint.
#[derive(Clone, Deserialize)]
pub(super) struct EndpointStats {
    pub(super) id: u32,
    pub(super) interface: String,
    #[serde(default)]
    pub(super) pod: Option<PodName>,
    pub(super) ingress: Count,
    pub(super) egress: Count,
    pub(super) drops: Vec<DropCount>,
    pub(super) roce: Vec<RoceCount>,
}

/// A Kubernetes pod.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Drops for one reason.
#[derive(Clone, Deserialize)]
pub(super) struct DropCount {
    pub(super) direction: String,
    pub(super) reason: String,
    #[serde(flatten)]
    pub(super) count: Count,
}

/// RoCE packets of one kind.
#[derive(Clone, Deserialize)]
pub(super) struct RoceCount {
    pub(super) direction: String,
    pub(super) kind: String,
    pub(super) operation: bool,
    #[serde(flatten)]
    pub(super) count: Count,
}

/// Counters of one uplink.
#[derive(Clone, Deserialize)]
pub(super) struct UplinkStats {
    pub(super) interface: String,
    counters: BTreeMap<String, Count>,
}

impl UplinkStats {
    /// One of its counters, such as `received` or `node_to_pod`.
    pub(super) fn counter(&self, name: &str) -> Count {
        self.counters.get(name).copied().unwrap_or_default()
    }
}

impl Stats {
    /// Something that makes another number incomplete: its name and how often it happened.
    pub(super) fn fault(&self) -> Option<(&str, u64)> {
        let mut faults = self.faults.iter();
        faults
            .find(|(_, count)| **count > 0)
            .map(|(name, count)| (name.as_str(), *count))
    }

    /// The counters of a pod of the demo, `red` for one.
    pub(super) fn pod(&self, name: &str) -> Option<&EndpointStats> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.pod.as_ref().is_some_and(|pod| pod.name == name))
    }
}

impl EndpointStats {
    /// The pod as `namespace/name`, or the interface where no pod is known.
    pub(super) fn label(&self) -> String {
        match &self.pod {
            Some(PodName { namespace, name }) => format!("{namespace}/{name}"),
            None => self.interface.clone(),
        }
    }

    /// Packets of one RoCE kind in one direction, of every transport.
    pub(super) fn roce(&self, direction: &str, kind: &str) -> u64 {
        self.sum_roce(|roce| roce.direction == direction && roce.kind == kind)
    }

    /// RoCE packets of every operation, both directions.
    pub(super) fn roce_packets(&self) -> u64 {
        self.sum_roce(|roce| roce.operation)
    }

    /// Packets of the RoCE kinds whose name satisfies `wanted`, both directions.
    pub(super) fn sum_roce(&self, wanted: impl Fn(&RoceCount) -> bool) -> u64 {
        let wanted = self.roce.iter().filter(|roce| wanted(roce));
        wanted.map(|roce| roce.count.packets).sum()
    }

    /// Packets dropped, for whatever reason.
    pub(super) fn dropped(&self) -> u64 {
        self.drops.iter().map(|drop| drop.count.packets).sum()
    }

    /// Packets dropped for one reason in one direction.
    pub(super) fn dropped_for(&self, direction: &str, reason: &str) -> u64 {
        let wanted = self
            .drops
            .iter()
            .filter(|drop| drop.direction == direction && drop.reason == reason);
        wanted.map(|drop| drop.count.packets).sum()
    }
}

/// An element of `sluice endpoints`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(super) struct Endpoint {
    pub(super) id: u32,
    pub(super) interface: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) pod: Option<PodName>,
    pub(super) state: String,
}

impl Endpoint {
    /// The pod's name in its namespace, when known.
    pub(super) fn pod_name(&self) -> Option<&str> {
        self.pod.as_ref().map(|pod| pod.name.as_str())
    }
}

/// `sluice status`.
#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) kernel: String,
    pub(super) mechanism: String,
    pub(super) pins: String,
    pub(super) memory_bytes: u64,
    pub(super) uplinks: Vec<Uplink>,
    pub(super) problems: Vec<String>,
}

/// An uplink.
#[derive(Deserialize)]
pub(super) struct Uplink {
    pub(super) interface: String,
    pub(super) xdp: String,
    pub(super) state: String,
}

/// An element of `sluice block list`.
#[derive(Deserialize)]
pub(super) struct Block {
    pub(super) cidr: String,
    #[serde(flatten)]
    pub(super) count: Count,
}
