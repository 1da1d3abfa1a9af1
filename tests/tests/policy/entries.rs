//! Entries of the tables of connections: how long they count, and for whom.

#![expect(
    clippy::unwrap_used,
    reason = "the kernel refuses nothing that these tests ask for"
)]

use std::time::Duration;

use dataplane_ebpf::abi::{
    Direction::{Egress, Ingress},
    DropReason::{FragmentUntracked, PolicyDenied},
    PolicyKey, identity,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{self, Drop, Pass},
    },
    packets::{echo, sctp, udp},
};

use crate::pair::{ACK, FIN_ACK, Pair, SCTP, SYN, SYN_ACK, TCP, UDP, expect, rule};

fn aged(judge: &Judge, seconds: u64) {
    judge.age_flows(Duration::from_secs(seconds)).unwrap();
}

/// A pod that may send and be answered: whether the answer still counts as one after so many
/// silent seconds.
fn answer_after(pair: Pair, sent: &[u8], answer: &[u8], seconds: u64) -> Verdict {
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    assert_eq!(judge.run(1, Egress, sent).unwrap(), Pass, "{:?}", pair.pod);
    aged(&judge, seconds);
    judge.run(1, Ingress, answer).unwrap()
}

#[test]
fn a_connection_is_forgotten_after_the_time_of_its_protocol() {
    for pair in Pair::both() {
        let (out, back) = (pair.frame(Egress), pair.frame(Ingress));
        let (request, reply) = match pair.pod.is_ipv4() {
            true => (8, 0),
            false => (128, 129),
        };
        let cases = [
            (
                "UDP",
                out.carry(UDP, &udp(5000, 53, b"x")),
                back.carry(UDP, &udp(53, 5000, b"x")),
                120,
            ),
            (
                "ICMP",
                out.carry(pair.icmp(), &echo(request, 7)),
                back.carry(pair.icmp(), &echo(reply, 7)),
                60,
            ),
            (
                "SCTP",
                out.carry(SCTP, &sctp(5000, 80)),
                back.carry(SCTP, &sctp(80, 5000)),
                600,
            ),
            (
                "a SYN",
                pair.called(Egress, SYN),
                pair.called(Ingress, SYN_ACK),
                240,
            ),
        ];
        for (what, sent, answer, lifetime) in &cases {
            // The machine's own time goes on too.
            let just_before = answer_after(pair, sent, answer, lifetime - 10);
            assert_eq!(just_before, Pass, "{what}");
            let after = answer_after(pair, sent, answer, lifetime + 1);
            assert_eq!(after, Drop(PolicyDenied), "{what}");
        }
    }
}

#[test]
fn a_tcp_connection_lives_by_its_state() {
    let pair = Pair::v4();
    let judge = Judge::new(1).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    let open = [
        ("SYN", Egress, pair.called(Egress, SYN), Pass),
        ("SYN-ACK", Ingress, pair.called(Ingress, SYN_ACK), Pass),
    ];
    let data = |verdict| [("data", Ingress, pair.called(Ingress, ACK), verdict)];
    expect(&judge, &open).unwrap();
    aged(&judge, 7430);
    expect(&judge, &data(Pass)).unwrap();
    aged(&judge, 7441);
    expect(&judge, &data(Drop(PolicyDenied))).unwrap();

    expect(&judge, &open).unwrap();
    let end = [
        ("FIN", Egress, pair.called(Egress, FIN_ACK), Pass),
        ("FIN back", Ingress, pair.called(Ingress, FIN_ACK), Pass),
    ];
    expect(&judge, &end).unwrap();
    expect(&judge, &data(Pass)).unwrap();
    aged(&judge, 11);
    expect(&judge, &data(Drop(PolicyDenied))).unwrap();
}

/// The kernel gives entries of full tables to other connections while programs still look at them.
#[test]
fn what_is_remembered_of_another_connection_counts_for_nothing() {
    let pair = Pair::v4();
    let judge = Judge::new(1).unwrap();
    judge
        .isolate(
            1,
            Ingress,
            &[(PolicyKey::port(identity::ANY, TCP, 80), rule(1))],
        )
        .unwrap();
    let open = [
        ("a peer calls", Ingress, pair.served(Ingress, SYN), Pass),
        ("answered", Egress, pair.served(Egress, SYN_ACK), Pass),
        ("the pod calls", Egress, pair.called(Egress, SYN), Pass),
        ("answered", Ingress, pair.called(Ingress, SYN_ACK), Pass),
    ];
    expect(&judge, &open).unwrap();
    judge.isolate(1, Ingress, &[]).unwrap();
    let now = [
        (
            "refused",
            Ingress,
            pair.served(Ingress, ACK),
            Drop(PolicyDenied),
        ),
        ("allowed", Ingress, pair.called(Ingress, ACK), Pass),
    ];
    expect(&judge, &now).unwrap();
    judge.swap_flows().unwrap();
    expect(
        &judge,
        &[
            (
                "still refused",
                Ingress,
                pair.served(Ingress, ACK),
                Drop(PolicyDenied),
            ),
            (
                "judged anew, and allowed",
                Egress,
                pair.called(Egress, ACK),
                Pass,
            ),
            ("its answer", Ingress, pair.called(Ingress, ACK), Pass),
        ],
    )
    .unwrap();
}

#[test]
fn pieces_are_waited_for_as_long_as_a_receiver_does() {
    let pair = Pair::v4();
    let judge = Judge::new(1).unwrap();
    let dns = [(PolicyKey::port(identity::ANY, UDP, 53), rule(1))];
    judge.isolate(1, Ingress, &dns).unwrap();
    let first = pair
        .frame(Ingress)
        .fragment(0, true)
        .carry(UDP, &udp(9, 53, &[0; 32]));
    let later = pair.frame(Ingress).fragment(40, false).carry(UDP, &[0; 24]);
    assert_eq!(judge.run(1, Ingress, &first).unwrap(), Pass);
    judge.age_fragments(Duration::from_secs(50)).unwrap();
    assert_eq!(judge.run(1, Ingress, &later).unwrap(), Pass);
    judge.age_fragments(Duration::from_secs(11)).unwrap();
    let late = judge.run(1, Ingress, &later).unwrap();
    assert_eq!(late, Drop(FragmentUntracked));
}
