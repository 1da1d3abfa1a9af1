//! Packets for tests, put together byte by byte from the standards. Shares
//! nothing with the parsers under test, so that it can contradict them; used by
//! the unit tests of the parsers and by the tests in the kernel.

pub mod random;
mod refused;
mod roce;
mod transport;

pub use refused::{Case, refused};
pub use roce::{Roce, aeth, cm, deth, reth};
pub use transport::{
    echo, icmp, neighbor_message, sctp, tcp, tcp_flags, tcp_with_offset, udp, udp_claiming,
};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// 802.1ad tag.
pub const QINQ: u16 = 0x88a8;
/// The frame's sender unless said otherwise.
pub const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The frame's receiver unless said otherwise.
pub const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Everything around a payload, from the Ethernet header to the last IPv6
/// extension header. Lengths are right unless [`Frame::claim`] says otherwise.
#[derive(Clone, Debug)]
pub struct Frame {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    tags: Vec<u16>,
    network: Network,
    tos: u8,
    claim: Option<u16>,
    padding: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Network {
    /// Nothing that is known of; the ethertype.
    None(u16),
    V4 {
        addresses: [Ipv4Addr; 2],
        options: u8,
        fragment: u16,
    },
    V6 {
        addresses: [Ipv6Addr; 2],
        /// Ethertype: IPv6, or RoCEv1, whose GRH has the same form.
        ether_type: u16,
        /// Number and bytes; the first byte is the next header's number.
        extensions: Vec<(u8, Vec<u8>)>,
    },
}

impl Frame {
    /// A frame of some ethertype.
    pub fn ethernet(ether_type: u16) -> Self {
        Self {
            destination_mac: DESTINATION_MAC,
            source_mac: SOURCE_MAC,
            tags: Vec::new(),
            network: Network::None(ether_type),
            tos: 0,
            claim: None,
            padding: Vec::new(),
        }
    }

    /// IPv4 from 10.0.0.1 to 10.0.0.2.
    pub fn v4() -> Self {
        Self {
            network: Network::V4 {
                addresses: [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)],
                options: 0,
                fragment: 0,
            },
            ..Self::ethernet(0)
        }
    }

    /// IPv6 from fd00::1 to fd00::2.
    pub fn v6() -> Self {
        Self {
            network: Network::V6 {
                addresses: [1, 2].map(|last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)),
                ether_type: 0x86dd,
                extensions: Vec::new(),
            },
            ..Self::ethernet(0)
        }
    }

    /// RoCEv1 with a global route header from fe80::1 to fe80::2.
    pub fn grh() -> Self {
        Self {
            network: Network::V6 {
                addresses: [1, 2].map(|last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)),
                ether_type: 0x8915,
                extensions: Vec::new(),
            },
            ..Self::ethernet(0)
        }
    }

    /// IPv4 or IPv6 as the addresses are, which must be of one family.
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        let mut frame = match source {
            IpAddr::V4(_) => Self::v4(),
            IpAddr::V6(_) => Self::v6(),
        };
        match (&mut frame.network, source, destination) {
            (Network::V4 { addresses, .. }, IpAddr::V4(source), IpAddr::V4(destination)) => {
                *addresses = [source, destination];
            }
            (Network::V6 { addresses, .. }, IpAddr::V6(source), IpAddr::V6(destination)) => {
                *addresses = [source, destination];
            }
            _ => panic!("{source} and {destination} are of different families"),
        }
        frame
    }

    /// Swaps the addresses: the way back.
    pub fn reversed(mut self) -> Self {
        match &mut self.network {
            Network::None(_) => {}
            Network::V4 { addresses, .. } => addresses.reverse(),
            Network::V6 { addresses, .. } => addresses.reverse(),
        }
        std::mem::swap(&mut self.source_mac, &mut self.destination_mac);
        self
    }

    /// Sets the MAC addresses.
    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// Adds VLAN tags of these protocol numbers, outermost first.
    pub fn tags(mut self, tags: &[u16]) -> Self {
        self.tags = tags.to_vec();
        self
    }

    /// Sets the type of service or traffic class.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Adds so many 32-bit words of IPv4 options.
    pub fn options(mut self, words: u8) -> Self {
        if let Network::V4 { options, .. } = &mut self.network {
            *options = words;
        }
        self
    }

    /// Makes it a fragment: IPv4 by the header's fields, IPv6 by a fragment
    /// header in this place of the chain. `offset` is in bytes.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        match &mut self.network {
            Network::None(_) => {}
            Network::V4 { fragment, .. } => *fragment = (offset / 8) | (u16::from(more) << 13),
            Network::V6 { extensions, .. } => {
                let [high, low] = (offset & 0xfff8 | u16::from(more)).to_be_bytes();
                extensions.push((44, vec![0, 0, high, low, 0xca, 0xfe, 0xba, 0xbe]));
            }
        }
        self
    }

    /// Appends an IPv6 extension header with this value in its length field.
    pub fn extension(mut self, number: u8, length: u8) -> Self {
        if let Network::V6 { extensions, .. } = &mut self.network {
            let bytes = match number {
                51 => (usize::from(length) + 2) * 4,
                _ => (usize::from(length) + 1) * 8,
            };
            let mut header = vec![0; bytes];
            header[1] = length;
            extensions.push((number, header));
        }
        self
    }

    /// Sets IPv4's total length, or IPv6's payload length, whatever the truth.
    pub fn claim(mut self, length: u16) -> Self {
        self.claim = Some(length);
        self
    }

    /// Appends bytes behind the IP packet, as Ethernet does to short frames.
    pub fn padding(mut self, bytes: &[u8]) -> Self {
        self.padding = bytes.to_vec();
        self
    }

    /// The frame's bytes around a payload of an IP protocol.
    pub fn carry(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            // Priority 0, VLAN 42.
            bytes.extend(42_u16.to_be_bytes());
        }
        let header = match &self.network {
            Network::None(ether_type) => ether_type.to_be_bytes().to_vec(),
            Network::V4 {
                addresses,
                options,
                fragment,
            } => self.v4_header(*addresses, *options, *fragment, protocol, payload.len()),
            Network::V6 {
                addresses,
                ether_type,
                extensions,
            } => self.v6_headers(*addresses, *ether_type, extensions, protocol, payload.len()),
        };
        bytes.extend(header);
        bytes.extend(payload);
        bytes.extend(&self.padding);
        bytes
    }

    /// RFC 791, section 3.1, behind its ethertype.
    fn v4_header(
        &self,
        [source, destination]: [Ipv4Addr; 2],
        options: u8,
        fragment: u16,
        protocol: u8,
        payload: usize,
    ) -> Vec<u8> {
        let length = 20 + 4 * usize::from(options);
        let total = self.claim.unwrap_or((length + payload) as u16);
        let mut header = vec![0x40 | (5 + options), self.tos];
        header.extend(total.to_be_bytes());
        header.extend([0xbe, 0xef]);
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        // No operation.
        header.resize(length, 1);
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum);
        [vec![0x08, 0x00], header].concat()
    }

    /// RFC 8200, sections 3 and 4, behind the ethertype.
    fn v6_headers(
        &self,
        [source, destination]: [Ipv6Addr; 2],
        ether_type: u16,
        extensions: &[(u8, Vec<u8>)],
        protocol: u8,
        payload: usize,
    ) -> Vec<u8> {
        let numbers: Vec<u8> = extensions.iter().map(|(number, _)| *number).collect();
        let next = |at: usize| numbers.get(at).copied().unwrap_or(protocol);
        let chain: Vec<u8> = extensions
            .iter()
            .enumerate()
            .flat_map(|(at, (_, bytes))| {
                let mut bytes = bytes.clone();
                bytes[0] = next(at + 1);
                bytes
            })
            .collect();
        let length = self.claim.unwrap_or((chain.len() + payload) as u16);
        let mut header = ether_type.to_be_bytes().to_vec();
        header.extend((6 << 28 | u32::from(self.tos) << 20 | 0x12345).to_be_bytes());
        header.extend(length.to_be_bytes());
        header.extend([next(0), 64]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend(chain);
        header
    }
}

/// The internet checksum (RFC 1071) of a header whose own field is zero.
fn checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_be_bytes()
}
