//! Packets that no network stack should meet, and the reason for which each is refused.

use super::{Frame, QINQ, VLAN, icmp, sctp, tcp, tcp_with_offset, udp, udp_claiming};

/// What it is, the frame, and the name of the reason that it is refused for.
pub type Case = (&'static str, Vec<u8>, &'static str);

/// Every way to be refused.
pub fn refused() -> Vec<Case> {
    [
        link_cases(),
        v4_cases(),
        v6_cases(),
        transport_cases(),
        fragment_cases(),
    ]
    .concat()
}

/// A frame cut to so many bytes.
fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    assert!(frame.len() > length);
    frame.truncate(length);
    frame
}

/// A frame with one byte replaced.
fn with_byte(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

fn link_cases() -> Vec<Case> {
    let tagged = |tags: &[u16]| Frame::v4().tags(tags).carry(17, &udp(1, 2, &[]));
    vec![
        ("nothing at all", vec![], "ethernet_truncated"),
        (
            "one byte short of an Ethernet header",
            cut(tagged(&[]), 13),
            "ethernet_truncated",
        ),
        (
            "a tag's number and nothing behind",
            cut(tagged(&[VLAN]), 14),
            "vlan_truncated",
        ),
        (
            "one byte short of a tag",
            cut(tagged(&[VLAN]), 17),
            "vlan_truncated",
        ),
        (
            "one byte short of the second tag",
            cut(tagged(&[QINQ, VLAN]), 21),
            "vlan_truncated",
        ),
        ("three tags", tagged(&[QINQ, VLAN, VLAN]), "vlan_too_deep"),
    ]
}

fn v4_cases() -> Vec<Case> {
    let frame = || Frame::v4().carry(17, &udp(1, 2, &[]));
    let optioned = || Frame::v4().options(10).carry(17, &udp(1, 2, &[]));
    vec![
        (
            "one byte short of an IPv4 header",
            cut(frame(), 33),
            "ipv4_truncated",
        ),
        (
            "IPv4 that claims one byte more than there is",
            Frame::v4().claim(29).carry(17, &udp(1, 2, &[])),
            "ipv4_truncated",
        ),
        (
            "IPv4 cut inside its options",
            cut(optioned(), 60),
            "ipv4_truncated",
        ),
        (
            "IPv4 of version 5",
            with_byte(frame(), 14, 0x55),
            "ipv4_malformed",
        ),
        (
            "IPv6 in a frame that says IPv4",
            with_byte(frame(), 14, 0x65),
            "ipv4_malformed",
        ),
        (
            "an IPv4 header of 16 bytes",
            with_byte(frame(), 14, 0x44),
            "ipv4_malformed",
        ),
        (
            "IPv4 whose total length ends inside its header",
            Frame::v4().claim(19).carry(17, &udp(1, 2, &[])),
            "ipv4_malformed",
        ),
        (
            "IPv4 whose total length ends inside its options",
            Frame::v4().options(1).claim(23).carry(17, &udp(1, 2, &[])),
            "ipv4_malformed",
        ),
        (
            "IPv4 of total length zero in an ordinary frame",
            Frame::v4().claim(0).carry(17, &udp(1, 2, &[])),
            "ipv4_malformed",
        ),
    ]
}

fn v6_cases() -> Vec<Case> {
    let frame = || Frame::v6().carry(17, &udp(1, 2, &[]));
    let chain = |count: usize| {
        (0..count)
            .fold(Frame::v6(), |frame, _| frame.extension(60, 0))
            .carry(17, &udp(1, 2, &[]))
    };
    vec![
        (
            "one byte short of an IPv6 header",
            cut(frame(), 53),
            "ipv6_truncated",
        ),
        (
            "IPv6 that claims one byte more than there is",
            Frame::v6().claim(9).carry(17, &udp(1, 2, &[])),
            "ipv6_truncated",
        ),
        (
            "IPv6 of version 4",
            with_byte(frame(), 14, 0x40),
            "ipv6_malformed",
        ),
        (
            "an extension header and nothing of it",
            Frame::v6().carry(60, &[]),
            "ipv6_extension_truncated",
        ),
        (
            "an extension header of 7 bytes",
            Frame::v6().carry(43, &[17, 0, 0, 0, 0, 0, 0]),
            "ipv6_extension_truncated",
        ),
        (
            "an extension header that claims 16 bytes of 8",
            Frame::v6().carry(0, &[17, 1, 0, 0, 0, 0, 0, 0]),
            "ipv6_extension_truncated",
        ),
        (
            "an extension header whose rest lies behind the IP packet",
            Frame::v6()
                .claim(8)
                .carry(60, &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            "ipv6_extension_truncated",
        ),
        (
            "a fragment header of 7 bytes",
            Frame::v6().carry(44, &[17, 0, 0, 1, 0, 0, 0]),
            "ipv6_extension_truncated",
        ),
        (
            "an authentication header that claims 1028 bytes",
            Frame::v6().carry(51, &[17, 255, 0, 0, 0, 0, 0, 0]),
            "ipv6_extension_truncated",
        ),
        (
            "IPv6 of payload length zero in an ordinary frame, extension header behind",
            Frame::v6()
                .extension(0, 0)
                .claim(0)
                .carry(17, &udp(1, 2, &[])),
            "ipv6_extension_truncated",
        ),
        (
            "seven extension headers",
            chain(7),
            "ipv6_extensions_too_many",
        ),
    ]
}

fn transport_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // In the frame as in the IP packet: the last byte missing, or being padding.
    for (what, protocol, bytes) in [
        ("TCP", 6, tcp(1, 2, &[])),
        ("UDP", 17, udp(1, 2, &[])),
        ("SCTP", 132, sctp(1, 2)),
        ("ICMP", 1, icmp(8, 0, &[])),
        ("ICMPv6", 58, icmp(128, 0, &[])),
    ] {
        let short = bytes.len() - 1;
        for frame in [
            Frame::v4().carry(protocol, &bytes[..short]),
            Frame::v6().carry(protocol, &bytes[..short]),
            Frame::v4().claim(20 + short as u16).carry(protocol, &bytes),
            Frame::v6().claim(short as u16).carry(protocol, &bytes),
            Frame::v4().carry(protocol, &[]),
        ] {
            cases.push((what, frame, "transport_truncated"));
        }
    }
    cases.extend([
        (
            "TCP with a header of 16 bytes",
            Frame::v4().carry(6, &tcp_with_offset(1, 2, 4, &[])),
            "transport_malformed",
        ),
        (
            "TCP with a header of no bytes",
            Frame::v6().carry(6, &tcp_with_offset(1, 2, 0, &[])),
            "transport_malformed",
        ),
        (
            "TCP that ends inside its options",
            Frame::v4().carry(6, &tcp_with_offset(1, 2, 15, &[0; 39])),
            "transport_truncated",
        ),
        (
            "TCP whose options lie behind the IP packet",
            Frame::v4()
                .claim(40)
                .carry(6, &tcp_with_offset(1, 2, 6, &[0; 4])),
            "transport_truncated",
        ),
        (
            "UDP that claims less than its header",
            Frame::v4().carry(17, &udp_claiming(1, 2, 7, &[])),
            "transport_malformed",
        ),
        (
            "UDP that claims more than the IP packet",
            Frame::v6().carry(17, &udp_claiming(1, 2, 9, &[])),
            "transport_malformed",
        ),
        (
            "UDP whose rest lies behind the IP packet",
            Frame::v4()
                .claim(28)
                .carry(17, &udp_claiming(1, 2, 12, &[0; 4])),
            "transport_malformed",
        ),
        (
            "IPv6 of payload length zero in an ordinary frame",
            Frame::v6().claim(0).carry(17, &udp(1, 2, &[])),
            "transport_truncated",
        ),
    ]);
    cases
}

fn fragment_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, protocol, bytes) in [
        ("a first fragment that ends inside TCP", 6, tcp(1, 2, &[])),
        ("a first fragment that ends inside UDP", 17, udp(1, 2, &[])),
        ("a first fragment that ends inside SCTP", 132, sctp(1, 2)),
    ] {
        let bytes = &bytes[..bytes.len() - 1];
        for frame in [Frame::v4(), Frame::v6()] {
            let frame = frame.fragment(0, true).carry(protocol, bytes);
            cases.push((what, frame, "fragment_tiny"));
        }
    }
    cases.extend([
        (
            "a first fragment that ends inside TCP's options",
            Frame::v4()
                .fragment(0, true)
                .carry(6, &tcp_with_offset(1, 2, 8, &[0; 8])),
            "fragment_tiny",
        ),
        (
            "a fragment that would overwrite TCP's flags",
            Frame::v4().fragment(8, false).carry(6, &[0; 40]),
            "fragment_tiny",
        ),
    ]);
    cases
}
