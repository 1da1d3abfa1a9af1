//! Telling the neighbours who has an address now.

use std::net::IpAddr;

use super::{frame, socket::PacketSocket};
use crate::link::{LinkError, Mac, Netns};

/// Announces addresses of an interface: gratuitous ARP for IPv4, an unsolicited neighbour
/// advertisement for IPv6. Neighbours that know another Ethernet address for them take this one at
/// once. The interface must be up; an IPv6 address should not be announced before duplicate
/// address detection is done.
///
/// # Errors
/// [`LinkError::PacketSocket`].
pub fn announce(
    netns: &Netns,
    ifindex: u32,
    mac: Mac,
    addresses: &[IpAddr],
) -> Result<(), LinkError> {
    if addresses.is_empty() {
        return Ok(());
    }
    // Sending needs no type to listen to.
    let socket = PacketSocket::open(netns, ifindex, 0, &[])?;
    for &address in addresses {
        socket
            .send(&frame::announcement(mac, address))
            .map_err(|source| LinkError::PacketSocket {
                ifindex,
                netns: netns.to_string(),
                step: "announce an address; is the interface up?",
                source,
            })?;
    }
    Ok(())
}
