//! What policy is made of: identities of addresses, and an endpoint's allowances.

use super::{Address, Direction};
use crate::parse::protocol;

/// Identities: numbers for sets of addresses that all policies of this node
/// treat alike. Values of `identity` and `identity_cidr`.
pub mod identity {
    /// An address in no set; in a [`PolicyData`](super::PolicyData): any peer.
    pub const ANY: u32 = 0;
    /// The first of the node's own: one for each class of its addresses, up to
    /// [`FIRST`].
    pub const NODE: u32 = 1;
    /// The first that is not reserved.
    pub const FIRST: u32 = 256;

    /// Whether it is one of the node's own.
    #[inline(always)]
    pub const fn is_node(identity: u32) -> bool {
        identity.wrapping_sub(NODE) < FIRST - NODE
    }
}

/// Rules whose hits are counted; a larger number in a [`PolicyRule`] allows
/// just the same and is not counted. Index bound of `rule_hits`.
pub const MAX_RULES: u32 = 65536;

/// What one entry of a policy matches. In a key, port, then protocol and port,
/// may be left open by a shorter prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyData {
    /// The peer's identity; [`identity::ANY`] is every peer.
    pub identity: u32,
    /// IP protocol (IANA).
    pub protocol: u8,
    /// Always zero.
    pub pad: u8,
    /// Port, network byte order.
    pub port: u16,
}

/// Key of a policy, an inner map of `policy`: a longest-prefix match.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// Leading bits of `data` that must match, one of the lengths that the
    /// constructors give.
    pub prefix_len: u32,
    /// What must match.
    pub data: PolicyData,
}

impl PolicyKey {
    /// Bits of the identity alone.
    pub const IDENTITY_BITS: u32 = 32;
    /// Bits of identity and protocol.
    pub const PROTOCOL_BITS: u32 = 48;
    /// Bits of identity, protocol and port.
    pub const PORT_BITS: u32 = 64;

    /// Every packet of the peer.
    pub const fn all(identity: u32) -> Self {
        Self {
            prefix_len: Self::IDENTITY_BITS,
            data: PolicyData {
                identity,
                protocol: 0,
                pad: 0,
                port: 0,
            },
        }
    }

    /// Every packet of the peer and protocol.
    pub const fn protocol(identity: u32, protocol: u8) -> Self {
        Self {
            prefix_len: Self::PROTOCOL_BITS,
            data: PolicyData {
                identity,
                protocol,
                pad: 0,
                port: 0,
            },
        }
    }

    /// The ports whose highest `bits` (at most 16) bits are those of `port`,
    /// given in host byte order.
    ///
    /// ```
    /// # use dataplane_ebpf::abi::PolicyKey;
    /// // TCP ports 8080 to 8087.
    /// let key = PolicyKey::ports(256, 6, 8083, 13);
    /// assert_eq!((key.prefix_len, u16::from_be(key.data.port)), (61, 8080));
    /// ```
    pub const fn ports(identity: u32, protocol: u8, port: u16, bits: u32) -> Self {
        let mask = if bits == 0 { 0 } else { !0 << (16 - bits) };
        Self {
            prefix_len: Self::PROTOCOL_BITS + bits,
            data: PolicyData {
                identity,
                protocol,
                pad: 0,
                port: (port & mask).to_be(),
            },
        }
    }

    /// One port, given in host byte order.
    pub const fn port(identity: u32, protocol: u8, port: u16) -> Self {
        Self::ports(identity, protocol, port, 16)
    }

    /// What a packet looks for: the peer's identity, its protocol, and the
    /// destination port (host byte order) of its connection's first packet.
    /// Of a protocol without ports only entries that leave the port open match.
    #[inline(always)]
    pub const fn of_packet(identity: u32, protocol: u8, port: u16) -> Self {
        if has_ports(protocol) {
            Self::port(identity, protocol, port)
        } else {
            Self::protocol(identity, protocol)
        }
    }
}

/// Whether policy tells the protocol's ports apart.
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Value of a policy: what allows the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PolicyRule {
    /// The rule's number on this node, index of `rule_hits`.
    pub rule: u32,
    /// None is defined yet.
    pub flags: u32,
}

/// Index into `policy` of an endpoint's policy for one direction.
pub const fn policy_index(endpoint: u32, direction: Direction) -> u32 {
    endpoint * 2 + direction as u32
}

/// Key of `identity_cidr` and of `block_list`: a prefix of an address. An IPv4
/// prefix is mapped into IPv6, 96 bits longer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixKey {
    /// Length in bits.
    pub prefix_len: u32,
    /// The prefix; bits past its length are zero.
    pub address: Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_keeps_its_leading_bits_only() {
        assert_eq!(
            PolicyKey::ports(7, protocol::TCP, 443, 16),
            PolicyKey::port(7, protocol::TCP, 443)
        );
        assert_eq!(
            PolicyKey::ports(7, protocol::TCP, 443, 0),
            PolicyKey::protocol(7, protocol::TCP)
        );
        let upper_half = PolicyKey::ports(7, protocol::UDP, 40_000, 1);
        assert_eq!(u16::from_be(upper_half.data.port), 32_768);
        assert_eq!(upper_half.prefix_len, 49);
    }

    #[test]
    fn protocols_without_ports_do_not_look_for_one() {
        assert_eq!(
            PolicyKey::of_packet(7, protocol::ICMP, 8),
            PolicyKey::protocol(7, protocol::ICMP)
        );
        assert_eq!(
            PolicyKey::of_packet(7, protocol::SCTP, 8),
            PolicyKey::port(7, protocol::SCTP, 8)
        );
    }
}
