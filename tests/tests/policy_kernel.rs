//! Random clusters from manifests to verdicts of the kernel's programs: read,
//! compiled, applied to real maps, judged by BPF_PROG_TEST_RUN, and held
//! against the naive evaluator.

#![expect(
    clippy::unwrap_used,
    reason = "a manifest that makes no sense is the test's own mistake"
)]

use std::net::IpAddr;

use dataplane::policy::{
    apply::{Applied, Switches},
    compile::{Compiler, RuleNumbers, State},
};
use dataplane_ebpf::abi::{Direction, DropReason};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, TestRunner},
};
use sluice_tests::{
    judge::{self, Judge},
    packets::{Frame, echo, sctp, tcp_flags, udp},
    policy::{ADDRESSES, Packet, Verdict, cluster, endpoints, model},
};

/// Interfaces that the pods of one random cluster can have.
const MAX_ENDPOINTS: u32 = 6 * 3;
const SYN: u8 = 2;

fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for ingress in [true, false] {
        for peer in ADDRESSES {
            let peer: IpAddr = peer.parse().unwrap();
            let icmp = if peer.is_ipv4() { 1 } else { 58 };
            for (protocol, port) in [(6, 80), (6, 8081), (17, 80), (132, 443), (icmp, 0)] {
                packets.push(Packet {
                    ingress,
                    peer,
                    protocol,
                    port,
                });
            }
        }
    }
    packets
}

/// The packet as a frame; `number` makes each a connection of its own.
fn frame(packet: &Packet, number: u16) -> Vec<u8> {
    let own: IpAddr = match packet.peer {
        IpAddr::V4(_) => "10.200.0.1".parse().unwrap(),
        IpAddr::V6(_) => "fdff::1".parse().unwrap(),
    };
    let (source, destination) = match packet.ingress {
        true => (packet.peer, own),
        false => (own, packet.peer),
    };
    let around = Frame::between(source, destination);
    let ports = (number, packet.port);
    let payload = match packet.protocol {
        6 => tcp_flags(ports.0, ports.1, SYN),
        17 => udp(ports.0, ports.1, b"x"),
        132 => sctp(ports.0, ports.1),
        1 => echo(8, number),
        _ => echo(128, number),
    };
    around.carry(packet.protocol, &payload)
}

#[test]
fn manifests_become_the_verdicts_of_the_programs() {
    let judge = Judge::new(MAX_ENDPOINTS).unwrap();
    let maps = judge.kernel().maps();
    let mut compiler = Compiler::new(
        Default::default(),
        RuleNumbers::default(),
        Default::default(),
    );
    let mut applied = Applied::default();
    let mut judged = [0_u32; 2];
    let mut runner = TestRunner::new(Config {
        cases: std::env::var("PROPTEST_CASES").map_or(25, |cases| cases.parse().unwrap()),
        // What failed has changed the maps: the next case begins elsewhere.
        max_shrink_iters: 0,
        ..Config::default()
    });
    let packets = packets();
    for _ in 0..runner.config().cases {
        let cluster = cluster().new_tree(&mut runner).unwrap().current();
        let attached = endpoints(&cluster);
        let ends: Vec<_> = attached
            .iter()
            .map(|(_, endpoint)| endpoint.clone())
            .collect();
        let compiled = compiler.compile(&model(&cluster), &ends, &[]);
        let outcome = applied.apply(maps, &compiled, &Switches::default());
        assert!(
            outcome.problems.is_empty() && outcome.closed.is_empty(),
            "{outcome:?}"
        );
        for (pod, endpoint) in attached {
            let undecided = compiled.endpoints[&endpoint.id].state != State::Known;
            judge.forget_flows(endpoint.id).unwrap();
            for (number, packet) in (1024..).zip(&packets) {
                let wanted = match cluster.verdict(pod, &endpoint.interface, packet) {
                    _ if undecided => judge::Verdict::Drop(DropReason::PolicyMissing),
                    Verdict::Denied => judge::Verdict::Drop(DropReason::PolicyDenied),
                    Verdict::Open | Verdict::Allowed => judge::Verdict::Pass,
                };
                let direction = match packet.ingress {
                    true => Direction::Ingress,
                    false => Direction::Egress,
                };
                let found = judge
                    .run(endpoint.id, direction, &frame(packet, number))
                    .unwrap();
                assert_eq!(
                    found,
                    wanted,
                    "{packet:?} at {} of {pod} in\n{}",
                    endpoint.interface,
                    cluster.text()
                );
                judged[usize::from(found == judge::Verdict::Pass)] += 1;
            }
        }
    }
    assert!(
        judged.iter().all(|count| *count > 100),
        "lopsided: {judged:?}"
    );
}
