//! Transport headers.

use std::net::Ipv6Addr;

/// A TCP segment (RFC 9293) without options.
pub fn tcp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    tcp_with_offset(source, destination, 5, payload)
}

/// A TCP segment that claims a header of so many 32-bit words; behind the first
/// five come `rest`.
pub fn tcp_with_offset(source: u16, destination: u16, words: u8, rest: &[u8]) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    // ACK; window 512, no checksum, no urgent pointer.
    segment.extend([words << 4, 0x10, 2, 0, 0, 0, 0, 0]);
    segment.extend(rest);
    segment
}

/// A TCP segment without payload, with these flags.
pub fn tcp_flags(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut segment = tcp(source, destination, &[]);
    segment[13] = flags;
    segment
}

/// A UDP datagram (RFC 768) without a checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    udp_claiming(source, destination, (8 + payload.len()) as u16, payload)
}

/// A UDP datagram that claims this length.
pub fn udp_claiming(source: u16, destination: u16, length: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = ports(source, destination);
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An SCTP packet (RFC 9260), common header only.
pub fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let mut packet = ports(source, destination);
    packet.extend([0, 0, 0, 7, 0, 0, 0, 0]);
    packet
}

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443) message.
pub fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 1, 0, 1];
    message.extend(payload);
    message
}

/// An ICMP or ICMPv6 request or reply with this identifier.
pub fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let mut message = icmp(kind, 0, b"ping");
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    message
}

/// A neighbour solicitation (135) or advertisement (136) of RFC 4861, without
/// options.
pub fn neighbor_message(kind: u8, target: Ipv6Addr) -> Vec<u8> {
    icmp(kind, 0, &target.octets())
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}
