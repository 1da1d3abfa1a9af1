//! Packets that speak of others: pieces of one, ICMP errors.

use std::net::IpAddr;

use dataplane_ebpf::abi::{
    Direction::{Egress, Ingress},
    DropReason::{FragmentUntracked, PolicyDenied},
    PolicyKey, identity,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{Drop, Pass},
    },
    packets::{Frame, echo, icmp, udp},
};

use crate::pair::{Pair, SYN, UDP, expect, rule};

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
