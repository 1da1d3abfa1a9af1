//! Prefixes as longest-prefix-match tries key them.

use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use dataplane_ebpf::abi::Address;
use ipnet::IpNet;

use super::value::Raw;

/// Bits before an IPv4 address that is mapped into IPv6.
const MAPPED_BITS: u32 = 96;

pub(super) fn key(cidr: IpNet) -> Key<Raw<Address>> {
    let extra = if cidr.addr().is_ipv4() {
        MAPPED_BITS
    } else {
        0
    };
    Key::new(
        u32::from(cidr.prefix_len()) + extra,
        Raw(Address::from(cidr.network())),
    )
}

/// The key under which an address looks for its longest prefix.
pub(super) fn key_of_address(address: IpAddr) -> Key<Raw<Address>> {
    key(address.into())
}

pub(super) fn cidr(key: &Key<Raw<Address>>) -> IpNet {
    let address = IpAddr::from(key.data().0);
    let bits = key.prefix_len();
    let bits = if address.is_ipv4() {
        bits.saturating_sub(MAPPED_BITS)
    } else {
        bits
    };
    // The kernel holds no prefix longer than the address.
    IpNet::new(address, bits as u8).unwrap_or_else(|_| address.into())
}

pub(super) fn same(a: &Key<Raw<Address>>, b: &Key<Raw<Address>>) -> bool {
    a.prefix_len() == b.prefix_len() && a.data().0 == b.data().0
}
