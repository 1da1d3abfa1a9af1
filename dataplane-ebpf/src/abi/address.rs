//! Addresses of both families as one type.

/// An IPv6 address, or an IPv4 address mapped into IPv6 (`::ffff:a.b.c.d`,
/// RFC 4291 section 2.5.5.2), in network byte order.
///
/// Kept as words because 32-bit accesses are what packet memory and verifier
/// like best.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Four words, each in network byte order.
    pub words: [u32; 4],
}

impl Address {
    /// An IPv4 address; `word` is in network byte order.
    #[inline(always)]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self {
            words: [0, 0, 0xffff_u32.to_be(), word],
        }
    }

    /// From the 16 bytes of an IPv6 address.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let o = octets;
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The 16 bytes of the IPv6 address.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = self.words;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    /// A mapped address becomes the IPv4 address that it stands for.
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_convert_both_ways() {
        for text in ["10.1.2.3", "fd00::1:2"] {
            let ip: std::net::IpAddr = text.parse().unwrap();
            assert_eq!(std::net::IpAddr::from(Address::from(ip)), ip);
        }
        let word = u32::from_ne_bytes([10, 1, 2, 3]);
        let ip = std::net::IpAddr::from([10, 1, 2, 3]);
        assert_eq!(Address::from_ipv4_word(word), Address::from(ip));
    }
}
