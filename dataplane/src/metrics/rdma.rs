//! The families of RDMA ports.

use super::family::{Families, Family};
use crate::rdma::{NodeRdma, PlacedPort};

/// `rdma_...`
pub(super) fn encode_rdma(families: &mut Families, node: &NodeRdma) {
    let each = |family: &mut Family<'_>, value: fn(&PlacedPort) -> u64| {
        for device in &node.devices {
            for port in &device.ports {
                let number = port.port.port.to_string();
                let netns = device.netns.to_string();
                let labels = [
                    ("device", device.device.name.as_str()),
                    ("port", &number),
                    ("netns", &netns),
                ];
                family.value(&labels, value(port));
            }
        }
    };
    families.gauge(
        "rdma_gids",
        "GIDs of an RDMA port in use",
        None,
        &|family| each(family, |port| port.gids.entries.len() as u64),
    );
    families.gauge(
        "rdma_gids_limit",
        "GIDs that an RDMA port has room for",
        None,
        &|family| each(family, |port| u64::from(port.gids.capacity)),
    );
}
