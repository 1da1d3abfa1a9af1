//! Floods: what a pod can do to the connections of others.

use std::time::Instant;

use dataplane_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    DropReason::PolicyDenied,
    FLOW_CREDIT, Fault, FlowCounter,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{Drop, Pass},
    },
    packets::tcp_flags,
};

use crate::pair::{ACK, Pair, SYN, SYN_ACK, TCP, expect};

#[test]
fn a_flood_of_one_pod_pushes_out_no_answered_connection_of_another() {
    let judge = Judge::sized(dataplane::kernel::Sizes {
        max_endpoints: 2,
        flows: 1024,
        ..dataplane::kernel::Sizes::DEFAULT
    })
    .unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    judge.isolate(2, Ingress, &[]).unwrap();
    for port in 1..=100 {
        assert_eq!(
            judge.run(2, Egress, &call(Egress, port, SYN)).unwrap(),
            Pass
        );
        assert_eq!(
            judge
                .run(2, Ingress, &call(Ingress, port, SYN_ACK))
                .unwrap(),
            Pass
        );
    }
    // Eighty times what the table of unanswered connections holds.
    let start = Instant::now();
    for port in 0..10_000 {
        assert_eq!(
            judge.run(1, Egress, &call(Egress, port, SYN)).unwrap(),
            Pass
        );
    }
    for port in 1..=100 {
        assert_eq!(
            judge.run(2, Ingress, &call(Ingress, port, ACK)).unwrap(),
            Pass,
            "port {port}"
        );
    }
    let count = judge.kernel().maps().flows().count().unwrap();
    // The flooding pod's credit is gone, and what it gets each second.
    let credit = u64::from(FLOW_CREDIT) + start.elapsed().as_secs() + 1;
    assert!((100..=100 + credit).contains(&count.answered), "{count:?}");
    assert!((1..=128).contains(&count.unanswered), "{count:?}");
}

/// A segment of the connection from the pod's port to the peer's port 443.
fn call(direction: Direction, port: u16, flags: u8) -> Vec<u8> {
    let (source, destination) = match direction {
        Egress => (port, 443),
        Ingress => (443, port),
    };
    Pair::v4()
        .frame(direction)
        .carry(TCP, &tcp_flags(source, destination, flags))
}

#[test]
fn connections_that_are_answered_never_wait_apart() {
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    let flows = judge.kernel().maps().flows();
    // Far more, one after the other, than may wait at once.
    for port in 1..=200 {
        let opened = judge.run(1, Egress, &call(Egress, port, SYN)).unwrap();
        assert_eq!(opened, Pass);
        assert_eq!(flows.count().unwrap().unanswered, 0, "port {port}");
        let answer = call(Ingress, port, SYN_ACK);
        assert_eq!(judge.run(1, Ingress, &answer).unwrap(), Pass);
    }
    let established = flows.counter(FlowCounter::Established).unwrap();
    assert_eq!(established, 200);
    assert_eq!(flows.count().unwrap().answered, 200);
    // None of these is answered: what the credit does not cover waits apart.
    for port in 1001..=1100 {
        let verdict = judge.run(1, Egress, &call(Egress, port, SYN)).unwrap();
        assert_eq!(verdict, Pass);
    }
    let count = flows.count().unwrap();
    assert!(count.unanswered > 0, "{count:?}");
    assert_eq!(count.answered + count.unanswered, 300);
    // Answered there, they move.
    for port in 1001..=1100 {
        let answer = call(Ingress, port, SYN_ACK);
        assert_eq!(judge.run(1, Ingress, &answer).unwrap(), Pass);
    }
    let count = flows.count().unwrap();
    assert_eq!((count.answered, count.unanswered), (300, 0));
}

#[test]
fn an_endpoint_opens_no_more_connections_than_its_bucket_grants() {
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    judge
        .kernel()
        .maps()
        .change_endpoint(1, |config| config.flow_rate = 0)
        .unwrap();
    let pair = Pair::v4();
    expect(
        &judge,
        &[
            (
                "judged all the same",
                Egress,
                pair.called(Egress, SYN),
                Pass,
            ),
            (
                "but not remembered",
                Ingress,
                pair.called(Ingress, SYN_ACK),
                Drop(PolicyDenied),
            ),
        ],
    )
    .unwrap();
    let maps = judge.kernel().maps();
    assert_eq!(maps.fault(Fault::FlowsThrottled).unwrap(), 1);
    assert!(maps.flows().list().unwrap().is_empty());
}
