//! Changes of policy while connections are open, and audit mode.

use dataplane_ebpf::abi::{
    Direction::{Egress, Ingress},
    DropReason::{NonIp, PolicyDenied},
    EndpointConfig, PolicyKey, identity,
};
use sluice_tests::{
    judge::{
        Judge,
        Verdict::{Drop, Pass},
    },
    packets::{Frame, tcp_flags},
};

use crate::pair::{ACK, PEER, Pair, SYN, SYN_ACK, TCP, expect, rule};

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
