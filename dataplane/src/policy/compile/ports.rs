//! Ports as prefixes, the form in which a longest-prefix match can hold them.

use crate::policy::model::{PortRange, Protocol};

/// What an entry says of protocol and port. Ordered from open to exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every protocol, those without ports included.
    All,
    /// Every port of one protocol (IANA number).
    Protocol(u8),
    /// The ports that share the first `bits` bits with `port`.
    Prefix {
        /// IP protocol (IANA number).
        protocol: u8,
        /// The lowest of them.
        port: u16,
        /// 1 to 16.
        bits: u8,
    },
}

impl Ports {
    /// One port.
    pub fn exact(protocol: Protocol, port: u16) -> Self {
        Self::Prefix {
            protocol: protocol.number(),
            port,
            bits: 16,
        }
    }

    /// A range as the fewest prefixes: at most 30.
    pub fn of_range(protocol: Protocol, range: PortRange) -> Vec<Self> {
        let protocol = protocol.number();
        let mut prefixes = Vec::new();
        let (mut next, last) = (u32::from(range.first), u32::from(range.last));
        while next <= last {
            // The largest block that begins here and does not go too far.
            let mut size_bits = next.trailing_zeros().min(16);
            while next + (1 << size_bits) - 1 > last {
                size_bits -= 1;
            }
            prefixes.push(match size_bits {
                16 => Self::Protocol(protocol),
                _ => Self::Prefix {
                    protocol,
                    port: next as u16,
                    bits: 16 - size_bits as u8,
                },
            });
            next += 1 << size_bits;
        }
        prefixes
    }

    /// The ways in which an entry can match a packet, the closest first.
    /// `port` is absent for protocols without ports.
    pub fn candidates(protocol: u8, port: Option<u16>) -> impl Iterator<Item = Self> {
        let prefixes = port.into_iter().flat_map(move |port| {
            (1..=16).rev().map(move |bits: u8| Self::Prefix {
                protocol,
                port: port & (u16::MAX << (16 - bits)),
                bits,
            })
        });
        prefixes.chain([Self::Protocol(protocol), Self::All])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
        let range = PortRange { first, last };
        let ports = Ports::of_range(Protocol::Tcp, range).into_iter();
        ports
            .map(|ports| match ports {
                Ports::Prefix { port, bits, .. } => (port, bits),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        assert_eq!(prefixes(80, 80), [(80, 16)]);
        assert_eq!(prefixes(8000, 8003), [(8000, 14)]);
        assert_eq!(prefixes(1, 3), [(1, 16), (2, 15)]);
        assert_eq!(prefixes(1024, 65535).len(), 6);
        // The worst case.
        assert_eq!(prefixes(1, 65534).len(), 30);
    }

    proptest::proptest! {
        #[test]
        fn a_range_covers_its_ports_and_no_others(a: u16, b: u16, port: u16) {
            let range = PortRange { first: a.min(b), last: a.max(b) };
            let prefixes = Ports::of_range(Protocol::Udp, range);
            let matching = Ports::candidates(17, Some(port)).filter(|one| prefixes.contains(one));
            let inside = (range.first..=range.last).contains(&port);
            proptest::prop_assert_eq!(matching.count(), usize::from(inside));
        }
    }
}
