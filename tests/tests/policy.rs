//! Policy in the kernel's programs: packets by BPF_PROG_TEST_RUN against real maps.

use std::net::IpAddr;

use anyhow::Result;
use dataplane::kernel::{IdentityPrefix, monotonic_ns};
use dataplane_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    DropReason::{FragmentUntracked, NonIp, PolicyDenied, PolicyMissing},
    EndpointConfig, Fault, PolicyKey, PolicyRule, identity,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{self, Drop, Pass},
    },
    packets::{Frame, Roce, echo, icmp, neighbor_message, sctp, tcp_flags, udp},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 4;

/// The identity of the peers that a case names.
const PEER: u32 = identity::FIRST;

fn rule(rule: u32) -> PolicyRule {
    PolicyRule { rule, flags: 0 }
}

/// Addresses of pod and peer.
#[derive(Clone, Copy)]
struct Pair {
    pod: IpAddr,
    peer: IpAddr,
}

impl Pair {
    fn v4() -> Self {
        Self {
            pod: [10, 0, 0, 1].into(),
            peer: [10, 0, 0, 9].into(),
        }
    }

    fn v6() -> Self {
        Self {
            pod: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
            peer: [0xfd00, 0, 0, 0, 0, 0, 0, 9].into(),
        }
    }

    fn both() -> [Self; 2] {
        [Self::v4(), Self::v6()]
    }

    fn frame(self, direction: Direction) -> Frame {
        match direction {
            Ingress => Frame::between(self.peer, self.pod),
            Egress => Frame::between(self.pod, self.peer),
        }
    }

    fn icmp(self) -> u8 {
        if self.pod.is_ipv4() { ICMP } else { ICMP6 }
    }

    /// A TCP packet of the connection from the peer's 40000 to the pod's 80,
    /// or from the pod's 80 to it.
    fn served(self, direction: Direction, flags: u8) -> Vec<u8> {
        let (source, destination) = match direction {
            Ingress => (40_000, 80),
            Egress => (80, 40_000),
        };
        self.frame(direction)
            .carry(TCP, &tcp_flags(source, destination, flags))
    }

    /// A TCP packet of the connection from the pod's 40000 to the peer's 443,
    /// or back.
    fn called(self, direction: Direction, flags: u8) -> Vec<u8> {
        let (source, destination) = match direction {
            Egress => (40_000, 443),
            Ingress => (443, 40_000),
        };
        self.frame(direction)
            .carry(TCP, &tcp_flags(source, destination, flags))
    }

    fn is_peer(self, judge: &Judge) -> Result<()> {
        let change = [(IdentityPrefix::Address(self.peer), Some(PEER))];
        let maps = judge.kernel().maps();
        Ok(maps.policy().set_identities(&change)?)
    }
}

/// Runs packets in turn and holds each verdict against what is expected.
fn expect(judge: &Judge, steps: &[(&str, Direction, Vec<u8>, Verdict)]) -> Result<()> {
    for (what, direction, frame, expected) in steps {
        let verdict = judge.run(1, *direction, frame)?;
        assert_eq!(verdict, *expected, "{what}");
    }
    Ok(())
}

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
fn a_changed_policy_reaches_open_connections() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    pair.is_peer(&judge).unwrap();
    let web = [(PolicyKey::port(PEER, TCP, 80), rule(1))];
    judge.isolate(1, Ingress, &web).unwrap();
    let open = [
        ("SYN", Ingress, pair.served(Ingress, SYN), Pass),
        ("SYN-ACK", Egress, pair.served(Egress, SYN_ACK), Pass),
        ("data", Ingress, pair.served(Ingress, ACK), Pass),
    ];
    expect(&judge, &open).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    expect(
        &judge,
        &[
            // The pod's own packets would else open it anew, as its own call.
            (
                "the answering side first",
                Egress,
                pair.served(Egress, ACK),
                Drop(PolicyDenied),
            ),
            (
                "the peer",
                Ingress,
                pair.served(Ingress, ACK),
                Drop(PolicyDenied),
            ),
            (
                "the peer anew",
                Ingress,
                pair.served(Ingress, SYN),
                Drop(PolicyDenied),
            ),
        ],
    )
    .unwrap();
    judge.isolate(1, Ingress, &web).unwrap();
    expect(
        &judge,
        &[
            ("allowed again", Egress, pair.served(Egress, ACK), Pass),
            ("both ways", Ingress, pair.served(Ingress, ACK), Pass),
        ],
    )
    .unwrap();
    // Judged once a change, not once a packet.
    assert_eq!(judge.kernel().maps().policy().rule_hit(1).unwrap(), 2);
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
fn pieces_follow_their_first() {
    for pair in Pair::both() {
        let judge = Judge::new(1).unwrap();
        judge
            .isolate(
                1,
                Ingress,
                &[(PolicyKey::port(identity::ANY, UDP, 53), rule(1))],
            )
            .unwrap();
        let first = |port| {
            pair.frame(Ingress)
                .fragment(0, true)
                .carry(UDP, &udp(9, port, &[0; 32]))
        };
        let later = || pair.frame(Ingress).fragment(40, false).carry(UDP, &[0; 24]);
        expect(
            &judge,
            &[
                (
                    "a later piece before",
                    Ingress,
                    later(),
                    Drop(FragmentUntracked),
                ),
                (
                    "a first piece refused",
                    Ingress,
                    first(54),
                    Drop(PolicyDenied),
                ),
                ("what follows it", Ingress, later(), Drop(FragmentUntracked)),
                ("a first piece allowed", Ingress, first(53), Pass),
                ("what follows it", Ingress, later(), Pass),
            ],
        )
        .unwrap();
        // The open direction is not asked.
        let out = pair.frame(Egress).fragment(40, false).carry(UDP, &[0; 24]);
        assert_eq!(judge.run(1, Egress, &out).unwrap(), Pass);
        judge.isolate(1, Ingress, &[]).unwrap();
        assert_eq!(
            judge.run(1, Ingress, &later()).unwrap(),
            Drop(FragmentUntracked),
            "another policy"
        );
    }
}

#[test]
fn icmp_errors_pass_for_known_connections_only() {
    for pair in Pair::both() {
        let judge = Judge::new(1).unwrap();
        judge.isolate(1, Ingress, &[]).unwrap();
        // A router of its own reports that the pod's packet did not fit.
        let router: IpAddr = match pair.pod {
            IpAddr::V4(_) => [10, 0, 0, 254].into(),
            IpAddr::V6(_) => [0xfd00, 0, 0, 0, 0, 0, 0, 254].into(),
        };
        let kind = if pair.pod.is_ipv4() { 3 } else { 2 };
        let error = |packet: &[u8]| {
            // Without its Ethernet header, and cut short as routers do.
            let quoted = &packet[14..packet.len().min(14 + 60)];
            Frame::between(router, pair.pod).carry(pair.icmp(), &icmp(kind, 4, quoted))
        };
        let sent = pair.called(Egress, SYN);
        let datagram = pair.frame(Egress).carry(UDP, &udp(5000, 53, b"x"));
        let request = if pair.pod.is_ipv4() { 8 } else { 128 };
        let ping = pair.frame(Egress).carry(pair.icmp(), &echo(request, 7));
        for packet in [&sent, &datagram, &ping] {
            assert_eq!(
                judge.run(1, Ingress, &error(packet)).unwrap(),
                Drop(PolicyDenied)
            );
            assert_eq!(judge.run(1, Egress, packet).unwrap(), Pass);
            assert_eq!(judge.run(1, Ingress, &error(packet)).unwrap(), Pass);
        }
        // Of a packet that the pod has not sent, and of one that it got.
        let forged = pair.frame(Egress).carry(UDP, &udp(5001, 53, b"x"));
        let received = pair.frame(Ingress).carry(UDP, &udp(53, 5000, b"x"));
        for packet in [&forged, &received] {
            assert_eq!(
                judge.run(1, Ingress, &error(packet)).unwrap(),
                Drop(PolicyDenied)
            );
        }
        // Too short to tell.
        let stub =
            Frame::between(router, pair.pod).carry(pair.icmp(), &icmp(kind, 4, &sent[14..30]));
        assert_eq!(judge.run(1, Ingress, &stub).unwrap(), Drop(PolicyDenied));
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
fn audit_mode_tells_what_it_would_drop_and_drops_nothing() {
    let judge = Judge::new(1).unwrap();
    let pair = Pair::v4();
    judge.flag(1, EndpointConfig::AUDIT, true).unwrap();
    judge
        .isolate(
            1,
            Ingress,
            &[(PolicyKey::port(identity::ANY, TCP, 80), rule(1))],
        )
        .unwrap();
    let denied = |flags| {
        pair.frame(Ingress)
            .carry(TCP, &tcp_flags(40_000, 81, flags))
    };
    let answer = pair
        .frame(Egress)
        .carry(TCP, &tcp_flags(81, 40_000, SYN_ACK));
    expect(
        &judge,
        &[
            ("allowed", Ingress, pair.served(Ingress, SYN), Pass),
            ("denied", Ingress, denied(SYN), Pass),
            ("its answer", Egress, answer, Pass),
            ("denied still", Ingress, denied(ACK), Pass),
            (
                "no address",
                Ingress,
                Frame::ethernet(0x88cc).carry(0, &[0; 46]),
                Pass,
            ),
        ],
    )
    .unwrap();
    let mut counts: Vec<_> = judge
        .kernel()
        .maps()
        .policy()
        .would_drop()
        .unwrap()
        .values()
        .flatten()
        .map(|(key, counter)| (key.port, key.direction, key.reason, counter.packets))
        .collect();
    counts.sort_unstable();
    let ingress = Ingress as u8;
    assert_eq!(
        counts,
        [
            (1, ingress, PolicyDenied as u8, 2),
            (1, ingress, NonIp as u8, 1)
        ]
    );
    assert!(judge.kernel().maps().drops().unwrap().is_empty());
    // Enforced from now on, open connections included.
    judge.flag(1, EndpointConfig::AUDIT, false).unwrap();
    assert_eq!(
        judge.run(1, Ingress, &denied(ACK)).unwrap(),
        Drop(PolicyDenied)
    );
}

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
