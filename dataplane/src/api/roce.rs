//! RoCE flows: what travels.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::types::PodName;

/// `GET /v1/roce/flows`: who talks to whom over RoCE, as eBPF saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoceFlows {
    /// When they were read, ns of the monotonic clock.
    pub time_ns: u64,
    /// How many there is room for; the least recently used give way.
    pub limit: u32,
    /// The flows, in no order.
    pub flows: Vec<RoceFlow>,
}

/// One direction of one queue pair's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoceFlow {
    /// Where it was seen.
    #[serde(flatten)]
    pub seen_at: SeenAt,
    /// `ingress`: to the local side, `egress`: from it.
    pub direction: String,
    /// The address on this side: of the pod, or of whom an uplink's packet was for.
    pub local: IpAddr,
    /// The pod that has it, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The address on the other side.
    pub peer: IpAddr,
    /// The pod that has it, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_pod: Option<PodName>,
    /// The queue pair that the packets go to.
    pub destination_qp: u32,
    /// The queue pair that they come from; no packet names it, so it is known only once an answer
    /// was matched with its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_qp: Option<u32>,
    /// Path MTU in bytes, once a packet has shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Seconds since the last packet.
    pub idle_seconds: f64,
    /// What was counted since the flow began.
    #[serde(flatten)]
    pub counts: FlowCounts,
    /// How long requests in this direction waited for their answer; absent without a measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip: Option<RoundTrip>,
}

/// An endpoint or an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeenAt {
    /// The endpoint's id; absent at an uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<u32>,
    /// The interface's name.
    pub interface: String,
}

/// What a flow counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Packets.
    pub packets: u64,
    /// Bytes, whole frames.
    pub bytes: u64,
    /// Packets by operation; what did not occur is left out.
    pub operations: BTreeMap<String, u64>,
    /// Packets that a switch marked as having met congestion.
    pub ce_marked: u64,
    /// Negative acknowledgements of every code.
    pub naks: u64,
    /// Negative acknowledgements of a receiver that was not ready.
    pub rnr_naks: u64,
    /// Retransmitted requests.
    pub duplicates: u64,
    /// Requests that came too early.
    pub gaps: u64,
    /// Sequence numbers that those gaps skipped.
    pub missing: u64,
}

/// The name of the operation that asks a sender to slow down.
const CNP: &str = "cnp";

impl FlowCounts {
    /// Congestion notifications.
    pub fn cnps(&self) -> u64 {
        self.operations.get(CNP).copied().unwrap_or(0)
    }

    /// Adds what another flow counted.
    pub fn add(&mut self, other: &Self) {
        for (name, packets) in &other.operations {
            *self.operations.entry(name.clone()).or_default() += packets;
        }
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.ce_marked += other.ce_marked;
        self.naks += other.naks;
        self.rnr_naks += other.rnr_naks;
        self.duplicates += other.duplicates;
        self.gaps += other.gaps;
        self.missing += other.missing;
    }

    /// What was counted since `before`. A flow that began anew meanwhile has counted all of it
    /// since.
    pub fn since(&self, before: &Self) -> Self {
        if self.packets < before.packets {
            return self.clone();
        }
        let operations = self.operations.iter().filter_map(|(name, packets)| {
            let before = before.operations.get(name).copied().unwrap_or(0);
            let more = packets.saturating_sub(before);
            (more > 0).then(|| (name.clone(), more))
        });
        Self {
            operations: operations.collect(),
            packets: self.packets - before.packets,
            bytes: self.bytes.saturating_sub(before.bytes),
            ce_marked: self.ce_marked.saturating_sub(before.ce_marked),
            naks: self.naks.saturating_sub(before.naks),
            rnr_naks: self.rnr_naks.saturating_sub(before.rnr_naks),
            duplicates: self.duplicates.saturating_sub(before.duplicates),
            gaps: self.gaps.saturating_sub(before.gaps),
            missing: self.missing.saturating_sub(before.missing),
        }
    }
}

/// Times between a request and its answer, as seen where the flow was: of a pod's requests the
/// round trip, of requests to a pod how long the pod took. One request in 32 is timed, by its
/// sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// Requests timed.
    pub samples: u64,
    /// Their mean, ns.
    pub mean_ns: u64,
    /// The longest, ns.
    pub longest_ns: u64,
}

impl RoceFlow {
    /// What tells it from others.
    pub fn key(&self) -> (&SeenAt, &str, IpAddr, IpAddr, u32) {
        (
            &self.seen_at,
            &self.direction,
            self.local,
            self.peer,
            self.destination_qp,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(packets: u64, cnps: u64) -> FlowCounts {
        FlowCounts {
            packets,
            bytes: packets * 100,
            operations: BTreeMap::from([(CNP.to_owned(), cnps)]),
            ..FlowCounts::default()
        }
    }

    #[test]
    fn counts_are_what_was_added() {
        let (before, after) = (counts(10, 2), counts(15, 2));
        let since = after.since(&before);
        assert_eq!((since.packets, since.bytes, since.cnps()), (5, 500, 0));
        assert_eq!(since.operations, BTreeMap::new());
        assert_eq!(counts(15, 4).since(&before).cnps(), 2);
    }

    #[test]
    fn a_flow_that_began_anew_counts_from_zero() {
        let since = counts(3, 1).since(&counts(10, 2));
        assert_eq!((since.packets, since.cnps()), (3, 1));
    }
}
