//! Rates from two readings of the counters.

use std::collections::HashMap;

use dataplane_ebpf::{abi::UplinkCounter, roce::Kind};

use crate::api::types::{Count, DropCount, EndpointStats, RoceCount, Stats, UplinkStats};

/// Everything a second, between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// By endpoint id; without those that only one of the readings has.
    pub endpoints: HashMap<u32, EndpointRates>,
    /// By interface; likewise.
    pub uplinks: HashMap<String, UplinkRates>,
    /// By name; only those that grew.
    pub faults: HashMap<String, f64>,
}

/// What an endpoint does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct EndpointRates {
    /// Packets to the pod.
    pub in_packets: f64,
    /// Bits to the pod.
    pub in_bits: f64,
    /// Packets from the pod.
    pub out_packets: f64,
    /// Bits from the pod.
    pub out_bits: f64,
    /// Packets dropped, both directions.
    pub drops: f64,
    /// RoCE packets, both directions, as everything below.
    pub roce: f64,
    /// RoCE packets marked with congestion experienced.
    pub ce: f64,
    /// Congestion notification packets.
    pub cnp: f64,
    /// Negative acknowledgements, "receiver not ready" among them.
    pub naks: f64,
    /// Gaps in the sequence of requests.
    pub gaps: f64,
}

/// What an uplink does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct UplinkRates {
    /// Frames that arrived.
    pub received_packets: f64,
    /// Bits that arrived.
    pub received_bits: f64,
    /// Frames from the node to its pods.
    pub node_to_pod: f64,
    /// Frames from pods to their node.
    pub pod_to_node: f64,
    /// Frames dropped, the block list's among them.
    pub drops: f64,
    /// RoCE packets that arrived.
    pub roce: f64,
}

impl Rates {
    /// From an earlier and a later reading; `None` when no time has passed
    /// between them.
    pub fn between(before: &Stats, after: &Stats) -> Option<Self> {
        let elapsed = after.time_ns.checked_sub(before.time_ns)?;
        if elapsed == 0 {
            return None;
        }
        let per = PerSecond(elapsed as f64 / 1e9);
        let earlier: HashMap<u32, &EndpointStats> =
            before.endpoints.iter().map(|e| (e.id, e)).collect();
        let endpoints = after.endpoints.iter().filter_map(|now| {
            let then = earlier.get(&now.id)?;
            // The id may have been given to another interface meanwhile.
            (then.netns == now.netns && then.interface == now.interface)
                .then(|| (now.id, per.endpoint(then, now)))
        });
        let earlier: HashMap<&str, &UplinkStats> = before
            .uplinks
            .iter()
            .map(|u| (u.interface.as_str(), u))
            .collect();
        let uplinks = after.uplinks.iter().filter_map(|now| {
            let then = earlier.get(now.interface.as_str())?;
            Some((now.interface.clone(), per.uplink(then, now)))
        });
        let faults = after.faults.iter().filter_map(|(name, now)| {
            let then = before.faults.get(name).copied().unwrap_or(0);
            (*now > then).then(|| (name.clone(), per.of(then, *now)))
        });
        Some(Self {
            endpoints: endpoints.collect(),
            uplinks: uplinks.collect(),
            faults: faults.collect(),
        })
    }
}

/// Divides by so many seconds.
#[derive(Clone, Copy)]
struct PerSecond(f64);

impl PerSecond {
    /// A counter that went back has started anew: what it shows is its growth.
    fn of(self, before: u64, after: u64) -> f64 {
        after.checked_sub(before).unwrap_or(after) as f64 / self.0
    }

    fn packets(self, before: Count, after: Count) -> f64 {
        self.of(before.packets, after.packets)
    }

    fn bits(self, before: Count, after: Count) -> f64 {
        self.of(before.bytes, after.bytes) * 8.0
    }

    fn endpoint(self, before: &EndpointStats, after: &EndpointStats) -> EndpointRates {
        let roce = |matches: fn(&RoceCount) -> bool| {
            self.of(sum(&before.roce, matches), sum(&after.roce, matches))
        };
        EndpointRates {
            in_packets: self.packets(before.ingress, after.ingress),
            in_bits: self.bits(before.ingress, after.ingress),
            out_packets: self.packets(before.egress, after.egress),
            out_bits: self.bits(before.egress, after.egress),
            drops: self.drops(&before.drops, &after.drops),
            roce: roce(|roce| roce.operation),
            ce: roce(|roce| roce.kind == Kind::CeMarked.name()),
            cnp: roce(|roce| roce.kind == Kind::Cnp.name()),
            naks: roce(is_nak),
            gaps: roce(|roce| roce.kind == Kind::Gap.name()),
        }
    }

    fn uplink(self, before: &UplinkStats, after: &UplinkStats) -> UplinkRates {
        let counter = |counter: UplinkCounter| {
            let count = |stats: &UplinkStats| stats.counters.get(counter.name()).copied();
            (
                count(before).unwrap_or_default(),
                count(after).unwrap_or_default(),
            )
        };
        let packets = |name| {
            let (before, after) = counter(name);
            self.packets(before, after)
        };
        let (received_before, received) = counter(UplinkCounter::Received);
        let operation = |roce: &RoceCount| roce.operation;
        UplinkRates {
            received_packets: self.packets(received_before, received),
            received_bits: self.bits(received_before, received),
            node_to_pod: packets(UplinkCounter::NodeToPod),
            pod_to_node: packets(UplinkCounter::PodToNode),
            drops: self.drops(&before.drops, &after.drops),
            roce: self.of(sum(&before.roce, operation), sum(&after.roce, operation)),
        }
    }

    fn drops(self, before: &[DropCount], after: &[DropCount]) -> f64 {
        let sum = |drops: &[DropCount]| drops.iter().map(|drop| drop.count.packets).sum();
        self.of(sum(before), sum(after))
    }
}

fn sum(roce: &[RoceCount], matches: fn(&RoceCount) -> bool) -> u64 {
    let matching = roce.iter().filter(|roce| matches(roce));
    matching.map(|roce| roce.count.packets).sum()
}

fn is_nak(roce: &RoceCount) -> bool {
    [
        Kind::RnrNak,
        Kind::NakSequence,
        Kind::NakInvalidRequest,
        Kind::NakRemoteAccess,
        Kind::NakRemoteOperational,
        Kind::NakInvalidRd,
        Kind::NakReserved,
    ]
    .iter()
    .any(|nak| nak.name() == roce.kind)
}

/// A rate in at most six characters, with the unit prefix that fits; a rate
/// that is not zero never shows as zero.
pub(super) fn human(rate: f64) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    if rate <= 0.0 {
        return "0".into();
    }
    if rate < 0.05 {
        return "<0.1".into();
    }
    let mut rate = rate;
    let mut prefix = 0;
    // Where rounding would show four digits.
    while rate >= 999.5 && prefix + 1 < PREFIXES.len() {
        rate /= 1000.0;
        prefix += 1;
    }
    let digits = usize::from(rate < 99.95);
    format!("{rate:.digits$}{}", PREFIXES[prefix])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn count(packets: u64, bytes: u64) -> Count {
        Count { packets, bytes }
    }

    fn drop(reason: &str, packets: u64) -> DropCount {
        DropCount {
            direction: "ingress".into(),
            reason: reason.into(),
            count: count(packets, packets * 60),
        }
    }

    fn roce(kind: Kind, direction: &str, packets: u64) -> RoceCount {
        RoceCount {
            direction: direction.into(),
            transport: "rc".into(),
            kind: kind.name().into(),
            operation: kind.is_operation(),
            count: count(packets, 0),
        }
    }

    fn endpoint(id: u32, ingress: Count, egress: Count) -> EndpointStats {
        EndpointStats {
            id,
            interface: "net1".into(),
            netns: format!("pod-{id}").parse().unwrap(),
            pod: None,
            ingress,
            egress,
            drops: Vec::new(),
            would_drop: Vec::new(),
            roce: Vec::new(),
        }
    }

    fn reading(seconds: f64, endpoints: Vec<EndpointStats>) -> Stats {
        Stats {
            time_ns: (seconds * 1e9) as u64,
            endpoints,
            ..Stats::default()
        }
    }

    #[test]
    fn rates_are_growth_by_time() {
        let mut then = endpoint(3, count(100, 1000), count(5, 50));
        then.drops = vec![drop("block_list", 4)];
        then.roce = vec![roce(Kind::Write, "ingress", 10)];
        let mut now = endpoint(3, count(300, 3000), count(5, 50));
        now.drops = vec![drop("block_list", 5), drop("ipv4_truncated", 1)];
        now.roce = vec![
            roce(Kind::Write, "ingress", 20),
            roce(Kind::Cnp, "egress", 4),
            roce(Kind::CeMarked, "ingress", 2),
            roce(Kind::RnrNak, "egress", 1),
            roce(Kind::NakSequence, "egress", 3),
            roce(Kind::Gap, "ingress", 6),
            roce(Kind::Missing, "ingress", 600),
        ];
        let rates = Rates::between(&reading(10.0, vec![then]), &reading(12.0, vec![now])).unwrap();
        let expected = EndpointRates {
            in_packets: 100.0,
            in_bits: 8000.0,
            out_packets: 0.0,
            out_bits: 0.0,
            drops: 1.0,
            roce: 7.0,
            ce: 1.0,
            cnp: 2.0,
            naks: 2.0,
            gaps: 3.0,
        };
        assert_eq!(rates.endpoints, HashMap::from([(3, expected)]));
    }

    #[test]
    fn uplinks_and_faults_have_rates_too() {
        let uplink = |received, drops: &[DropCount]| UplinkStats {
            interface: "ens1".into(),
            counters: BTreeMap::from([
                ("received".to_owned(), count(received, received * 100)),
                ("node_to_pod".to_owned(), count(received / 10, 0)),
            ]),
            drops: drops.to_vec(),
            roce: Vec::new(),
        };
        let mut before = reading(1.0, Vec::new());
        before.uplinks = vec![uplink(10, &[])];
        before.faults = BTreeMap::from([("events_full".into(), 1), ("drops_full".into(), 7)]);
        let mut after = reading(1.5, Vec::new());
        after.uplinks = vec![uplink(60, &[drop("block_list", 2)])];
        after.faults = BTreeMap::from([("events_full".into(), 4), ("drops_full".into(), 7)]);
        let rates = Rates::between(&before, &after).unwrap();
        let expected = UplinkRates {
            received_packets: 100.0,
            received_bits: 80_000.0,
            node_to_pod: 10.0,
            drops: 4.0,
            ..UplinkRates::default()
        };
        assert_eq!(rates.uplinks, HashMap::from([("ens1".into(), expected)]));
        assert_eq!(rates.faults, HashMap::from([("events_full".into(), 6.0)]));
    }

    #[test]
    fn a_counter_that_starts_anew_does_not_go_negative() {
        let before = reading(0.0, vec![endpoint(1, count(1000, 0), count(0, 0))]);
        let after = reading(1.0, vec![endpoint(1, count(30, 0), count(0, 0))]);
        let rates = Rates::between(&before, &after).unwrap();
        assert_eq!(rates.endpoints[&1].in_packets, 30.0);
    }

    #[test]
    fn what_was_not_there_before_has_no_rate_yet() {
        let mut other = endpoint(1, count(9, 9), count(9, 9));
        other.netns = "another".parse().unwrap();
        let before = reading(0.0, vec![other]);
        let known = endpoint(1, count(10, 10), count(10, 10));
        let after = reading(1.0, vec![known, endpoint(2, count(1, 1), count(1, 1))]);
        assert_eq!(Rates::between(&before, &after), Some(Rates::default()));
        assert_eq!(Rates::between(&after, &after), None);
        assert_eq!(Rates::between(&after, &before), None);
    }

    #[test]
    fn rates_read_well() {
        for (rate, text) in [
            (0.0, "0"),
            (0.01, "<0.1"),
            (0.25, "0.2"),
            (12.0, "12.0"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (12_345.0, "12.3k"),
            (400e9, "400G"),
            (999.9e9, "1.0T"),
        ] {
            assert_eq!(human(rate), text);
        }
    }
}
