//! ARP (RFC 826, RFC 5227) and neighbour discovery (RFC 4861) as Ethernet frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::Mac;

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Ethernet's header: destination, source, type.
const ETHERNET_LEN: usize = 14;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Hardware Ethernet, protocol IPv4, address lengths 6 and 4.
const ARP_START: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];
const NEXT_HEADER_ICMPV6: u8 = 58;
/// A router would have lowered it: neighbour discovery does not leave the link.
const HOP_LIMIT: u8 = 255;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The override flag, first of the reserved bytes of an advertisement.
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// What a neighbour says, or lets show, about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    /// Who has it, or is about to take it.
    pub(super) mac: Mac,
}

/// Asks whether anyone has an address, without saying that we do: an ARP probe (RFC 5227, 2.1.1)
/// or a solicitation from the unspecified address (RFC 4862, 5.4.2).
pub(super) fn probe(own: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(own, Ipv4Addr::UNSPECIFIED, address),
        IpAddr::V6(address) => {
            let target = solicited_node(address);
            let message = [NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            icmpv6(own, Ipv6Addr::UNSPECIFIED, target, message, address, &[])
        }
    }
}

/// Tells everyone that we have an address: an ARP announcement (RFC 5227, 2.3) or an unsolicited
/// advertisement (RFC 4861, 7.2.6).
pub(super) fn announcement(own: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(own, address, address),
        IpAddr::V6(address) => {
            let message = [NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
            let option = [&[TARGET_LINK_LAYER_ADDRESS, 1][..], &own.0].concat();
            icmpv6(own, address, ALL_NODES, message, address, &option)
        }
    }
}

/// The Ethernet addresses that must be listened to for the answers to a probe.
pub(super) fn groups(address: Ipv6Addr) -> [[u8; 6]; 2] {
    [
        multicast_mac(ALL_NODES),
        multicast_mac(solicited_node(address)),
    ]
}

/// What a received frame claims; `None` for anything else, and for what is malformed.
pub(super) fn claim(frame: &[u8]) -> Option<Claim> {
    let (header, payload) = frame.split_at_checked(ETHERNET_LEN)?;
    let source = Mac(*header.get(6..)?.first_chunk()?);
    match *header.get(12..)?.first_chunk()? {
        ETHERTYPE_ARP => arp_claim(payload),
        ETHERTYPE_IPV6 => icmpv6_claim(payload, source),
        _ => None,
    }
}

fn arp(own: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    [
        &BROADCAST[..],
        &own.0,
        &ETHERTYPE_ARP,
        &ARP_START,
        &ARP_REQUEST,
        &own.0,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    ]
    .concat()
}

fn arp_claim(packet: &[u8]) -> Option<Claim> {
    let operation: [u8; 2] = *packet.strip_prefix(&ARP_START)?.first_chunk()?;
    let mac = Mac(*packet.get(8..)?.first_chunk()?);
    let sender = Ipv4Addr::from(*packet.get(14..)?.first_chunk::<4>()?);
    let target = Ipv4Addr::from(*packet.get(24..)?.first_chunk::<4>()?);
    let address = match operation {
        // Someone else's probe: two who want the same address at the same time both see it.
        ARP_REQUEST if sender.is_unspecified() => target,
        ARP_REQUEST | ARP_REPLY => sender,
        _ => return None,
    };
    Some(Claim {
        address: address.into(),
        mac,
    })
}

/// `message` is the ICMPv6 header with a zero checksum and the four bytes that follow it.
fn icmpv6(
    own: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: [u8; 8],
    target: Ipv6Addr,
    option: &[u8],
) -> Vec<u8> {
    let mut body = [&message[..], &target.octets(), option].concat();
    let sum = checksum(source, destination, &body).to_be_bytes();
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&sum);
    }
    // A neighbour discovery message has at most 32 bytes here.
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [
        &multicast_mac(destination)[..],
        &own.0,
        &ETHERTYPE_IPV6,
        &[0x60, 0, 0, 0],
        &length,
        &[NEXT_HEADER_ICMPV6, HOP_LIMIT],
        &source.octets(),
        &destination.octets(),
        &body,
    ]
    .concat()
}

fn icmpv6_claim(packet: &[u8], source_mac: Mac) -> Option<Claim> {
    let (header, rest) = packet.split_at_checked(40)?;
    let length = usize::from(u16::from_be_bytes(*header.get(4..)?.first_chunk()?));
    let body = rest.get(..length)?;
    if header.get(6..8)? != [NEXT_HEADER_ICMPV6, HOP_LIMIT] {
        return None;
    }
    let source = Ipv6Addr::from(*header.get(8..)?.first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*header.get(24..)?.first_chunk::<16>()?);
    if checksum(source, destination, body) != 0 {
        return None;
    }
    let [kind, code] = *body.first_chunk()?;
    let target = Ipv6Addr::from(*body.get(8..)?.first_chunk::<16>()?);
    let claimed = code == 0
        && match kind {
            NEIGHBOUR_ADVERTISEMENT => true,
            // Someone else's duplicate address detection.
            NEIGHBOUR_SOLICITATION => source.is_unspecified(),
            _ => false,
        };
    claimed.then(|| Claim {
        address: target.into(),
        mac: link_layer_address(body.get(24..).unwrap_or_default()).unwrap_or(source_mac),
    })
}

/// The target link-layer address among the options of an advertisement.
fn link_layer_address(mut options: &[u8]) -> Option<Mac> {
    loop {
        let [kind, units] = *options.first_chunk()?;
        // In units of eight bytes; none at all would never end.
        let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
        if kind == TARGET_LINK_LAYER_ADDRESS {
            return option.get(2..)?.first_chunk().map(|mac| Mac(*mac));
        }
        if units == 0 {
            return None;
        }
        options = rest;
    }
}

/// RFC 4291, 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// RFC 2464, 7.
fn multicast_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// ICMPv6's checksum over the pseudo-header and the message (RFC 4443, 2.3); 0 when the message
/// holds the right one.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let pseudo = [
        &source.octets()[..],
        &destination.octets(),
        &length,
        &[0, 0, 0, NEXT_HEADER_ICMPV6],
        body,
    ]
    .concat();
    let mut sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn v4() -> IpAddr {
        "10.9.0.5".parse().unwrap()
    }

    fn v6() -> IpAddr {
        "2001:db8::5:6".parse().unwrap()
    }

    #[test]
    fn probes_and_announcements_are_claims() {
        for address in [v4(), v6()] {
            let expected = Some(Claim { address, mac: OWN });
            assert_eq!(claim(&probe(OWN, address)), expected);
            assert_eq!(claim(&announcement(OWN, address)), expected);
        }
    }

    #[test]
    fn an_arp_probe_does_not_name_us() {
        let frame = probe(OWN, v4());
        assert_eq!(frame.len(), 42);
        assert_eq!(&frame[..6], [0xff; 6]);
        assert_eq!(&frame[28..32], [0; 4], "the sender's address");
        assert_eq!(&frame[38..], [10, 9, 0, 5]);
    }

    /// Another library's reader finds nothing to complain about.
    #[test]
    fn an_independent_reader_takes_the_ipv6_frames() {
        for (frame, source, destination, kind) in [
            (probe(OWN, v6()), "::", "ff02::1:ff05:6", 135),
            (announcement(OWN, v6()), "2001:db8::5:6", "ff02::1", 136),
        ] {
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(ip)) = &packet.net else {
                panic!("no IPv6 in {frame:02x?}");
            };
            let header = ip.header().to_header();
            assert_eq!(Ipv6Addr::from(header.source).to_string(), source);
            assert_eq!(Ipv6Addr::from(header.destination).to_string(), destination);
            assert_eq!(header.hop_limit, 255);
            let Some(TransportSlice::Icmpv6(message)) = &packet.transport else {
                panic!("no ICMPv6 in {frame:02x?}");
            };
            let message = Icmpv6Slice::from_slice(message.slice()).unwrap();
            assert_eq!(message.type_u8(), kind);
            assert!(message.is_checksum_valid(header.source, header.destination));
        }
    }

    #[test]
    fn what_did_not_come_from_this_link_claims_nothing() {
        let good = announcement(OWN, v6());
        for (at, value) in [(21, 64), (14 + 40 + 2, 0), (14 + 40 + 1, 1)] {
            let mut frame = good.clone();
            frame[at] = value;
            assert_eq!(claim(&frame), None, "byte {at}");
        }
    }

    #[test]
    fn the_address_is_that_of_the_option() {
        let mut frame = announcement(OWN, v6());
        // As from a proxy.
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        assert_eq!(claim(&frame).map(|claim| claim.mac), Some(OWN));
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(
            start in prop::sample::select(vec![probe(OWN, v4()), announcement(OWN, v6())]),
            cut in 0..90_usize,
            changes in prop::collection::vec((0..90_usize, any::<u8>()), 0..6),
        ) {
            let mut frame = start;
            frame.truncate(cut);
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            let _ = claim(&frame);
        }

        #[test]
        fn any_option_lengths_end(options in prop::collection::vec(any::<u8>(), 0..64)) {
            let found = link_layer_address(&options);
            prop_assert!(found.is_none() || options.contains(&TARGET_LINK_LAYER_ADDRESS));
        }
    }
}
