//! Fragments: which piece a packet is, and that no piece is read for headers
//! that it does not have.

use super::*;
use crate::packets::{Frame, icmp, tcp, udp, udp_claiming};

/// IPv4's fields, or IPv6's fragment header, and the piece that they make.
const PIECES: [(u16, bool, Fragment); 5] = [
    (0, false, Fragment::No),
    (0, true, Fragment::First),
    (8, true, Fragment::Later),
    (8, false, Fragment::Later),
    (0xfff8, false, Fragment::Later),
];

#[test]
fn pieces_are_told_apart() {
    for (offset, more, expected) in PIECES {
        for (frame, transport) in [(Frame::v4(), V4_TRANSPORT), (Frame::v6(), V6_TRANSPORT + 8)] {
            let frame = frame.fragment(offset, more).carry(17, &udp(7, 9, &[1; 8]));
            let headers = parse(&frame[..]).unwrap();
            let context = format!("{offset} {more}");
            assert_eq!(headers.fragment, expected, "{context}");
            assert_eq!(headers.transport, transport, "{context}");
            assert_eq!(headers.transport_length, 16, "{context}");
            // A later piece has no ports, whatever its bytes look like.
            let ports = match expected {
                Fragment::Later => (0, 0),
                _ => (7, 9),
            };
            assert_eq!(
                (headers.source_port, headers.destination_port),
                ports,
                "{context}"
            );
        }
    }
}

#[test]
fn the_reserved_and_dont_fragment_bits_say_nothing() {
    let mut frame = Frame::v4().carry(17, &udp(7, 9, &[]));
    frame[20] |= 0xc0;
    assert_eq!(parse(&frame[..]).unwrap().fragment, Fragment::No);
    // In IPv6, the two bits between offset and "more".
    let mut frame = Frame::v6().fragment(0, false).carry(17, &udp(7, 9, &[]));
    frame[57] |= 0x06;
    assert_eq!(parse(&frame[..]).unwrap().fragment, Fragment::No);
}

#[test]
fn later_pieces_may_be_of_any_length() {
    for frame in [Frame::v4(), Frame::v6()] {
        for length in 0..24 {
            let frame = frame.clone().fragment(16, false).carry(6, &vec![0; length]);
            let headers = parse(&frame[..]).unwrap();
            assert_eq!(headers.transport_length, length as u32);
        }
    }
}

#[test]
fn a_first_piece_needs_its_whole_transport_header_and_no_more() {
    for (protocol, bytes) in [
        (6, tcp(7, 9, &[])),
        // The length is the whole datagram's.
        (17, udp_claiming(7, 9, 4000, &[])),
        (1, icmp(7, 9, &[])),
    ] {
        for frame in [Frame::v4(), Frame::v6()] {
            let frame = frame.fragment(0, true).carry(protocol, &bytes);
            let headers = parse(&frame[..]).unwrap();
            assert_eq!((headers.source_port, headers.destination_port), (7, 9));
        }
    }
}

#[test]
fn only_tcp_can_be_overwritten_eight_bytes_in() {
    // RFC 3128 speaks of TCP; UDP's header ends there.
    let frame = Frame::v4().fragment(8, false).carry(17, &[0; 16]);
    assert_eq!(parse(&frame[..]).unwrap().fragment, Fragment::Later);
    let frame = Frame::v4().fragment(16, false).carry(6, &[0; 16]);
    assert_eq!(parse(&frame[..]).unwrap().fragment, Fragment::Later);
}

#[test]
fn headers_behind_a_later_piece_are_not_walked() {
    // The bytes behind look like a chain of extension headers, and TCP.
    let frame = Frame::v6()
        .extension(0, 0)
        .fragment(8, true)
        .extension(60, 0)
        .carry(6, &tcp(7, 9, &[]));
    let headers = parse(&frame[..]).unwrap();
    assert_eq!(headers.fragment, Fragment::Later);
    assert_eq!(headers.protocol, protocol::DESTINATION);
    assert_eq!(headers.transport, V6_TRANSPORT + 16);
    assert_eq!((headers.source_port, headers.destination_port), (0, 0));
}

#[test]
fn headers_behind_a_first_piece_are_walked() {
    let frame = Frame::v6()
        .fragment(0, true)
        .extension(60, 1)
        .carry(6, &tcp(7, 9, &[]));
    let headers = parse(&frame[..]).unwrap();
    assert_eq!(headers.fragment, Fragment::First);
    assert_eq!(headers.transport, V6_TRANSPORT + 8 + 16);
    assert_eq!((headers.source_port, headers.destination_port), (7, 9));
}

#[test]
fn a_second_fragment_header_makes_no_piece_whole() {
    for (first, second, expected) in [
        ((0, true), (0, false), Fragment::First),
        ((0, false), (0, true), Fragment::First),
        ((0, true), (8, false), Fragment::Later),
        ((0, false), (0, false), Fragment::No),
    ] {
        let frame = Frame::v6()
            .fragment(first.0, first.1)
            .fragment(second.0, second.1)
            .carry(17, &udp(7, 9, &[]));
        assert_eq!(parse(&frame[..]).unwrap().fragment, expected);
    }
}

#[test]
fn a_chain_may_end_in_a_fragment_as_its_sixth() {
    let chain = |last: u16| {
        (0..5)
            .fold(Frame::v6(), |frame, _| frame.extension(60, 0))
            .fragment(last, true)
    };
    // A seventh header behind a later piece is its payload.
    let frame = chain(8).carry(60, &[0; 8]);
    assert_eq!(parse(&frame[..]).unwrap().fragment, Fragment::Later);
    let frame = chain(0).carry(60, &[0; 8]);
    assert_eq!(parse(&frame[..]), Err(DropReason::Ipv6ExtensionsTooMany));
}
