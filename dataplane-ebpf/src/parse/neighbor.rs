//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861): whom a frame asks
//! for, or who announces itself in it.

use super::{Fragment, Headers, Packet, Wire, ether_type, protocol};
use crate::abi::Address;

/// ICMPv6 type of a neighbour solicitation (RFC 4861 section 4.3).
pub const SOLICITATION: u16 = 135;
/// ICMPv6 type of a neighbour advertisement (RFC 4861 section 4.4).
pub const ADVERTISEMENT: u16 = 136;

/// Bytes of either, from the ICMPv6 header to the end of the target address.
const MESSAGE_LEN: u32 = 24;

/// ARP for IPv4 over Ethernet, as on the wire (network byte order). Addresses
/// are kept as 16-bit words because they start on no 32-bit boundary.
#[repr(C)]
#[derive(Clone, Copy)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: [u8; 2],
    operation: u16,
    sender_mac: [u16; 3],
    sender_ip: [u16; 2],
    target_mac: [u16; 3],
    target_ip: [u16; 2],
}
// SAFETY: repr(C) integers without padding.
unsafe impl Wire for Arp {}
const _: () = assert!(size_of::<Arp>() == 28);

/// What a neighbour frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The sender's address; zero in a duplicate address probe.
    pub sender: Address,
    /// The address asked for or announced.
    pub target: Address,
    /// The sender speaks of its own address (gratuitous ARP, RFC 5227;
    /// neighbour advertisement) rather than asking for another's.
    pub announcement: bool,
}

/// Reads an ARP frame, a neighbour solicitation or advertisement; `None` for
/// everything else. `headers` are the packet's.
#[inline(always)]
pub fn read<P: Packet + ?Sized>(packet: &P, headers: &Headers) -> Option<Subject> {
    if headers.ether_type == ether_type::ARP {
        let arp: Arp = packet.read(headers.network.into())?;
        // Ethernet addresses of six bytes, IPv4 addresses of four.
        if u16::from_be(arp.protocol) != ether_type::IPV4 || arp.lengths != [6, 4] {
            return None;
        }
        return Some(Subject {
            sender: Address::from_ipv4_word(word(arp.sender_ip)),
            target: Address::from_ipv4_word(word(arp.target_ip)),
            announcement: arp.sender_ip == arp.target_ip,
        });
    }
    // They are never sent in fragments (RFC 6980).
    if headers.ether_type != ether_type::IPV6
        || headers.protocol != protocol::ICMPV6
        || !matches!(headers.source_port, SOLICITATION | ADVERTISEMENT)
        || !matches!(headers.fragment, Fragment::No)
        || headers.transport_length < MESSAGE_LEN
    {
        return None;
    }
    // The target follows the eight bytes of the ICMPv6 header in both.
    Some(Subject {
        sender: headers.source,
        target: Address {
            words: packet.read(headers.transport as usize + 8)?,
        },
        announcement: headers.source_port == ADVERTISEMENT,
    })
}

/// Two 16-bit words of memory as one 32-bit word of memory.
#[inline(always)]
const fn word(halves: [u16; 2]) -> u32 {
    let [a, b] = halves;
    let (a, b) = (a.to_ne_bytes(), b.to_ne_bytes());
    u32::from_ne_bytes([a[0], a[1], b[0], b[1]])
}
