//! ARP and neighbour discovery: who speaks of which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{
    packets::{Frame, icmp, neighbor_message},
    parse::neighbor::{Subject, read},
};

/// ARP of an operation (1 request, 2 reply) between two IPv4 addresses.
fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0x08, 0x00, 6, 4, 0, operation];
    bytes.extend([2, 0, 0, 0, 0, 1]);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}

fn subject(frame: &[u8]) -> Option<Subject> {
    read(frame, &parse(frame).unwrap())
}

fn v4(octets: [u8; 4]) -> Address {
    IpAddr::V4(Ipv4Addr::from(octets)).into()
}

const ASKER: [u8; 4] = [10, 0, 0, 1];
const ASKED: [u8; 4] = [10, 0, 0, 2];

#[test]
fn arp_asks_answers_and_announces() {
    for tags in [&[][..], &[crate::packets::VLAN]] {
        let frame = |bytes: Vec<u8>| Frame::ethernet(0x0806).tags(tags).carry(0, &bytes);
        for (bytes, sender, target, announcement) in [
            (arp(1, ASKER, ASKED), ASKER, ASKED, false),
            (arp(2, ASKED, ASKER), ASKED, ASKER, false),
            // A probe has no sender (RFC 5227).
            (arp(1, [0; 4], ASKED), [0; 4], ASKED, false),
            (arp(1, ASKED, ASKED), ASKED, ASKED, true),
            (arp(2, ASKED, ASKED), ASKED, ASKED, true),
        ] {
            let expected = Subject {
                sender: v4(sender),
                target: v4(target),
                announcement,
            };
            assert_eq!(subject(&frame(bytes)), Some(expected));
        }
    }
}

#[test]
fn arp_of_another_make_is_left_alone() {
    let whole = arp(1, ASKER, ASKED);
    for length in 0..whole.len() {
        assert_eq!(
            subject(&Frame::ethernet(0x0806).carry(0, &whole[..length])),
            None
        );
    }
    // Not IPv4; addresses of other lengths.
    for (at, byte) in [(2, 0x86), (3, 0xdd), (4, 8), (5, 16)] {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        assert_eq!(subject(&Frame::ethernet(0x0806).carry(0, &bytes)), None);
    }
}

#[test]
fn solicitations_ask_and_advertisements_announce() {
    let target: Ipv6Addr = "fd00::99".parse().unwrap();
    for (kind, announcement) in [(135, false), (136, true)] {
        let frame = Frame::v6().carry(58, &neighbor_message(kind, target));
        let expected = Subject {
            sender: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]).into(),
            target: IpAddr::from(target).into(),
            announcement,
        };
        assert_eq!(subject(&frame), Some(expected));
    }
}

#[test]
fn nothing_else_is_a_neighbour_frame() {
    let target: Ipv6Addr = "fd00::99".parse().unwrap();
    let message = neighbor_message(135, target);
    for (what, frame) in [
        (
            "echo request",
            Frame::v6().carry(58, &icmp(128, 0, &[0; 16])),
        ),
        (
            "router solicitation",
            Frame::v6().carry(58, &icmp(133, 0, &[0; 16])),
        ),
        ("ICMPv6 in IPv4", Frame::v4().carry(58, &message)),
        (
            "TCP from port 135",
            Frame::v6().carry(6, &crate::packets::tcp(135, 0, &[0; 16])),
        ),
        (
            "first fragment",
            Frame::v6().fragment(0, true).carry(58, &message),
        ),
        (
            "later fragment",
            Frame::v6().fragment(8, true).carry(58, &message),
        ),
        ("cut", Frame::v6().carry(58, &message[..23])),
        (
            "target in the padding",
            Frame::v6().claim(8).carry(58, &message),
        ),
    ] {
        assert_eq!(subject(&frame), None, "{what}");
    }
}
