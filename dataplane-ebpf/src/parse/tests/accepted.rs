//! Packets that pass, and what the parser says of them.

use std::net::IpAddr;

use super::*;
use crate::packets::{
    Frame, QINQ, Roce, VLAN, icmp, sctp, tcp, tcp_with_offset, udp, udp_claiming,
};

#[test]
fn a_plain_packet_is_described_fully() {
    let source: IpAddr = "192.0.2.7".parse().unwrap();
    let destination: IpAddr = "198.51.100.9".parse().unwrap();
    let frame = Frame::between(source, destination)
        .tos(0xb9)
        .carry(6, &tcp(51000, 443, b"hello"));
    let headers = parse(&frame[..]).unwrap();
    assert_eq!(
        headers,
        Headers {
            ether_type: 0x0800,
            network: NETWORK,
            source: source.into(),
            destination: destination.into(),
            traffic_class: 0xb9,
            protocol: 6,
            fragment: Fragment::No,
            tcp_flags: 0x10,
            identification: 0xbeef_u16.to_be().into(),
            transport: V4_TRANSPORT,
            transport_length: 25,
            source_port: 51000,
            destination_port: 443,
        }
    );

    let source: IpAddr = "2001:db8::7".parse().unwrap();
    let destination: IpAddr = "2001:db8:ffff::9".parse().unwrap();
    let frame = Frame::between(source, destination)
        .tos(0xb9)
        .carry(17, &udp(51000, 53, b"hello"));
    let headers = parse(&frame[..]).unwrap();
    assert_eq!(
        headers,
        Headers {
            ether_type: 0x86dd,
            network: NETWORK,
            source: source.into(),
            destination: destination.into(),
            traffic_class: 0xb9,
            protocol: 17,
            fragment: Fragment::No,
            tcp_flags: 0,
            identification: 0,
            transport: V6_TRANSPORT,
            transport_length: 13,
            source_port: 51000,
            destination_port: 53,
        }
    );
}

#[test]
fn each_transport_has_its_ports() {
    for (protocol, bytes, expected) in [
        (6, tcp(1000, 2000, &[]), (1000, 2000)),
        (6, tcp_with_offset(1000, 2000, 15, &[1; 40]), (1000, 2000)),
        (17, udp(1000, 2000, &[]), (1000, 2000)),
        // A zero length is a jumbogram's; what counts is the IP packet's.
        (17, udp_claiming(1000, 2000, 0, &[1; 9]), (1000, 2000)),
        (17, udp_claiming(1000, 2000, 8, &[1; 9]), (1000, 2000)),
        (132, sctp(1000, 2000), (1000, 2000)),
        (1, icmp(8, 3, &[]), (8, 3)),
        (58, icmp(135, 1, &[]), (135, 1)),
        // Neither has ports: GRE, ESP, IGMP, "no next header", reserved.
        (47, vec![1; 20], (0, 0)),
        (50, vec![1; 20], (0, 0)),
        (2, vec![1; 20], (0, 0)),
        (59, vec![1; 20], (0, 0)),
        (255, vec![1; 20], (0, 0)),
        (50, vec![], (0, 0)),
    ] {
        for frame in [Frame::v4(), Frame::v6()] {
            let frame = frame.carry(protocol, &bytes);
            assert_eq!(ports(&frame), expected, "protocol {protocol}");
        }
    }
}

#[test]
fn tags_move_the_headers_and_change_nothing_else() {
    for (tags, shift) in [
        (&[][..], 0),
        (&[VLAN], 4),
        (&[QINQ], 4),
        (&[QINQ, VLAN], 8),
        (&[VLAN, VLAN], 8),
    ] {
        for (frame, transport) in [(Frame::v4(), V4_TRANSPORT), (Frame::v6(), V6_TRANSPORT)] {
            let plain = parse(&frame.carry(17, &udp(1, 2, &[9]))[..]).unwrap();
            let tagged = frame.tags(tags).carry(17, &udp(1, 2, &[9]));
            let expected = Headers {
                network: NETWORK + shift,
                transport: transport + shift,
                ..plain
            };
            assert_eq!(parse(&tagged[..]), Ok(expected), "{tags:x?}");
        }
    }
}

#[test]
fn other_ethertypes_are_none_of_the_parsers() {
    // 802.3 lengths, ARP, LLDP, MACsec, the 0x9100 that some call QinQ.
    for ether_type in [0, 46, 0x05dc, 0x0806, 0x88cc, 0x88e5, 0x9100] {
        let frame = Frame::ethernet(ether_type).carry(0, &[0x45; 60]);
        let expected = Headers {
            ether_type,
            network: NETWORK,
            ..Headers::default()
        };
        assert_eq!(parse(&frame[..]), Ok(expected));
        // They need no byte behind the Ethernet header.
        assert_eq!(parse(&frame[..14]), Ok(expected));
    }
}

#[test]
fn v4_options_move_the_transport() {
    for words in 0..=10_u8 {
        let frame = Frame::v4().options(words).carry(17, &udp(1, 2, &[]));
        let transport = V4_TRANSPORT + 4 * u16::from(words);
        assert_eq!(place(&frame), (17, transport, 8));
        assert_eq!(ports(&frame), (1, 2));
    }
}

#[test]
fn v6_extension_headers_are_walked() {
    // Number and length field, then the bytes that they come to.
    for (chain, length) in [
        (&[][..], 0),
        (&[(0, 0)], 8),
        (&[(0, 255)], 2048),
        (&[(43, 2)], 24),
        (&[(60, 1)], 16),
        // Counted in four bytes, less two.
        (&[(51, 4)], 24),
        (&[(135, 0), (139, 1), (140, 2)], 8 + 16 + 24),
        (&[(0, 0), (60, 0), (43, 0), (51, 1), (60, 0), (140, 0)], 52),
        (&[(60, 255); 6], 6 * 2048),
    ] {
        let frame = chain
            .iter()
            .fold(Frame::v6(), |frame, (number, length)| {
                frame.extension(*number, *length)
            })
            .carry(6, &tcp(1, 2, &[]));
        assert_eq!(place(&frame), (6, V6_TRANSPORT + length, 20), "{chain:?}");
        assert_eq!(ports(&frame), (1, 2), "{chain:?}");
    }
}

#[test]
fn v4_has_no_extension_headers() {
    for number in [0, 43, 44, 51, 60, 135, 139, 140] {
        let frame = Frame::v4().carry(number, &[6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(place(&frame), (number, V4_TRANSPORT, 8));
    }
}

#[test]
fn padding_is_never_taken_for_a_header() {
    // 46 bytes of payload is Ethernet's least; the padding looks like UDP.
    let padding = udp(0xdead, 0xbeef, &[0xff; 40]);
    for (frame, transport) in [(Frame::v4(), V4_TRANSPORT), (Frame::v6(), V6_TRANSPORT)] {
        let frame = frame.padding(&padding);
        let whole = frame.carry(17, &udp(1, 2, &[]));
        assert_eq!(place(&whole), (17, transport, 8));
        assert_eq!(ports(&whole), (1, 2));
        let empty = frame.carry(17, &[]);
        assert_eq!(parse(&empty[..]), Err(DropReason::TransportTruncated));
        let unknown = frame.carry(59, &[]);
        assert_eq!(place(&unknown), (59, transport, 0));
    }
    let chain = Frame::v6().padding(&padding).carry(60, &[]);
    assert_eq!(parse(&chain[..]), Err(DropReason::Ipv6ExtensionTruncated));
}

#[test]
fn buffers_beyond_64_kib_say_zero_and_mean_the_rest() {
    let payload = vec![0; 0x1_0000];
    let frame = Frame::v4().claim(0).carry(6, &tcp(1, 2, &payload));
    assert_eq!(place(&frame), (6, V4_TRANSPORT, 20 + 0x1_0000));
    let frame = Frame::v6().claim(0).carry(6, &tcp(1, 2, &payload));
    assert_eq!(place(&frame), (6, V6_TRANSPORT, 20 + 0x1_0000));
    // As a jumbogram has it: a hop-by-hop option with the true length.
    let frame = Frame::v6()
        .extension(0, 0)
        .claim(0)
        .carry(6, &tcp(1, 2, &payload));
    assert_eq!(place(&frame), (6, V6_TRANSPORT + 8, 20 + 0x1_0000));
    // The largest that a length field can tell needs no zero.
    let frame = Frame::v6().claim(0).carry(17, &vec![0; 0xffff]);
    assert_eq!(parse(&frame[..]), Err(DropReason::TransportTruncated));
    let frame = Frame::v4().carry(17, &udp(1, 2, &vec![0; 0xffff - 28]));
    assert_eq!(place(&frame), (17, V4_TRANSPORT, 0xffff - 20));
}

#[test]
fn a_route_header_gives_addresses_and_place() {
    let frame = Roce::write(1, 0).v1();
    let headers = parse(&frame[..]).unwrap();
    assert_eq!(
        headers.source,
        Address::from("fe80::1".parse::<IpAddr>().unwrap())
    );
    assert_eq!(
        headers.destination,
        Address::from("fe80::2".parse::<IpAddr>().unwrap())
    );
    assert_eq!(place(&frame), (protocol::IB_BTH, NETWORK + 40, 12 + 16 + 4));
    // Broken ones are let by: the node's drivers judge them.
    for (what, frame) in [
        ("cut", frame[..53].to_vec()),
        (
            "claims too much",
            Frame::grh().claim(33).carry(0x1b, &[0; 32]),
        ),
        ("next header is TCP", Frame::grh().carry(6, &tcp(1, 2, &[]))),
        ("empty", frame[..14].to_vec()),
    ] {
        let headers = parse(&frame[..]).unwrap();
        assert_eq!((headers.protocol, headers.transport), (0, 0), "{what}");
    }
}

#[test]
fn the_congestion_field_is_the_low_two_bits() {
    for tos in 0..=255 {
        for frame in [Frame::v4(), Frame::v6()] {
            let frame = frame.tos(tos).carry(17, &udp(1, 2, &[]));
            let headers = parse(&frame[..]).unwrap();
            assert_eq!(headers.traffic_class, tos);
            assert_eq!(headers.ecn(), tos & 3);
        }
    }
}
