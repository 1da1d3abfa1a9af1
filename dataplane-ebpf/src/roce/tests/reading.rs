//! What is RoCE and what only pretends to be, and the fields behind the BTH.

use super::*;
use crate::{
    abi::DropReason,
    packets::{Frame, QINQ, Roce, VLAN, cm, deth, reth, udp, udp_claiming},
};

fn found(frame: &[u8]) -> Found {
    read_frame(frame).found
}

#[test]
fn only_its_port_and_its_ethertype_are_roce() {
    let bytes = Roce::write(7, 64).bytes();
    for (what, frame, expected) in [
        (
            "v2",
            Frame::v4().carry(17, &udp(49152, 4791, &bytes)),
            Found::Yes,
        ),
        (
            "v2 in IPv6",
            Frame::v6().carry(17, &udp(49152, 4791, &bytes)),
            Found::Yes,
        ),
        ("v1", Frame::grh().carry(0x1b, &bytes), Found::Yes),
        (
            "tagged",
            Frame::v4().tags(&[VLAN]).carry(17, &udp(1, 4791, &bytes)),
            Found::Yes,
        ),
        (
            "QinQ",
            Frame::v6()
                .tags(&[QINQ, VLAN])
                .carry(17, &udp(1, 4791, &bytes)),
            Found::Yes,
        ),
        (
            "tagged v1",
            Frame::grh().tags(&[VLAN]).carry(0x1b, &bytes),
            Found::Yes,
        ),
        (
            "IPv4 options",
            Frame::v4().options(10).carry(17, &udp(1, 4791, &bytes)),
            Found::Yes,
        ),
        (
            "extension",
            Frame::v6()
                .extension(60, 3)
                .carry(17, &udp(1, 4791, &bytes)),
            Found::Yes,
        ),
        (
            "atomic fragment",
            Frame::v6()
                .fragment(0, false)
                .carry(17, &udp(1, 4791, &bytes)),
            Found::Yes,
        ),
        (
            "another port",
            Frame::v4().carry(17, &udp(49152, 4790, &bytes)),
            Found::No,
        ),
        (
            "from the port",
            Frame::v4().carry(17, &udp(4791, 49152, &bytes)),
            Found::No,
        ),
        (
            "TCP",
            Frame::v4().carry(6, &crate::packets::tcp(1, 4791, &bytes)),
            Found::No,
        ),
        ("BTH in IPv6", Frame::v6().carry(0x1b, &bytes), Found::No),
        (
            "another ethertype",
            Frame::ethernet(0x8914).carry(0, &bytes),
            Found::No,
        ),
        // The port is in the first fragment; the rest is not there to read.
        (
            "first fragment",
            Frame::v4()
                .fragment(0, true)
                .carry(17, &udp(1, 4791, &bytes)),
            Found::Malformed,
        ),
        (
            "later fragment",
            Frame::v4()
                .fragment(8, false)
                .carry(17, &udp(1, 4791, &bytes)),
            Found::No,
        ),
        (
            "GRH of another header",
            Frame::grh().carry(59, &bytes),
            Found::Malformed,
        ),
        (
            "GRH too long",
            Frame::grh().claim(200).carry(0x1b, &bytes),
            Found::Malformed,
        ),
        (
            "GRH and nothing",
            Frame::grh().carry(0x1b, &[]),
            Found::Malformed,
        ),
        (
            "no GRH",
            Frame::ethernet(0x8915).carry(0, &bytes[..20]),
            Found::Malformed,
        ),
    ] {
        assert_eq!(found(&frame), expected, "{what}");
    }
}

#[test]
fn a_packet_needs_headers_padding_and_crc() {
    // UDP's length, whatever lies behind it in the IP packet.
    let bytes = Roce::new(0x04).payload(40).bytes();
    for length in 0..8 + bytes.len() as u16 {
        let frame = Frame::v4().carry(17, &udp_claiming(1, 4791, length, &bytes));
        let expected = match length {
            // Zero means "the rest" to no RoCE device.
            0 => Ok(Found::Malformed),
            1..8 => Err(DropReason::TransportMalformed),
            8..24 => Ok(Found::Malformed),
            _ => Ok(Found::Yes),
        };
        assert_eq!(
            parse(&frame[..]).map(|_| found(&frame)),
            expected,
            "{length}"
        );
    }
    for pad in 0..4 {
        for payload in 0..4 {
            let packet = Roce::new(0x04).pad(pad).payload(payload);
            let expected = if payload < pad.into() {
                Found::Malformed
            } else {
                Found::Yes
            };
            assert_eq!(found(&packet.v1()), expected, "{pad} of {payload}");
        }
    }
}

#[test]
fn only_version_zero_exists() {
    for version in 0..16 {
        let expected = if version == 0 {
            Found::Yes
        } else {
            Found::Malformed
        };
        assert_eq!(found(&Roce::new(0x04).version(version).v1()), expected);
    }
}

#[test]
fn reserved_bits_are_not_numbers() {
    let mut bytes = Roce::new(0x04).qp(0x123456).psn(0x654321).bytes();
    // FECN, BECN and reserved before the queue pair; AckReq and reserved
    // before the PSN; solicited event and migration before the version.
    (bytes[4], bytes[8]) = (0xff, 0xff);
    bytes[1] |= 0xc0;
    let roce = read_frame(&Frame::grh().carry(0x1b, &bytes));
    assert_eq!(
        (roce.found, roce.destination_qp, roce.psn),
        (Found::Yes, 0x123456, 0x654321)
    );
}

#[test]
fn a_read_tells_its_length_and_nothing_else_does() {
    for (packet, length) in [
        (Roce::read(1, 0), 0),
        (Roce::read(1, 5000), 5000),
        (Roce::read(1, u32::MAX), u32::MAX),
        (Roce::new(0x4c).with(&[9; 12]).with(&reth(5000)), 5000),
        (Roce::new(0xac).with(&[9; 4]).with(&reth(5000)), 5000),
        (Roce::write(1, 5000), 0),
    ] {
        assert_eq!(read_frame(&packet.v2(&Frame::v6())).read_length, length);
    }
}

#[test]
fn first_and_middle_packets_show_the_path_mtu() {
    for (size, mtu) in [
        (256, 256),
        (512, 512),
        (1024, 1024),
        (2048, 2048),
        (4096, 4096),
        // Not a path MTU: nothing is learned.
        (0, 0),
        (255, 0),
        (257, 0),
        (1000, 0),
        (8192, 0),
    ] {
        for (opcode, headers) in [
            (0x00, 0),
            (0x01, 0),
            (0x06, 16),
            (0x07, 0),
            (0x0d, 4),
            (0x0e, 0),
            (0x20, 0),
            (0x27, 0),
            (0xa0, 4),
            (0xa6, 20),
        ] {
            let packet = Roce::new(opcode).payload(headers).payload(size);
            let roce = read_frame(&packet.v2(&Frame::v4()));
            assert_eq!(roce.path_mtu, mtu, "{opcode:#x} with {size}");
        }
        // A last or only packet may be of any length.
        for (opcode, headers) in [(0x02, 0), (0x04, 0), (0x08, 0), (0x0a, 16), (0x10, 4)] {
            let packet = Roce::new(opcode).payload(headers).payload(size);
            assert_eq!(read_frame(&packet.v2(&Frame::v4())).path_mtu, 0);
        }
    }
}

#[test]
fn connection_requests_and_replies_name_the_new_queue_pair() {
    const REQ: u16 = 0x10;
    const REP: u16 = 0x13;
    for frame in [Frame::v4(), Frame::v6()] {
        for attribute in [REQ, REP] {
            let roce = read_frame(&Roce::management(&cm(attribute, 0x00ab_cdef)).v2(&frame));
            assert_eq!((roce.found, roce.new_qp), (Found::Yes, 0x00ab_cdef));
        }
    }
    assert_eq!(
        read_frame(&Roce::management(&cm(REQ, 0x1234)).v1()).new_qp,
        0x1234
    );

    let other_class = {
        let mut datagram = cm(REQ, 7);
        datagram[1] = 0x04;
        datagram
    };
    let to_another_qp = Roce::management(&cm(REQ, 7)).qp(2);
    let reliable = Roce::new(0x04).qp(1).with(&deth(1)).with(&cm(REQ, 7));
    for (what, packet) in [
        ("reject", Roce::management(&cm(0x12, 7))),
        ("ready to use", Roce::management(&cm(0x14, 7))),
        ("another class", Roce::management(&other_class)),
        ("another queue pair", to_another_qp),
        ("another transport", reliable),
        ("an empty datagram", Roce::management(&[])),
        ("a short datagram", Roce::management(&cm(REQ, 7)[..255])),
    ] {
        let roce = read_frame(&packet.v2(&Frame::v4()));
        assert_eq!((roce.found, roce.new_qp), (Found::Yes, 0), "{what}");
    }
    // A whole one, but behind the end of the IP packet.
    let behind = Frame::v4().padding(&cm(REQ, 7));
    assert_eq!(read_frame(&Roce::management(&[]).v2(&behind)).new_qp, 0);
}
