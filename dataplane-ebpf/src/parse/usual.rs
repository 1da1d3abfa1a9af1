//! The short way, for the packets that nearly all traffic is made of.

use super::{ETHERNET_LEN, Fragment, Headers, Packet, ether_type, ip, protocol, transport};
use crate::roce;

/// Parses a packet of the usual kind: untagged, IPv4 without options or IPv6
/// without extension headers, whole, with TCP in it or with UDP that is not
/// RoCE's. `None` for every other packet, and where anything is amiss:
/// [`parse`](super::parse) tells.
///
/// It is the same parser, on few enough ways that the programs can have what it
/// reads in registers. What a caller does not look at is not even read.
#[inline(always)]
pub fn usual<P: Packet + ?Sized>(packet: &P) -> Option<Headers> {
    let ether_type: u16 = packet.read(12)?;
    let mut headers = Headers {
        ether_type: u16::from_be(ether_type),
        network: ETHERNET_LEN as u16,
        ..Headers::default()
    };
    match headers.ether_type {
        ether_type::IPV4 => {
            ip::parse_v4(packet, &mut headers).ok()?;
            let whole = matches!(headers.fragment, Fragment::No);
            if !whole || headers.transport != headers.network + size_of::<ip::Ipv4>() as u16 {
                return None;
            }
        }
        ether_type::IPV6 => ip::parse_v6_fixed(packet, &mut headers).ok()?,
        _ => return None,
    }
    if !matches!(headers.protocol, protocol::TCP | protocol::UDP) {
        return None;
    }
    transport::parse(packet, &mut headers).ok()?;
    let is_roce = headers.protocol == protocol::UDP && headers.destination_port == roce::UDP_PORT;
    (!is_roce).then_some(headers)
}
