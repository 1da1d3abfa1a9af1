//! Giving interfaces addresses, and taking them away.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};
use serde::{Deserialize, Serialize};

use super::{LinkError, Netlink, decode};

/// How often the kernel is asked whether it is done; it takes a second or two.
const DAD_POLL: Duration = Duration::from_millis(10);

/// What the kernel does before an IPv6 address may be used (RFC 4862, 5.4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dad {
    /// Duplicate address detection first, for one to two seconds by the kernel's defaults.
    #[default]
    Wait,
    /// Detection, and careful use meanwhile (RFC 4429). Needs the interface's sysctl
    /// `optimistic_dad`; without it this is `Wait`.
    Optimistic,
    /// No detection: usable at once.
    Skip,
}

/// How far an address has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressState {
    /// In use.
    Usable,
    /// Being checked for duplicates, not yet usable.
    Tentative,
    /// Someone else has it: it will never be used.
    Duplicate,
}

impl Netlink {
    /// Gives an interface an address; `false` when it has it already. `dad` is for IPv6. An IPv4
    /// prefix with room for it gets its broadcast address.
    ///
    /// # Errors
    /// [`LinkError::Change`]: among ipvlan siblings an address can be had only once (EADDRINUSE).
    pub fn add_address(
        &mut self,
        ifindex: u32,
        address: IpNet,
        dad: Dad,
    ) -> Result<bool, LinkError> {
        let mut message = message(ifindex, address);
        match address {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                let broadcast = AddressAttribute::Broadcast(net.broadcast());
                message.attributes.push(broadcast);
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => {
                let flags = match dad {
                    Dad::Wait => AddressFlags::empty(),
                    Dad::Optimistic => AddressFlags::Optimistic,
                    Dad::Skip => AddressFlags::Nodad,
                };
                message.attributes.push(AddressAttribute::Flags(flags));
            }
        }
        let message = RouteNetlinkMessage::NewAddress(message);
        match self.socket.change(message, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::EEXIST) => Ok(false),
            Err(source) => {
                let remedy = match source.errno() {
                    Some(libc::EADDRINUSE) => {
                        "another child of the same ipvlan master has it; choose another"
                    }
                    Some(libc::EACCES | libc::EOPNOTSUPP) if address.addr().is_ipv6() => {
                        "IPv6 is off for this interface (sysctl disable_ipv6)"
                    }
                    _ => "",
                };
                Err(self.refused(
                    format!("add {address} to interface {ifindex}"),
                    source,
                    remedy,
                ))
            }
        }
    }

    /// Takes an address away; `false` when the interface is gone or has no such address.
    ///
    /// # Errors
    /// [`LinkError::Change`].
    pub fn remove_address(&mut self, ifindex: u32, address: IpNet) -> Result<bool, LinkError> {
        let message = RouteNetlinkMessage::DelAddress(message(ifindex, address));
        let removed = self.socket.change(message, 0);
        self.removed(removed, &[libc::EADDRNOTAVAIL, libc::ENODEV], || {
            format!("remove {address} from interface {ifindex}")
        })
    }

    /// How far an address of an interface has come; `None` when it has no such address.
    ///
    /// # Errors
    /// [`LinkError::Request`].
    pub fn address_state(
        &mut self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<AddressState>, LinkError> {
        let addresses = self
            .addresses(ifindex)
            .map_err(|source| self.failed("list addresses", source))?;
        Ok(addresses
            .into_iter()
            .find(|other| other.address.addr() == address)
            .map(|found| state(&found)))
    }

    /// Waits until the kernel's duplicate address detection is done with these addresses, at most
    /// as long as `limit`, and returns those that someone else has. An address that is still being
    /// checked then is none of them.
    ///
    /// # Errors
    /// [`LinkError::Request`].
    pub fn wait_dad(
        &mut self,
        ifindex: u32,
        addresses: &[IpAddr],
        limit: Duration,
    ) -> Result<Vec<IpAddr>, LinkError> {
        let begin = Instant::now();
        loop {
            let found = self
                .addresses(ifindex)
                .map_err(|source| self.failed("list addresses", source))?;
            let with = |wanted: AddressState| {
                found
                    .iter()
                    .filter(move |message| state(message) == wanted)
                    .map(|message| message.address.addr())
                    .filter(|address| addresses.contains(address))
            };
            if with(AddressState::Tentative).next().is_none() || begin.elapsed() >= limit {
                return Ok(with(AddressState::Duplicate).collect());
            }
            thread::sleep(DAD_POLL);
        }
    }
}

fn state(address: &decode::AddressMessage) -> AddressState {
    if address.flags & libc::IFA_F_DADFAILED != 0 {
        AddressState::Duplicate
    } else if address.flags & libc::IFA_F_TENTATIVE != 0
        && address.flags & libc::IFA_F_OPTIMISTIC == 0
    {
        AddressState::Tentative
    } else {
        AddressState::Usable
    }
}

fn message(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = address.prefix_len();
    message.header.family = match address {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}
