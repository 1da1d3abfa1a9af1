//! Verdicts on single packets: what passes always, what never, what by which entry.

use dataplane::kernel::IdentityPrefix;
use dataplane_ebpf::abi::{
    Direction::{Egress, Ingress},
    DropReason::{NonIp, PolicyDenied, PolicyMissing},
    EndpointConfig, PolicyKey, identity,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{Drop, Pass},
    },
    packets::{Frame, neighbor_message, tcp_flags, udp},
};

use crate::pair::{ACK, ICMP6, PEER, Pair, SYN, SYN_ACK, TCP, UDP, expect, rule};

#[test]
fn an_open_endpoint_passes_everything_and_remembers_nothing() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    expect(
        &judge,
        &[
            ("a SYN in", Ingress, pair.served(Ingress, SYN), Pass),
            ("a SYN out", Egress, pair.called(Egress, SYN), Pass),
            (
                "LLDP",
                Ingress,
                Frame::ethernet(0x88cc).carry(0, &[0; 40]),
                Pass,
            ),
            (
                "a later piece",
                Ingress,
                pair.frame(Ingress)
                    .fragment(800, false)
                    .carry(UDP, &[0; 40]),
                Pass,
            ),
        ],
    )
    .unwrap();
    assert!(judge.kernel().maps().flows().list().unwrap().is_empty());
}

#[test]
fn what_keeps_the_link_alive_passes_always_and_what_has_no_address_never() {
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    judge.isolate(1, Egress, &[]).unwrap();
    let v6 = Pair::v6();
    let target = "fd00::1".parse().unwrap();
    let mut steps = vec![("ARP", Frame::ethernet(0x0806).carry(0, &[0; 46]), Pass)];
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
        let frame = v6
            .frame(Ingress)
            .carry(ICMP6, &neighbor_message(kind, target));
        steps.push(("neighbour or listener discovery", frame, Pass));
    }
    let in_pieces = v6
        .frame(Ingress)
        .fragment(0, true)
        .carry(ICMP6, &neighbor_message(135, target));
    steps.push(("discovery in pieces", in_pieces, Drop(PolicyDenied)));
    let lldp = Frame::ethernet(0x88cc).carry(0, &[0; 46]);
    steps.push(("LLDP", lldp, Drop(NonIp)));
    let length = Frame::ethernet(60).carry(0, &[0; 60]);
    steps.push(("802.3", length, Drop(NonIp)));
    let broken = Frame::ethernet(0x8915).carry(0, &[0; 60]);
    steps.push(("a broken GRH", broken, Drop(NonIp)));
    for direction in [Ingress, Egress] {
        for (what, frame, verdict) in &steps {
            assert_eq!(
                judge.run(1, direction, frame).unwrap(),
                *verdict,
                "{what} {direction:?}"
            );
        }
    }
}

#[test]
fn an_isolated_endpoint_without_its_policy_drops() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    judge
        .flag(1, EndpointConfig::ENFORCE_INGRESS, true)
        .unwrap();
    expect(
        &judge,
        &[
            (
                "in",
                Ingress,
                pair.served(Ingress, SYN),
                Drop(PolicyMissing),
            ),
            ("out", Egress, pair.called(Egress, SYN), Pass),
            ("back", Ingress, pair.called(Ingress, SYN_ACK), Pass),
        ],
    )
    .unwrap();
}

#[test]
fn wildcards_add_to_what_an_identity_may() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    let policy = [
        (PolicyKey::ports(identity::ANY, TCP, 8080, 12), rule(1)),
        (PolicyKey::protocol(PEER, UDP), rule(2)),
    ];
    judge.isolate(1, Ingress, &policy).unwrap();
    let to = |port| {
        pair.frame(Ingress)
            .carry(TCP, &tcp_flags(40_000, port, SYN))
    };
    let datagram = || pair.frame(Ingress).carry(UDP, &udp(40_000, 9, b"x"));
    expect(
        &judge,
        &[
            ("a stranger in the range", Ingress, to(8095), Pass),
            (
                "a stranger past the range",
                Ingress,
                to(8096),
                Drop(PolicyDenied),
            ),
            (
                "a stranger's datagram",
                Ingress,
                datagram(),
                Drop(PolicyDenied),
            ),
        ],
    )
    .unwrap();
    // By the longest prefix, when no exact entry is there.
    let cidr = |text: &str, identity| (IdentityPrefix::Cidr(text.parse().unwrap()), Some(identity));
    let maps = judge.kernel().maps().policy();
    maps.set_identities(&[cidr("10.0.0.0/24", PEER), cidr("10.0.0.0/8", PEER + 1)])
        .unwrap();
    expect(
        &judge,
        &[
            ("the peer in the range", Ingress, to(8080), Pass),
            ("the peer's datagram", Ingress, datagram(), Pass),
        ],
    )
    .unwrap();
}

#[test]
fn the_node_enters_unless_told_otherwise() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    let node = [(IdentityPrefix::Address(pair.peer), Some(identity::NODE))];
    judge
        .kernel()
        .maps()
        .policy()
        .set_identities(&node)
        .unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    judge.isolate(1, Egress, &[]).unwrap();
    assert_eq!(
        judge.run(1, Ingress, &pair.served(Ingress, SYN)).unwrap(),
        Drop(PolicyDenied)
    );
    judge.flag(1, EndpointConfig::ALLOW_NODE, true).unwrap();
    expect(
        &judge,
        &[
            ("in", Ingress, pair.served(Ingress, SYN), Pass),
            ("the answer", Egress, pair.served(Egress, SYN_ACK), Pass),
            (
                "the pod's own call",
                Egress,
                pair.called(Egress, SYN),
                Drop(PolicyDenied),
            ),
        ],
    )
    .unwrap();
    judge.flag(1, EndpointConfig::ALLOW_NODE, false).unwrap();
    assert_eq!(
        judge.run(1, Ingress, &pair.served(Ingress, ACK)).unwrap(),
        Drop(PolicyDenied)
    );
}
