//! The families of endpoints.

use std::collections::HashMap;

use super::{
    collector::{attached, mechanism},
    family::{Families, Family, Labels},
    roce::encode_roce,
};
use crate::api::types::{Count, DropCount, Endpoint, EndpointStats, Stats};

/// Endpoints with the labels that all of their samples share.
pub(super) struct EndpointRows<'a> {
    rows: Vec<EndpointRow<'a>>,
}

struct EndpointRow<'a> {
    /// The labels that all of its samples share.
    labels: Labels,
    netns: String,
    stats: &'a EndpointStats,
    endpoint: Option<&'a Endpoint>,
}

impl<'a> EndpointRow<'a> {
    fn new(stats: &'a EndpointStats, endpoint: Option<&'a Endpoint>) -> Self {
        let pod = stats.pod.as_ref();
        let uplink = endpoint.and_then(|endpoint| endpoint.uplink.as_deref());
        Self {
            labels: Labels::new([
                ("endpoint", stats.id.to_string().as_str()),
                ("interface", &stats.interface),
                ("namespace", pod.map_or("", |pod| &pod.namespace)),
                ("pod", pod.map_or("", |pod| &pod.name)),
                ("uplink", uplink.unwrap_or("")),
            ]),
            netns: stats.netns.to_string(),
            stats,
            endpoint,
        }
    }
}

impl<'a> EndpointRows<'a> {
    pub fn new(stats: &'a Stats, endpoints: &'a [Endpoint]) -> Self {
        let by_id: HashMap<u32, &Endpoint> = endpoints.iter().map(|e| (e.id, e)).collect();
        let rows = stats.endpoints.iter();
        let rows = rows.map(|stats| EndpointRow::new(stats, by_id.get(&stats.id).copied()));
        Self {
            rows: rows.collect(),
        }
    }

    pub fn encode(&self, families: &mut Families) {
        families.info("endpoint", "An endpoint: one pod interface", &|family| {
            for row in &self.rows {
                let Some(endpoint) = row.endpoint else {
                    continue;
                };
                let extra = [
                    ("netns", row.netns.as_str()),
                    ("kind", &endpoint.kind),
                    ("mechanism", mechanism(endpoint.mechanism)),
                ];
                family.sample(&row.labels, &extra, 1);
            }
        });
        let help = "Who sees the endpoint's RoCE: wire counters, hardware counters only, or nobody";
        families.info("endpoint_roce", help, &|family| {
            for row in &self.rows {
                let Some((endpoint, visibility)) = row
                    .endpoint
                    .and_then(|endpoint| Some((endpoint, endpoint.roce?)))
                else {
                    continue;
                };
                let rdma = endpoint.rdma.as_ref();
                let port = rdma.map(|rdma| rdma.port.to_string()).unwrap_or_default();
                let extra = [
                    ("visibility", visibility.name()),
                    ("device", rdma.map_or("", |rdma| &rdma.device)),
                    ("port", &port),
                    (
                        "mode",
                        match rdma.map(|rdma| rdma.exclusive) {
                            Some(true) => "exclusive",
                            Some(false) => "shared",
                            None => "",
                        },
                    ),
                ];
                family.sample(&row.labels, &extra, 1);
            }
        });
        families.gauge(
            "endpoint_attached",
            "Whether the endpoint's programs are attached, so that its counters move",
            None,
            &|family| {
                for row in &self.rows {
                    let Some(endpoint) = row.endpoint else {
                        continue;
                    };
                    family.sample(&row.labels, &[], attached(&endpoint.health));
                }
            },
        );
        families.packets(
            "endpoint",
            "Packets to and from the pod that passed",
            &|family| self.directions(family, |count| count.packets),
        );
        families.bytes(
            "endpoint",
            "Bytes of frames to and from the pod that passed, Ethernet header included",
            &|family| self.directions(family, |count| count.bytes),
        );
        families.packets(
            "endpoint_dropped",
            "Packets to and from the pod that were dropped",
            &|family| self.drops(family, |stats| &stats.drops, |count| count.packets),
        );
        families.bytes(
            "endpoint_dropped",
            "Bytes of frames to and from the pod that were dropped",
            &|family| self.drops(family, |stats| &stats.drops, |count| count.bytes),
        );
        families.packets(
            "endpoint_would_drop",
            "Packets to and from the pod that only audit mode let pass",
            &|family| self.drops(family, |stats| &stats.would_drop, |count| count.packets),
        );
        encode_roce(families, "roce", &|visit| {
            for row in &self.rows {
                for roce in &row.stats.roce {
                    visit(&row.labels, roce);
                }
            }
        })
    }

    fn directions(&self, family: &mut Family<'_>, value: impl Fn(Count) -> u64) {
        for row in &self.rows {
            let (labels, stats) = (&row.labels, row.stats);
            family.sample(labels, &[("direction", "ingress")], value(stats.ingress));
            family.sample(labels, &[("direction", "egress")], value(stats.egress));
        }
    }

    fn drops(
        &self,
        family: &mut Family<'_>,
        of: impl Fn(&EndpointStats) -> &[DropCount],
        value: impl Fn(Count) -> u64,
    ) {
        for row in &self.rows {
            for DropCount {
                direction,
                reason,
                count,
            } in of(row.stats)
            {
                let extra = [("direction", direction.as_str()), ("reason", reason)];
                family.sample(&row.labels, &extra, value(*count));
            }
        }
    }
}
