//! Two readings of the flows, held against each other.

use std::collections::HashMap;

use serde::Serialize;

use crate::api::roce::{FlowCounts, RoceFlow, RoceFlows};

/// A flow, and what it did between two readings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rated {
    /// As it is now.
    #[serde(flatten)]
    pub flow: RoceFlow,
    /// What it did since the reading before.
    pub interval: Interval,
}

/// What happened between two readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Interval {
    /// How far they are apart.
    pub seconds: f64,
    /// What was counted.
    #[serde(flatten)]
    pub counts: FlowCounts,
}

impl Interval {
    /// So much in a second.
    pub fn rate(&self, count: u64) -> f64 {
        if self.seconds > 0.0 {
            count as f64 / self.seconds
        } else {
            0.0
        }
    }

    /// Bits a second.
    pub fn bits(&self) -> f64 {
        self.rate(self.counts.bytes) * 8.0
    }

    /// Packets a second.
    pub fn packets(&self) -> f64 {
        self.rate(self.counts.packets)
    }
}

/// The flows of `after`, with what they did since `before`. A flow that was not there has done all
/// of it since.
pub(super) fn rated(before: &RoceFlows, after: RoceFlows) -> Vec<Rated> {
    let seconds = after.time_ns.saturating_sub(before.time_ns) as f64 / 1e9;
    let known: HashMap<_, _> = before
        .flows
        .iter()
        .map(|flow| (flow.key(), &flow.counts))
        .collect();
    let rate = |flow: RoceFlow| {
        let counts = match known.get(&flow.key()) {
            Some(before) => flow.counts.since(before),
            None => flow.counts.clone(),
        };
        Rated {
            flow,
            interval: Interval { seconds, counts },
        }
    };
    after.flows.into_iter().map(rate).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::roce::SeenAt;

    /// A flow of an endpoint from 10.0.0.1 to 10.0.0.`peer`.
    pub fn flow(peer: u8, qp: u32, counts: FlowCounts) -> RoceFlow {
        RoceFlow {
            seen_at: SeenAt {
                endpoint: Some(1),
                interface: "net1".into(),
            },
            direction: "egress".into(),
            local: [10, 0, 0, 1].into(),
            pod: "shop/web-0".parse().ok(),
            peer: [10, 0, 0, peer].into(),
            peer_pod: None,
            destination_qp: qp,
            source_qp: None,
            path_mtu: None,
            idle_seconds: 0.0,
            counts,
            round_trip: None,
        }
    }

    pub fn packets(packets: u64) -> FlowCounts {
        FlowCounts {
            packets,
            bytes: packets * 1000,
            ..FlowCounts::default()
        }
    }

    pub fn reading(seconds: u64, flows: Vec<RoceFlow>) -> RoceFlows {
        RoceFlows {
            time_ns: seconds * 1_000_000_000,
            limit: 16384,
            flows,
        }
    }

    #[test]
    fn rates_are_of_the_interval() {
        let before = reading(10, vec![flow(2, 17, packets(100))]);
        let after = reading(
            12,
            vec![flow(2, 17, packets(300)), flow(3, 17, packets(50))],
        );
        let rated = rated(&before, after);
        assert_eq!(rated[0].interval.packets(), 100.0);
        assert_eq!(rated[0].interval.bits(), 800_000.0);
        assert_eq!(rated[1].interval.packets(), 25.0);
    }

    #[test]
    fn one_reading_has_no_rates() {
        let once = reading(10, vec![flow(2, 17, packets(100))]);
        let rated = rated(&once, once.clone());
        assert_eq!(rated[0].interval.packets(), 0.0);
        assert_eq!(rated[0].flow.counts.packets, 100);
    }
}
