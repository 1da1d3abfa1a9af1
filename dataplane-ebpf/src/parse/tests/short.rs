//! Which packets take the short way. That it says the same as the long one is
//! an invariant (`fuzz/invariants.rs`).

use super::*;
use crate::packets::{Frame, Roce, VLAN, icmp, refused, sctp, tcp, udp};

#[test]
fn nearly_all_traffic_does() {
    let (tcp, udp) = (tcp(51000, 443, b"hello"), udp(51000, 53, &[]));
    for (envelope, name) in [(Frame::v4(), "IPv4"), (Frame::v6(), "IPv6")] {
        for (number, transport) in [(6, &tcp), (17, &udp)] {
            let frame = envelope.clone().carry(number, transport);
            let headers = usual(&frame[..]);
            assert_eq!(headers, parse(&frame[..]).ok(), "{name}, {number}");
            assert!(headers.is_some(), "{name}, {number}");
            // Ethernet pads short packets.
            assert_eq!(usual(&[&frame[..], &[0; 8]].concat()[..]), headers);
        }
    }
}

#[test]
fn whatever_needs_a_closer_look_does_not() {
    let (tcp, udp) = (tcp(1, 2, b"hello"), udp(1, 2, &[]));
    for (what, frame) in [
        ("a tag", Frame::v4().tags(&[VLAN]).carry(6, &tcp)),
        ("options", Frame::v4().options(1).carry(6, &tcp)),
        ("an extension", Frame::v6().extension(0, 0).carry(6, &tcp)),
        ("a piece", Frame::v4().fragment(0, true).carry(17, &udp)),
        (
            "a later piece",
            Frame::v4().fragment(9, false).carry(17, &udp),
        ),
        ("SCTP", Frame::v4().carry(132, &sctp(1, 2))),
        ("ICMP", Frame::v4().carry(1, &icmp(8, 0, &[0; 4]))),
        ("RoCE", Roce::new(4).v2(&Frame::v4())),
    ] {
        assert_eq!(usual(&frame[..]), None, "{what}");
        assert!(parse(&frame[..]).is_ok(), "{what}");
    }
    for (what, frame, _) in refused() {
        assert_eq!(usual(&frame[..]), None, "{what}");
    }
}
