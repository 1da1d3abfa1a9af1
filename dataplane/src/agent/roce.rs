//! Who talks to whom over RoCE.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use dataplane_ebpf::{
    abi::{Direction, RoceFlow as RawFlow, RoceFlowKey, UPLINK_BIT},
    roce::Kind,
};

use super::{Agent, Result, stats::name_of};
use crate::{
    api::{
        roce::{FlowCounts, RoceFlow, RoceFlows, RoundTrip, SeenAt},
        types::PodName,
    },
    kernel::{ROCE_FLOWS, monotonic_ns},
};

impl Agent {
    /// The RoCE flows, with names where they are known.
    pub fn roce_flows(&self) -> Result<RoceFlows> {
        let raw = self.kernel.maps().roce_flows()?;
        let time_ns = monotonic_ns();
        let pods = self.pods_by_address();
        let places: HashMap<u32, SeenAt> = {
            let state = self.state();
            let endpoints = state.endpoints.iter().map(|(id, endpoint)| {
                let place = SeenAt {
                    endpoint: Some(*id),
                    interface: endpoint.interface.name.clone(),
                };
                (*id, place)
            });
            let uplinks = state.uplinks.iter().map(|(id, uplink)| {
                let place = SeenAt {
                    endpoint: None,
                    interface: uplink.record.interface.clone(),
                };
                (UPLINK_BIT | id, place)
            });
            endpoints.chain(uplinks).collect()
        };
        let answers = match_answers(&raw);
        let flows = raw.iter().filter_map(|(key, flow)| {
            // Of a port that has gone meanwhile.
            let seen_at = places.get(&key.port)?.clone();
            let mut described = describe(key, flow, seen_at, time_ns);
            // An endpoint's pod is known by the endpoint, whatever its address.
            described.pod = pods.owner(key.port, described.local);
            described.peer_pod = pods.of_address(described.peer);
            if let Some(answer) = answers.get(key) {
                described.source_qp = Some(answer.source_qp);
                described.round_trip = answer.round_trip;
            }
            Some(described)
        });
        Ok(RoceFlows {
            time_ns,
            limit: ROCE_FLOWS,
            flows: flows.collect(),
        })
    }

    fn pods_by_address(&self) -> Pods {
        let mut pods = Pods {
            by_address: self.policy_pods(),
            by_port: HashMap::new(),
        };
        for (id, endpoint) in &self.state().endpoints {
            let Some(pod) = &endpoint.record.pod else {
                continue;
            };
            pods.by_port.insert(*id, pod.clone());
            for address in &endpoint.interface.addresses {
                pods.by_address.insert(address.addr(), pod.clone());
            }
        }
        pods
    }
}

/// Who has which address: the pods of this node, and those that the source of policies knows.
struct Pods {
    by_address: HashMap<IpAddr, PodName>,
    by_port: HashMap<u32, PodName>,
}

impl Pods {
    fn of_address(&self, address: IpAddr) -> Option<PodName> {
        self.by_address.get(&address).cloned()
    }

    fn owner(&self, port: u32, address: IpAddr) -> Option<PodName> {
        let owner = self.by_port.get(&port).cloned();
        owner.or_else(|| self.of_address(address))
    }
}

/// What is known of a flow by the answers that go the other way.
struct Answered {
    source_qp: u32,
    round_trip: Option<RoundTrip>,
}

/// Programs keep times with the answers, beside the queue pair that the requests went to; a reader
/// looks for them with the requests. Both directions learn each other's queue pair.
fn match_answers(flows: &[(RoceFlowKey, RawFlow)]) -> HashMap<RoceFlowKey, Answered> {
    let mut matched = HashMap::new();
    for (key, flow) in flows.iter().filter(|(_, flow)| flow.answers_timed > 0) {
        let requests = RoceFlowKey {
            port: key.port,
            destination_qp: flow.answering_qp,
            source: key.destination,
            destination: key.source,
        };
        let round_trip = RoundTrip {
            samples: flow.answers_timed,
            mean_ns: flow.answer_time_ns / flow.answers_timed,
            longest_ns: flow.answer_time_longest_ns,
        };
        let requester = Answered {
            source_qp: key.destination_qp,
            round_trip: Some(round_trip),
        };
        matched.insert(requests, requester);
        // Requests may go this way too, and then this entry is, or will be, there with its time.
        matched.entry(*key).or_insert(Answered {
            source_qp: flow.answering_qp,
            round_trip: None,
        });
    }
    matched
}

fn describe(key: &RoceFlowKey, flow: &RawFlow, seen_at: SeenAt, now_ns: u64) -> RoceFlow {
    let (source, destination) = (IpAddr::from(key.source), IpAddr::from(key.destination));
    let (local, peer) = if flow.direction == Direction::Egress as u8 {
        (source, destination)
    } else {
        (destination, source)
    };
    let operations: BTreeMap<String, u64> = flow
        .operations
        .iter()
        .zip(0_u8..)
        .filter(|(packets, _)| **packets > 0)
        .map(|(packets, number)| (name_of(number, Kind::name), *packets))
        .collect();
    RoceFlow {
        seen_at,
        direction: name_of(flow.direction, Direction::name),
        local,
        pod: None,
        peer,
        peer_pod: None,
        destination_qp: key.destination_qp,
        source_qp: None,
        path_mtu: (flow.path_mtu != 0).then_some(flow.path_mtu),
        idle_seconds: now_ns.saturating_sub(flow.last_seen_ns) as f64 / 1e9,
        counts: FlowCounts {
            packets: flow.packets,
            bytes: flow.bytes,
            operations,
            ce_marked: flow.ce_marked,
            naks: flow.naks,
            rnr_naks: flow.rnr_naks,
            duplicates: flow.duplicates,
            gaps: flow.gaps,
            missing: flow.missing,
        },
        round_trip: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(destination_qp: u32, source: &str, destination: &str) -> RoceFlowKey {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        RoceFlowKey {
            port: 1,
            destination_qp,
            source: address(source),
            destination: address(destination),
        }
    }

    #[test]
    fn times_are_shown_with_the_requests_and_both_sides_know_their_queue_pair() {
        let requests = key(17, "10.0.0.1", "10.0.0.2");
        let answers = key(18, "10.0.0.2", "10.0.0.1");
        let flow = RawFlow {
            answers_timed: 4,
            answer_time_ns: 4000,
            answer_time_longest_ns: 2500,
            answering_qp: 17,
            ..RawFlow::default()
        };
        let matched = match_answers(&[(requests, RawFlow::default()), (answers, flow)]);
        let of_requests = &matched[&requests];
        assert_eq!(of_requests.source_qp, 18);
        let expected = RoundTrip {
            samples: 4,
            mean_ns: 1000,
            longest_ns: 2500,
        };
        assert_eq!(of_requests.round_trip, Some(expected));
        assert_eq!(matched[&answers].source_qp, 17);
        assert_eq!(matched[&answers].round_trip, None);
    }

    #[test]
    fn both_directions_may_have_times() {
        let (there, back) = (
            key(17, "10.0.0.1", "10.0.0.2"),
            key(18, "10.0.0.2", "10.0.0.1"),
        );
        let timed = |answering_qp, answer_time_ns| RawFlow {
            answers_timed: 1,
            answer_time_ns,
            answering_qp,
            ..RawFlow::default()
        };
        let flows = [(there, timed(18, 5)), (back, timed(17, 7))];
        for flows in [flows, [flows[1], flows[0]]] {
            let matched = match_answers(&flows);
            let mean = |key| matched[key].round_trip.map(|trip| trip.mean_ns);
            assert_eq!((mean(&there), mean(&back)), (Some(7), Some(5)));
        }
    }
}
