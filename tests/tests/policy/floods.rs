//! Floods: what a pod can do to the connections of others.

use dataplane_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    DropReason::PolicyDenied,
    Fault,
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
    let pair = Pair::v4();
    let call = |direction: Direction, port: u16, flags| {
        let (source, destination) = match direction {
            Egress => (port, 443),
            Ingress => (443, port),
        };
        pair.frame(direction)
            .carry(TCP, &tcp_flags(source, destination, flags))
    };
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
    assert_eq!(count.answered, 100);
    assert!(count.unanswered <= 128, "{count:?}");
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
