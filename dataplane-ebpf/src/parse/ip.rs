//! IPv4 (RFC 791) and IPv6 (RFC 8200).

use super::{Fragment, Headers, Packet, Wire, join, protocol};
use crate::abi::{Address, DropReason};

/// IPv4 header without options, as on the wire (network byte order).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total_length: u16,
    pub(crate) identification: u16,
    pub(crate) fragment: u16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}
// SAFETY: repr(C) integers without padding.
unsafe impl Wire for Ipv4 {}

/// IPv6 header, as on the wire (network byte order).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    /// Version 4 bits, traffic class 8, flow label 20.
    pub(crate) first_word: u32,
    pub(crate) payload_length: u16,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}
// SAFETY: repr(C) integers without padding.
unsafe impl Wire for Ipv6 {}

/// "More fragments" in the IPv4 flags.
const MORE_FRAGMENTS_V4: u16 = 0x2000;
/// Fragment offset, in units of eight bytes.
const OFFSET_MASK_V4: u16 = 0x1fff;
/// "More fragments" in the IPv6 fragment header.
const MORE_FRAGMENTS_V6: u16 = 0x0001;
/// Fragment offset, already in bytes.
const OFFSET_MASK_V6: u16 = 0xfff8;
/// Extension headers followed. Real traffic has one or two; a chain longer
/// than this is dropped, as RFC 9098 tells that networks do.
const MAX_EXTENSIONS: usize = 6;

#[inline(always)]
pub(super) fn parse_v4<P: Packet + ?Sized>(
    packet: &P,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    let at = headers.network;
    let ip: Ipv4 = packet.read(at.into()).ok_or(DropReason::Ipv4Truncated)?;
    headers.source = Address::from_ipv4_word(ip.source);
    headers.destination = Address::from_ipv4_word(ip.destination);
    headers.traffic_class = ip.tos;
    headers.protocol = ip.protocol;
    headers.identification = ip.identification as u32;

    let header_length = (ip.version_ihl & 0x0f) as u16 * 4;
    let present = packet.length() - u32::from(at);
    let total_length = match u16::from_be(ip.total_length) {
        // A segmentation-offloaded buffer beyond 64 KiB ("BIG TCP") says 0; for
        // a smaller one it is a lie that would take padding for headers.
        0 if present > u16::MAX.into() => present,
        length => length.into(),
    };
    if ip.version_ihl >> 4 != 4
        || header_length < size_of::<Ipv4>() as u16
        || total_length < header_length.into()
    {
        return Err(DropReason::Ipv4Malformed);
    }
    if total_length > present {
        return Err(DropReason::Ipv4Truncated);
    }
    headers.transport = at + header_length;
    headers.transport_length = total_length - u32::from(header_length);

    let fragment = u16::from_be(ip.fragment);
    headers.fragment = fragment_of(fragment & OFFSET_MASK_V4, fragment & MORE_FRAGMENTS_V4 != 0);
    // A second fragment that starts eight bytes in could overwrite the TCP
    // flags of the first (RFC 3128).
    if fragment & OFFSET_MASK_V4 == 1 && ip.protocol == protocol::TCP {
        return Err(DropReason::FragmentTiny);
    }
    Ok(())
}

/// Reads the fixed header.
#[inline(always)]
pub(super) fn parse_v6_fixed<P: Packet + ?Sized>(
    packet: &P,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    let at = headers.network;
    let ip: Ipv6 = packet.read(at.into()).ok_or(DropReason::Ipv6Truncated)?;
    let first_word = u32::from_be(ip.first_word);
    headers.source = Address { words: ip.source };
    headers.destination = Address {
        words: ip.destination,
    };
    headers.traffic_class = (first_word >> 20) as u8;
    headers.protocol = ip.next_header;
    if first_word >> 28 != 6 {
        return Err(DropReason::Ipv6Malformed);
    }
    headers.transport = at + size_of::<Ipv6>() as u16;
    let present = packet.length() - u32::from(headers.transport);
    headers.transport_length = match u16::from_be(ip.payload_length) {
        // A jumbogram (RFC 2675) or an offloaded buffer beyond 64 KiB: the
        // frame tells. A smaller packet that says 0 has nothing behind.
        0 if present > u16::MAX.into() => present,
        length => length.into(),
    };
    if headers.transport_length > present {
        return Err(DropReason::Ipv6Truncated);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn parse_v6<P: Packet + ?Sized>(
    packet: &P,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    parse_v6_fixed(packet, headers)?;
    for _ in 0..MAX_EXTENSIONS {
        join();
        // A later fragment's payload is the middle of something: no header
        // follows, whatever the number says.
        if !is_extension(headers.protocol) || matches!(headers.fragment, Fragment::Later) {
            return Ok(());
        }
        skip_extension(packet, headers)?;
    }
    if is_extension(headers.protocol) && !matches!(headers.fragment, Fragment::Later) {
        return Err(DropReason::Ipv6ExtensionsTooMany);
    }
    Ok(())
}

#[inline(always)]
fn skip_extension<P: Packet + ?Sized>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    // Every extension header starts with the next one's number and its own
    // length; the fragment header, of fixed length, has its offset behind.
    let [next, units, high, low]: [u8; 4] = packet
        .read(headers.transport.into())
        .ok_or(DropReason::Ipv6ExtensionTruncated)?;
    let taken = match headers.protocol {
        protocol::FRAGMENT => {
            let offset = u16::from_be_bytes([high, low]);
            let fragment = fragment_of(offset & OFFSET_MASK_V6, offset & MORE_FRAGMENTS_V6 != 0);
            // A second fragment header cannot make a piece whole again.
            if !matches!(fragment, Fragment::No) {
                headers.fragment = fragment;
            }
            headers.identification = packet
                .read(headers.transport as usize + 4)
                .ok_or(DropReason::Ipv6ExtensionTruncated)?;
            8
        }
        protocol::AUTHENTICATION => (units as u16 + 2) * 4,
        _ => (units as u16 + 1) * 8,
    };
    if u32::from(taken) > headers.transport_length {
        return Err(DropReason::Ipv6ExtensionTruncated);
    }
    headers.protocol = next;
    headers.transport += taken;
    headers.transport_length -= u32::from(taken);
    Ok(())
}

/// Whether the number is an extension header's that the parser walks through.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    /// One bit a number, for 0..64 and 128..192.
    const LOW: u64 = 1 << protocol::HOP_BY_HOP
        | 1 << protocol::ROUTING
        | 1 << protocol::FRAGMENT
        | 1 << protocol::AUTHENTICATION
        | 1 << protocol::DESTINATION;
    const HIGH: u64 =
        1 << (protocol::MOBILITY - 128) | 1 << (protocol::HIP - 128) | 1 << (protocol::SHIM6 - 128);
    match protocol >> 6 {
        0 => LOW >> protocol & 1 == 1,
        2 => HIGH >> (protocol - 128) & 1 == 1,
        _ => false,
    }
}

#[inline(always)]
const fn fragment_of(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        // An "atomic fragment" (RFC 6946) is whole.
        (0, false) => Fragment::No,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}
