//! What the parser says of packets whose meaning is known.

mod accepted;
mod fragments;
mod neighbors;
mod oracle;
mod refused;
mod short;

use super::*;

/// Offset of what follows an Ethernet header without tags.
const NETWORK: u16 = 14;
/// Offset of the transport header behind IPv4 without options.
const V4_TRANSPORT: u16 = NETWORK + 20;
/// Offset of the transport header behind IPv6 without extension headers.
const V6_TRANSPORT: u16 = NETWORK + 40;

/// The transport's place in an accepted frame: protocol, offset, length.
fn place(frame: &[u8]) -> (u8, u16, u32) {
    let headers = parse(frame).unwrap();
    (
        headers.protocol,
        headers.transport,
        headers.transport_length,
    )
}

/// An accepted frame's ports.
fn ports(frame: &[u8]) -> (u16, u16) {
    let headers = parse(frame).unwrap();
    (headers.source_port, headers.destination_port)
}
