use super::{
    super::rated::tests::{flow, packets, reading},
    *,
};

fn detector() -> Detector {
    Detector::new(Thresholds {
        cnps: 100.0,
        retries: 10.0,
        retry_share: 0.01,
        gids: 0.8,
        repeat: 10.0,
    })
}

fn told(alarms: &[Alarm]) -> Vec<(Kind, Stage)> {
    let told = alarms.iter().map(|alarm| (alarm.kind, alarm.stage));
    told.collect()
}

fn cnps(count: u64) -> FlowCounts {
    let mut counts = packets(count);
    counts.operations = [("cnp".to_owned(), count)].into();
    counts
}

fn writes(count: u64, duplicates: u64) -> FlowCounts {
    let mut counts = packets(count);
    counts.operations = [("write".to_owned(), count)].into();
    counts.duplicates = duplicates;
    counts
}

/// Readings a second apart; what each of them makes be told.
fn follow(detector: &mut Detector, readings: &[FlowCounts]) -> Vec<Vec<(Kind, Stage)>> {
    let mut told_at = Vec::new();
    for (second, counts) in (0_u64..).zip(readings) {
        let flows = reading(second, vec![flow(2, 17, counts.clone())]);
        told_at.push(told(&detector.flows(second as f64, flows)));
    }
    told_at
}

#[test]
fn a_burst_begins_is_told_again_now_and_then_and_ends() {
    // 200 a second for twelve seconds, then none.
    let counts: Vec<_> = (0..=20_u64)
        .map(|second| cnps(1000 + 200 * second.min(12)))
        .collect();
    let told = follow(&mut detector(), &counts);
    let at: Vec<_> = (0..)
        .zip(&told)
        .filter(|(_, told)| !told.is_empty())
        .collect();
    assert_eq!(
        at,
        [
            (1, &vec![(Kind::CnpBurst, Stage::Begins)]),
            (11, &vec![(Kind::CnpBurst, Stage::GoesOn)]),
            (17, &vec![(Kind::CnpBurst, Stage::Over)]),
        ]
    );
}

#[test]
fn what_was_counted_before_the_watch_is_not_told() {
    assert_eq!(
        follow(&mut detector(), &[cnps(1_000_000), cnps(1_000_050)]),
        [vec![], vec![]]
    );
}

#[test]
fn retries_are_a_storm_when_they_are_many_and_much() {
    let storm = |requests: u64, duplicates: u64| {
        let after = writes(1000 + requests, duplicates);
        follow(&mut detector(), &[writes(1000, 0), after])[1].clone()
    };
    assert_eq!(storm(1000, 20), [(Kind::RetryStorm, Stage::Begins)]);
    assert_eq!(storm(100, 5), [], "few");
    assert_eq!(storm(100_000, 20), [], "a small part");
}

#[test]
fn naks_have_the_code_that_events_tell() {
    let mut detector = detector();
    let naks = |count| {
        let mut counts = packets(10 + count);
        counts.naks = count;
        let mut flow = flow(2, 17, counts);
        flow.direction = "ingress".into();
        vec![flow]
    };
    detector.flows(0.0, reading(0, naks(0)));
    detector.event(&Event {
        endpoint: 1,
        source: Some([10, 0, 0, 2].into()),
        destination: Some([10, 0, 0, 1].into()),
        reason: "nak_remote_access".into(),
        psn: 5,
        ..Event::default()
    });
    let alarms = detector.flows(1.0, reading(1, naks(3)));
    assert_eq!(told(&alarms), [(Kind::Nak, Stage::Begins)]);
    assert_eq!(alarms[0].detail.as_deref(), Some("nak_remote_access psn 5"));
    assert_eq!(alarms[0].destination_qp, Some(17));
    assert_eq!((alarms[0].rate, alarms[0].count), (Some(3.0), Some(3)));
}

#[test]
fn one_pair_is_told_of_once_with_its_worst_queue_pair() {
    let mut detector = detector();
    let flows = |fast, slow| vec![flow(2, 17, cnps(slow)), flow(2, 18, cnps(fast))];
    detector.flows(0.0, reading(0, flows(0, 0)));
    let alarms = detector.flows(1.0, reading(1, flows(400, 100)));
    assert_eq!(told(&alarms), [(Kind::CnpBurst, Stage::Begins)]);
    assert_eq!(alarms[0].destination_qp, Some(18));
    assert_eq!(alarms[0].rate, Some(500.0));
}

#[test]
fn two_pods_of_one_node_are_told_of_once() {
    let mut detector = detector();
    let both = |count| {
        let sent = flow(2, 17, cnps(count));
        let mut received = flow(1, 17, cnps(count));
        received.direction = "ingress".into();
        received.local = [10, 0, 0, 2].into();
        (received.pod, received.peer_pod) = (None, sent.pod.clone());
        vec![received, sent]
    };
    detector.flows(0.0, reading(0, both(0)));
    let alarms = detector.flows(1.0, reading(1, both(500)));
    assert_eq!(told(&alarms), [(Kind::CnpBurst, Stage::Begins)]);
    let text = alarms[0].line();
    assert!(text.contains("shop/web-0 (10.0.0.1) -> 10.0.0.2"), "{text}");
}

#[test]
fn a_flood_of_troubles_makes_few_lines_and_takes_bounded_memory() {
    let mut detector = detector();
    let many = |counts: &FlowCounts| {
        let addresses = (0..3000_u32).map(|number| {
            let mut flow = flow(2, 17, counts.clone());
            flow.peer = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            flow
        });
        addresses.collect::<Vec<_>>()
    };
    detector.flows(0.0, reading(0, many(&cnps(0))));
    let alarms = detector.flows(1.0, reading(1, many(&cnps(500))));
    assert_eq!(alarms.len(), LINES_LIMIT + 1);
    assert_eq!(alarms[LINES_LIMIT].kind, Kind::LeftOut);
    let detail = alarms[LINES_LIMIT].detail.as_deref();
    assert!(
        detail.is_some_and(|text| text.starts_with("2980 more")),
        "{detail:?}"
    );
    assert_eq!(detector.ongoing.len(), ONGOING_LIMIT);
    for number in 0..2000_u32 {
        detector.event(&Event {
            endpoint: number,
            source: Some([10, 0, 0, 2].into()),
            destination: Some([10, 0, 0, 1].into()),
            reason: "nak_sequence".into(),
            ..Event::default()
        });
    }
    assert_eq!(detector.codes.len(), CODES_LIMIT);
}

mod ports {
    use super::*;
    use crate::{
        link::NetnsRef,
        rdma::{
            Gid, GidTable, GidType, Guid, NetnsMode, PhysicalState, PlacedDevice, PlacedPort,
            RdmaDevice, RdmaPort,
        },
    };

    fn node(state: PortState, gids: u32) -> NodeRdma {
        let gid = |index| Gid {
            index,
            gid: "fe80::1".parse().unwrap(),
            kind: GidType::RoceV2,
            netdev: None,
        };
        NodeRdma {
            mode: NetnsMode::Shared,
            cm_device: None,
            devices: vec![PlacedDevice {
                device: RdmaDevice {
                    index: 0,
                    name: "mlx5_0".into(),
                    protocol: None,
                    firmware: None,
                    node_guid: Guid(1),
                    system_guid: Guid(1),
                    ports: 1,
                },
                netns: NetnsRef::Host,
                driver: None,
                pci: None,
                char_devices: Vec::new(),
                ports: vec![PlacedPort {
                    port: RdmaPort {
                        device: 0,
                        port: 1,
                        state,
                        physical: PhysicalState::LinkUp,
                        lid: None,
                        netdev: None,
                    },
                    netdev_netns: None,
                    gids: GidTable {
                        capacity: 10,
                        entries: (0..gids).map(gid).collect(),
                    },
                }],
            }],
        }
    }

    #[test]
    fn ports_are_told_when_they_change() {
        let mut detector = detector();
        assert!(detector.rdma(0.0, &node(PortState::Active, 0)).is_empty());
        let down = detector.rdma(1.0, &node(PortState::Down, 0));
        assert_eq!(told(&down), [(Kind::PortState, Stage::Begins)]);
        assert!(detector.rdma(2.0, &node(PortState::Down, 0)).is_empty());
        let up = detector.rdma(3.0, &node(PortState::Active, 0));
        assert_eq!(told(&up), [(Kind::PortState, Stage::Over)]);
    }

    #[test]
    fn a_table_that_fills_is_told_until_it_empties() {
        let mut detector = detector();
        let full = detector.rdma(0.0, &node(PortState::Active, 8));
        assert_eq!(told(&full), [(Kind::GidTable, Stage::Begins)]);
        assert!(detector.rdma(1.0, &node(PortState::Active, 9)).is_empty());
        assert!(detector.rdma(2.0, &node(PortState::Active, 7)).is_empty());
        let over = detector.flows(7.0, RoceFlows::default());
        assert_eq!(told(&over), [(Kind::GidTable, Stage::Over)]);
    }
}
