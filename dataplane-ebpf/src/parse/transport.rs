//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792) and ICMPv6
//! (RFC 4443).

use super::{Fragment, Headers, Packet, protocol};
use crate::abi::DropReason;

/// Bytes of a TCP header without options.
const TCP_LEN: u32 = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: u32 = 8;
/// Bytes of an SCTP common header.
const SCTP_LEN: u32 = 12;
/// Bytes of an ICMP or ICMPv6 header, with the word that each type uses in
/// its own way.
const ICMP_LEN: u32 = 8;

#[inline(always)]
pub(super) fn parse<P: Packet + ?Sized>(
    packet: &P,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    if let Fragment::Later = headers.fragment {
        return Ok(());
    }
    let needed = match headers.protocol {
        protocol::TCP => TCP_LEN,
        protocol::UDP => UDP_LEN,
        protocol::SCTP => SCTP_LEN,
        protocol::ICMP | protocol::ICMPV6 => ICMP_LEN,
        _ => return Ok(()),
    };
    let truncated = match headers.fragment {
        Fragment::First => DropReason::FragmentTiny,
        _ => DropReason::TransportTruncated,
    };
    if headers.transport_length < needed {
        return Err(truncated);
    }
    let at = headers.transport as usize;
    if let protocol::ICMP | protocol::ICMPV6 = headers.protocol {
        let [kind, code]: [u8; 2] = packet.read(at).ok_or(truncated)?;
        headers.source_port = kind as u16;
        headers.destination_port = code as u16;
        return Ok(());
    }
    let [source, destination]: [u16; 2] = packet.read(at).ok_or(truncated)?;
    headers.source_port = u16::from_be(source);
    headers.destination_port = u16::from_be(destination);
    if headers.protocol == protocol::TCP {
        let [offset, flags]: [u8; 2] = packet.read(at + 12).ok_or(truncated)?;
        headers.tcp_flags = flags;
        let length = (offset >> 4) as u32 * 4;
        if length < TCP_LEN {
            return Err(DropReason::TransportMalformed);
        }
        if length > headers.transport_length {
            return Err(truncated);
        }
    }
    if headers.protocol == protocol::UDP {
        let length: u16 = packet.read(at + 4).ok_or(truncated)?;
        let length = u32::from(u16::from_be(length));
        // 0 is a jumbogram's or an offloaded buffer's; a first fragment tells
        // the length of the whole.
        let too_long =
            length > headers.transport_length && matches!(headers.fragment, Fragment::No);
        if length != 0 && length < UDP_LEN || too_long {
            return Err(DropReason::TransportMalformed);
        }
    }
    Ok(())
}
