//! Connections: who may open one, what belongs to it, how it ends.

use dataplane::kernel::monotonic_ns;
use dataplane_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    DropReason::PolicyDenied,
    PolicyKey, identity,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{Drop, Pass},
    },
    packets::{Roce, echo, sctp, tcp_flags, udp},
};

use crate::pair::{ACK, FIN_ACK, PEER, Pair, RST, SCTP, SYN, SYN_ACK, TCP, UDP, expect, rule};

#[test]
fn replies_pass_both_ways_and_nothing_else_does() {
    for pair in Pair::both() {
        let judge = Judge::new(1).unwrap();
        pair.is_peer(&judge).unwrap();
        // In by port 80, out to port 443.
        judge
            .isolate(1, Ingress, &[(PolicyKey::port(PEER, TCP, 80), rule(1))])
            .unwrap();
        judge
            .isolate(1, Egress, &[(PolicyKey::port(PEER, TCP, 443), rule(2))])
            .unwrap();
        let other = |direction: Direction, source, destination| {
            pair.frame(direction)
                .carry(TCP, &tcp_flags(source, destination, SYN))
        };
        expect(
            &judge,
            &[
                (
                    "an answer to nothing",
                    Ingress,
                    pair.called(Ingress, SYN_ACK),
                    Drop(PolicyDenied),
                ),
                ("the pod calls", Egress, pair.called(Egress, SYN), Pass),
                ("its answer", Ingress, pair.called(Ingress, SYN_ACK), Pass),
                ("data out", Egress, pair.called(Egress, ACK), Pass),
                ("data in", Ingress, pair.called(Ingress, ACK), Pass),
                ("a peer calls", Ingress, pair.served(Ingress, SYN), Pass),
                (
                    "the pod answers",
                    Egress,
                    pair.served(Egress, SYN_ACK),
                    Pass,
                ),
                (
                    "another port",
                    Ingress,
                    other(Ingress, 40_000, 81),
                    Drop(PolicyDenied),
                ),
                (
                    "another port out",
                    Egress,
                    other(Egress, 40_000, 80),
                    Drop(PolicyDenied),
                ),
                (
                    "the same ports, other protocol",
                    Ingress,
                    pair.frame(Ingress).carry(UDP, &udp(40_000, 80, b"x")),
                    Drop(PolicyDenied),
                ),
                (
                    "SCTP is not TCP",
                    Ingress,
                    pair.frame(Ingress).carry(SCTP, &sctp(40_000, 80)),
                    Drop(PolicyDenied),
                ),
                (
                    "a new call from the answering side",
                    Ingress,
                    pair.called(Ingress, SYN),
                    Drop(PolicyDenied),
                ),
                ("the call goes on", Ingress, pair.called(Ingress, ACK), Pass),
            ],
        )
        .unwrap();
        let hits = judge.kernel().maps().policy().rule_hits().unwrap();
        assert_eq!(hits, [(1, 1), (2, 1)]);
    }
}

#[test]
fn each_protocol_has_its_replies() {
    for pair in Pair::both() {
        let judge = Judge::new(1).unwrap();
        pair.is_peer(&judge).unwrap();
        judge.isolate(1, Ingress, &[]).unwrap();
        let request = if pair.pod.is_ipv4() { 8 } else { 128 };
        let reply = if pair.pod.is_ipv4() { 0 } else { 129 };
        let (out, back) = (pair.frame(Egress), pair.frame(Ingress));
        let icmp = pair.icmp();
        expect(
            &judge,
            &[
                (
                    "UDP before",
                    Ingress,
                    back.carry(UDP, &udp(53, 5000, b"x")),
                    Drop(PolicyDenied),
                ),
                (
                    "UDP out",
                    Egress,
                    out.carry(UDP, &udp(5000, 53, b"x")),
                    Pass,
                ),
                (
                    "UDP back",
                    Ingress,
                    back.carry(UDP, &udp(53, 5000, b"x")),
                    Pass,
                ),
                (
                    "UDP from another port",
                    Ingress,
                    back.carry(UDP, &udp(54, 5000, b"x")),
                    Drop(PolicyDenied),
                ),
                ("SCTP out", Egress, out.carry(SCTP, &sctp(5000, 80)), Pass),
                (
                    "SCTP back",
                    Ingress,
                    back.carry(SCTP, &sctp(80, 5000)),
                    Pass,
                ),
                (
                    "a ping before",
                    Ingress,
                    back.carry(icmp, &echo(reply, 7)),
                    Drop(PolicyDenied),
                ),
                (
                    "a ping out",
                    Egress,
                    out.carry(icmp, &echo(request, 7)),
                    Pass,
                ),
                (
                    "its reply",
                    Ingress,
                    back.carry(icmp, &echo(reply, 7)),
                    Pass,
                ),
                (
                    "another reply",
                    Ingress,
                    back.carry(icmp, &echo(reply, 8)),
                    Drop(PolicyDenied),
                ),
                (
                    "a ping in of the same number",
                    Ingress,
                    back.carry(icmp, &echo(request, 7)),
                    Drop(PolicyDenied),
                ),
                ("GRE out", Egress, out.carry(47, &[0; 8]), Pass),
                ("GRE back", Ingress, back.carry(47, &[0; 8]), Pass),
            ],
        )
        .unwrap();
    }
}

#[test]
fn a_connection_that_ended_lets_a_new_one_be_judged() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    judge.isolate(1, Ingress, &[]).unwrap();
    expect(
        &judge,
        &[
            ("SYN", Egress, pair.called(Egress, SYN), Pass),
            ("SYN-ACK", Ingress, pair.called(Ingress, SYN_ACK), Pass),
            ("FIN", Egress, pair.called(Egress, FIN_ACK), Pass),
            (
                "half closed, data goes on",
                Ingress,
                pair.called(Ingress, ACK),
                Pass,
            ),
            ("FIN back", Ingress, pair.called(Ingress, FIN_ACK), Pass),
            ("the last ACK", Egress, pair.called(Egress, ACK), Pass),
            (
                "the peer calls by the same ports",
                Ingress,
                pair.called(Ingress, SYN),
                Drop(PolicyDenied),
            ),
            (
                "the pod calls again",
                Egress,
                pair.called(Egress, SYN),
                Pass,
            ),
            (
                "and is answered",
                Ingress,
                pair.called(Ingress, SYN_ACK),
                Pass,
            ),
        ],
    )
    .unwrap();
    // A reset alone opens nothing.
    let reset = pair.frame(Egress).carry(TCP, &tcp_flags(41_000, 443, RST));
    let answer = pair.frame(Ingress).carry(TCP, &tcp_flags(443, 41_000, ACK));
    expect(
        &judge,
        &[
            ("a reset out", Egress, reset, Pass),
            ("and back", Ingress, answer, Drop(PolicyDenied)),
        ],
    )
    .unwrap();
}

#[test]
fn two_pods_never_share_a_connection() {
    let judge = Judge::new(2).unwrap();
    let pair = Pair::v4();
    judge.isolate(1, Ingress, &[]).unwrap();
    judge.isolate(2, Ingress, &[]).unwrap();
    assert_eq!(
        judge.run(1, Egress, &pair.called(Egress, SYN)).unwrap(),
        Pass
    );
    // The very same packet at the other pod's interface is nobody's answer.
    let answer = pair.called(Ingress, SYN_ACK);
    assert_eq!(judge.run(2, Ingress, &answer).unwrap(), Drop(PolicyDenied));
    assert_eq!(judge.run(1, Ingress, &answer).unwrap(), Pass);
    // Nor is it when the endpoint's id has gone to another pod.
    judge.forget_flows(1).unwrap();
    assert_eq!(judge.run(1, Ingress, &answer).unwrap(), Drop(PolicyDenied));
}

#[test]
fn roce_between_two_addresses_is_one_connection() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    judge.isolate(1, Ingress, &[]).unwrap();
    let packet = |direction: Direction, source_port| {
        let payload = Roce::write(1, 32).bytes();
        pair.frame(direction)
            .carry(UDP, &udp(source_port, 4791, &payload))
    };
    expect(
        &judge,
        &[
            (
                "in before",
                Ingress,
                packet(Ingress, 50_000),
                Drop(PolicyDenied),
            ),
            ("out", Egress, packet(Egress, 49_152), Pass),
            (
                "in by another source port",
                Ingress,
                packet(Ingress, 50_000),
                Pass,
            ),
        ],
    )
    .unwrap();
}

#[test]
fn roce_of_version_1_is_judged_by_its_addresses() {
    // From fe80::1 to fe80::2.
    let (pod, peer) = ("fe80::2".parse().unwrap(), "fe80::1".parse().unwrap());
    let pair = Pair { pod, peer };
    let packet = Roce::write(1, 32).v1();
    let other_way = Roce::write(2, 32).v1();
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    let denied = [("to the pod", Ingress, packet.clone(), Drop(PolicyDenied))];
    expect(&judge, &denied).unwrap();
    // Every protocol of the peer; RoCE has no port that a rule could name.
    pair.is_peer(&judge).unwrap();
    judge
        .isolate(1, Ingress, &[(PolicyKey::port(PEER, UDP, 4791), rule(1))])
        .unwrap();
    expect(&judge, &denied).unwrap();
    judge
        .isolate(1, Ingress, &[(PolicyKey::all(PEER), rule(1))])
        .unwrap();
    let passing = [("to the pod", Ingress, packet.clone(), Pass)];
    expect(&judge, &passing).unwrap();
    // Seen from the other pod, the same packet leaves it.
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Egress, &[]).unwrap();
    let leaving = [("from the pod", Egress, packet, Drop(PolicyDenied))];
    expect(&judge, &leaving).unwrap();
    judge
        .isolate(1, Egress, &[(PolicyKey::all(identity::ANY), rule(1))])
        .unwrap();
    let leaving = [("from the pod", Egress, other_way, Pass)];
    expect(&judge, &leaving).unwrap();
}

#[test]
fn a_connection_is_dated_by_the_time_since_boot() {
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    let pair = Pair::v4();
    let before = monotonic_ns();
    expect(
        &judge,
        &[
            ("the call", Egress, pair.called(Egress, SYN), Pass),
            ("the answer", Ingress, pair.called(Ingress, SYN_ACK), Pass),
            ("what follows", Egress, pair.called(Egress, ACK), Pass),
        ],
    )
    .unwrap();
    let (_, flow) = judge.kernel().maps().flows().list().unwrap()[0];
    // The kernel counts its ticks from a moment that is not quite the clock's.
    let second = 1_000_000_000;
    let around = before - second..monotonic_ns() + second;
    assert!(around.contains(&flow.last_seen_ns), "{flow:?}, {around:?}");
    assert_eq!(flow.packets, 3);
}
