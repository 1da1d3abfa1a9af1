//! The parser against the `etherparse` crate on the same bytes. Where the two
//! differ on purpose, [`Difference`] names how and why; any other difference
//! fails.

use etherparse::{
    EtherType, IpNumber, LenSource, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice,
    err::{Layer, ipv6_exts, packet::SliceError},
};
use proptest::prelude::*;

use super::*;
use crate::packets::random;

/// What etherparse makes of a frame that we read otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// It opens MACsec and 0x9100 tags and a third tag; we treat the former
    /// two as unknown ethertypes and refuse the latter.
    LinkLayer,
    /// It checks ARP's lengths; to us ARP is opaque.
    Arp,
    /// It walks through IPv4's authentication header; to us IPv4 has no
    /// extension headers (the kernel's own parsers see it so).
    AuthenticationInV4,
    /// It takes an IPv6 payload length of 0 for "up to the end of the frame" at
    /// any size, and so takes Ethernet's padding for headers. We believe a zero
    /// only of a buffer beyond 64 KiB.
    ZeroPayloadLength,
    /// It stops at mobility, host identity and Shim6 headers and refuses a
    /// hop-by-hop header that is not the first, and an authentication header
    /// of its least length. We walk on: firewalls that stop there can be
    /// passed by. We stop after six.
    Chain,
    /// It walks headers behind the fragment header of a later fragment, where
    /// there are none.
    BehindLaterFragment,
    /// It reads no ports of a first fragment and so does not refuse one that
    /// is too short for them, or one that would overwrite them.
    FirstFragment,
    /// It refuses ICMP messages that are shorter than their type has them, and
    /// broken IGMP. We read type and code only.
    MessageLength,
}

/// Numbers of the headers behind IPv6's own, to the first that neither of us
/// walks through; what is behind a later fragment's header is not among them.
fn chain(frame: &[u8], network: usize) -> Vec<u8> {
    let mut numbers = vec![frame[network + 6]];
    let mut at = network + 40;
    while let Some(number) = numbers.last().copied()
        && [0, 43, 44, 51, 60, 135, 139, 140].contains(&number)
        && let Some([next, units, high, low]) = frame.get(at..at + 4)
    {
        numbers.push(*next);
        at += match number {
            44 if *high != 0 || *low & 0xf8 != 0 => break,
            44 => 8,
            51 => (usize::from(*units) + 2) * 4,
            _ => (usize::from(*units) + 1) * 8,
        };
    }
    numbers
}

/// Why the two may differ about this frame, from its bytes alone.
fn differences(frame: &[u8]) -> Vec<Difference> {
    let mut found = Vec::new();
    let ether_type = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut at = 12;
    let mut tags = 0;
    while matches!(ether_type(at), Some(0x8100 | 0x88a8)) {
        at += 4;
        tags += 1;
    }
    if tags > 2 || matches!(ether_type(at), Some(0x9100 | 0x88e5)) {
        found.push(Difference::LinkLayer);
    }
    let network = at + 2;
    match ether_type(at) {
        Some(0x0806) => found.push(Difference::Arp),
        Some(0x0800) if frame.len() >= network + 20 => {
            let fragment = u16::from_be_bytes([frame[network + 6], frame[network + 7]]);
            if fragment & 0x3fff != 0 {
                found.push(Difference::FirstFragment);
            }
            match frame[network + 9] {
                51 => found.push(Difference::AuthenticationInV4),
                1 | 2 | 58 => found.push(Difference::MessageLength),
                _ => {}
            }
        }
        Some(0x86dd) if frame.len() >= network + 40 => {
            if frame[network + 4..network + 6] == [0, 0] {
                found.push(Difference::ZeroPayloadLength);
            }
            let numbers = chain(frame, network);
            let walked = &numbers[..numbers.len() - 1];
            if walked.iter().skip(1).any(|number| *number == 0)
                || numbers
                    .iter()
                    .any(|number| matches!(number, 51 | 135 | 139 | 140))
                || walked.len() >= 6
            {
                found.push(Difference::Chain);
            }
            if numbers.contains(&44) {
                found.push(Difference::BehindLaterFragment);
                found.push(Difference::FirstFragment);
            }
            if matches!(numbers.last(), Some(1 | 2 | 58)) {
                found.push(Difference::MessageLength);
            }
        }
        _ => {}
    }
    found
}

/// The layer at which we refuse.
fn layer_of(reason: DropReason) -> &'static str {
    match reason {
        DropReason::EthernetTruncated => "ethernet",
        DropReason::VlanTruncated | DropReason::VlanTooDeep => "vlan",
        DropReason::Ipv4Truncated | DropReason::Ipv4Malformed => "ipv4",
        DropReason::Ipv6Truncated | DropReason::Ipv6Malformed => "ipv6",
        DropReason::Ipv6ExtensionTruncated | DropReason::Ipv6ExtensionsTooMany => "extension",
        _ => "transport",
    }
}

/// The layer at which etherparse refuses.
fn layer_of_theirs(error: &SliceError) -> &'static str {
    match error {
        SliceError::Len(error) => match error.layer {
            Layer::Ethernet2Header => "ethernet",
            Layer::VlanHeader => "vlan",
            Layer::Ipv4Header | Layer::Ipv4Packet => "ipv4",
            Layer::Ipv6Header | Layer::Ipv6Packet => "ipv6",
            Layer::Ipv6ExtHeader
            | Layer::Ipv6HopByHopHeader
            | Layer::Ipv6DestOptionsHeader
            | Layer::Ipv6RouteHeader
            | Layer::Ipv6FragHeader
            | Layer::IpAuthHeader => "extension",
            _ => "transport",
        },
        SliceError::Ipv4(_) => "ipv4",
        SliceError::Ipv6(_) => "ipv6",
        SliceError::Ipv6Exts(_) => "extension",
        SliceError::Tcp(_) => "transport",
        _ => "another",
    }
}

/// Both accept: what they say must be the same.
fn compare(frame: &[u8], ours: &Headers, theirs: &SlicedPacket<'_>, excused: &[Difference]) {
    let tags = theirs
        .link_exts
        .iter()
        .filter(|extension| matches!(extension, LinkExtSlice::Vlan(_)))
        .count();
    assert_eq!(usize::from(ours.network), 14 + 4 * tags);
    let ether_type = theirs.ether_payload().map(|payload| payload.ether_type);
    assert_eq!(ether_type, Some(EtherType(ours.ether_type)));

    let (source, destination, class) = match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let class = header.dcp().value() << 2 | header.ecn().value();
            let addresses = [header.source_addr(), header.destination_addr()];
            let [source, destination] = addresses.map(|ip| Address::from(std::net::IpAddr::V4(ip)));
            (source, destination, class)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let [source, destination] =
                [header.source(), header.destination()].map(Address::from_octets);
            (source, destination, header.traffic_class())
        }
        _ => return,
    };
    assert_eq!((ours.source, ours.destination), (source, destination));
    assert_eq!(ours.traffic_class, class);
    let walks_on = [
        Difference::AuthenticationInV4,
        Difference::ZeroPayloadLength,
        Difference::Chain,
    ];
    if walks_on
        .iter()
        .any(|difference| excused.contains(difference))
    {
        return;
    }

    let Some(payload) = theirs.ip_payload() else {
        panic!("no payload in {theirs:?}")
    };
    assert_eq!(payload.fragmented, ours.fragment != Fragment::No);
    if ours.fragment != Fragment::Later || theirs_is_v4(theirs) {
        assert_eq!(payload.ip_number, IpNumber(ours.protocol));
        let offset = payload.payload.as_ptr() as usize - frame.as_ptr() as usize;
        assert_eq!(usize::from(ours.transport), offset);
        assert_eq!(ours.transport_length as usize, payload.payload.len());
    }
    let ports = match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Icmpv4(icmp)) => (icmp.type_u8().into(), icmp.code_u8().into()),
        Some(TransportSlice::Icmpv6(icmp)) => (icmp.type_u8().into(), icmp.code_u8().into()),
        // It does not know SCTP, reads no ports of fragments; IGMP has none.
        _ => return,
    };
    assert_eq!((ours.source_port, ours.destination_port), ports);
}

fn theirs_is_v4(theirs: &SlicedPacket<'_>) -> bool {
    matches!(theirs.net, Some(NetSlice::Ipv4(_)))
}

/// Holds the two against each other.
fn check(frame: &[u8]) {
    let excused = differences(frame);
    if excused.contains(&Difference::LinkLayer) {
        return;
    }
    let ours = parse(frame);
    let theirs = SlicedPacket::from_ethernet(frame);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => compare(frame, ours, theirs, &excused),
        (Err(reason), Err(error)) => {
            if excused.is_empty() {
                assert_eq!(
                    layer_of(*reason),
                    layer_of_theirs(error),
                    "{reason:?}, {error:?}"
                );
            }
        }
        (Err(reason), Ok(_)) => {
            let differences: &[_] = match reason {
                DropReason::FragmentTiny => &[Difference::FirstFragment],
                DropReason::TransportMalformed => &[
                    Difference::FirstFragment,
                    Difference::Chain,
                    Difference::AuthenticationInV4,
                ],
                DropReason::Ipv6ExtensionTruncated | DropReason::Ipv6ExtensionsTooMany => {
                    &[Difference::Chain, Difference::ZeroPayloadLength]
                }
                DropReason::TransportTruncated => {
                    // SCTP's header is not in its book.
                    if parse_ignoring_the_end(frame) == Some(protocol::SCTP) {
                        return;
                    }
                    &[Difference::Chain, Difference::ZeroPayloadLength]
                }
                _ => &[],
            };
            assert!(
                differences
                    .iter()
                    .any(|difference| excused.contains(difference)),
                "only we refuse: {reason:?}, {excused:?}"
            );
        }
        (Ok(_), Err(error)) => {
            let differences: &[_] = match error {
                SliceError::Len(error) if error.layer == Layer::Arp => &[Difference::Arp],
                SliceError::Len(error)
                    if matches!(
                        error.layer,
                        Layer::Icmpv4
                            | Layer::Icmpv4Timestamp
                            | Layer::Icmpv4TimestampReply
                            | Layer::Icmpv6
                            | Layer::Igmp
                    ) =>
                {
                    &[Difference::MessageLength]
                }
                SliceError::Len(_) | SliceError::Tcp(_) | SliceError::Ipv4Exts(_) => &[
                    Difference::AuthenticationInV4,
                    Difference::ZeroPayloadLength,
                    Difference::BehindLaterFragment,
                    Difference::Chain,
                ],
                SliceError::Ipv6Exts(ipv6_exts::HeaderError::HopByHopNotAtStart)
                | SliceError::Ipv6Exts(ipv6_exts::HeaderError::IpAuth(_)) => &[
                    Difference::Chain,
                    Difference::BehindLaterFragment,
                    Difference::ZeroPayloadLength,
                ],
                _ => &[],
            };
            assert!(
                differences
                    .iter()
                    .any(|difference| excused.contains(difference)),
                "only etherparse refuses: {error:?}, {excused:?}"
            );
        }
    }
}

/// The protocol to which the chain leads, refused or not.
fn parse_ignoring_the_end(frame: &[u8]) -> Option<u8> {
    let mut headers = Headers::default();
    parse_into(frame, &mut headers).err()?;
    Some(headers.protocol)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn agrees_with_etherparse(frame in random::frame()) {
        check(&frame);
    }

    /// Nothing excuses a difference about what everybody sends.
    #[test]
    fn agrees_with_etherparse_about_plain_packets(frame in random::plain()) {
        prop_assert_eq!(differences(&frame), vec![]);
        prop_assert!(parse(&frame[..]).is_ok());
        check(&frame);
    }
}

#[test]
fn a_zero_payload_length_is_read_otherwise_by_etherparse() {
    let frame = crate::packets::Frame::v6()
        .claim(0)
        .carry(17, &crate::packets::udp(1, 2, &[]));
    let theirs = SlicedPacket::from_ethernet(&frame).unwrap();
    let source = theirs.ip_payload().map(|payload| payload.len_source);
    assert_eq!(source, Some(LenSource::Slice));
    assert_eq!(differences(&frame), [Difference::ZeroPayloadLength]);
}
