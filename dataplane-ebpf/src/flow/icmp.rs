//! The packet that an ICMP error quotes (RFC 792, RFC 4443).

use super::key;
use crate::{
    abi::{Address, Direction, FlowKey},
    parse::{
        Headers, Packet, ether_type,
        ip::{Ipv4, Ipv6},
        protocol,
    },
    roce,
};

/// Bytes of an ICMP error before the packet that it quotes.
const ERROR_LEN: usize = 8;

/// Fragment offset of an IPv4 packet, in units of eight bytes.
const OFFSET_MASK: u16 = 0x1fff;

/// The connection of the packet that an ICMP error quotes; `headers` are the
/// error's, which goes in `direction`. `None` where the quotation is too short
/// to tell, or starts with an IPv6 extension header.
#[inline(always)]
pub fn quoted<P: Packet + ?Sized>(
    packet: &P,
    headers: &Headers,
    direction: Direction,
    endpoint: u32,
) -> Option<FlowKey> {
    let at = headers.transport as usize + ERROR_LEN;
    let mut inner = Headers {
        ether_type: headers.ether_type,
        ..Headers::default()
    };
    let transport = if headers.ether_type == ether_type::IPV4 {
        let ip: Ipv4 = packet.read(at)?;
        let length = (ip.version_ihl & 0x0f) as usize * 4;
        // A later piece has no ports.
        if ip.version_ihl >> 4 != 4
            || length < size_of::<Ipv4>()
            || u16::from_be(ip.fragment) & OFFSET_MASK != 0
        {
            return None;
        }
        inner.source = Address::from_ipv4_word(ip.source);
        inner.destination = Address::from_ipv4_word(ip.destination);
        inner.protocol = ip.protocol;
        at + length
    } else {
        let ip: Ipv6 = packet.read(at)?;
        if u32::from_be(ip.first_word) >> 28 != 6 {
            return None;
        }
        inner.source = Address { words: ip.source };
        inner.destination = Address {
            words: ip.destination,
        };
        inner.protocol = ip.next_header;
        at + size_of::<Ipv6>()
    };
    // At least eight bytes of the transport header are quoted.
    let [first, second, third, _]: [u16; 4] = packet.read(transport)?;
    let mut identifier = 0;
    match inner.protocol {
        protocol::ICMP | protocol::ICMPV6 => {
            inner.source_port = u16::from_be(first) >> 8;
            identifier = third;
        }
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            inner.source_port = u16::from_be(first);
            inner.destination_port = u16::from_be(second);
        }
        _ => {}
    }
    // Nothing of the BTH may be quoted: the port has to do.
    let is_roce = inner.destination_port == roce::UDP_PORT;
    Some(key(
        &inner,
        direction.opposite(),
        endpoint,
        identifier,
        is_roce,
    ))
}
