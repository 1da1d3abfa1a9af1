//! Reading netlink messages without trusting them: bounds are checked, unknown attributes are
//! passed over, text need not be UTF-8. Numbers are in host byte order, as netlink has them.
//!
//! Layouts and numbers: uapi `linux/netlink.h`, `rtnetlink.h`, `if_link.h`, `if_addr.h`,
//! `net_namespace.h`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::Mac;

/// `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`.
const LINK_HEADER_LEN: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER_LEN: usize = 8;
/// `struct rtgenmsg` with its padding.
const NSID_HEADER_LEN: usize = 4;
/// `struct nlattr`.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// The type bits of an attribute, without the nested and byte-order flags (`NLA_TYPE_MASK`).
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
/// The attribute of a namespace id message that holds the id (`NETNSA_NSID`).
const NETNSA_NSID: u16 = 1;

/// Bytes that are not what their message type promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<Malformed> for io::Error {
    fn from(Malformed: Malformed) -> Self {
        Self::new(
            io::ErrorKind::InvalidData,
            "the kernel's answer is malformed",
        )
    }
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// `RTM_*` or `NLMSG_*`.
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    /// The sequence number of the request it answers.
    pub(super) sequence: u32,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

/// The messages of a datagram. A malformed header ends it: the next one cannot be found.
pub(super) fn messages(
    mut datagram: &[u8],
) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let message = split_message(&mut datagram);
        if message.is_err() {
            datagram = &[];
        }
        Some(message)
    })
}

fn split_message<'a>(datagram: &mut &'a [u8]) -> Result<Message<'a>, Malformed> {
    let length = u32_at(datagram, 0)? as usize;
    let bytes = datagram.get(..length).ok_or(Malformed)?;
    let message = Message {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        body: bytes.get(HEADER_LEN..).ok_or(Malformed)?,
    };
    *datagram = datagram
        .get(length.next_multiple_of(4)..)
        .unwrap_or_default();
    Ok(message)
}

/// The attributes of a message or of a nested attribute, as type and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let attribute = split_attribute(&mut bytes);
        if attribute.is_err() {
            bytes = &[];
        }
        Some(attribute)
    })
}

fn split_attribute<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), Malformed> {
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & ATTRIBUTE_TYPE_MASK;
    let value = bytes.get(ATTRIBUTE_HEADER_LEN..length).ok_or(Malformed)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok((kind, value))
}

/// The fields of an `RTM_NEWLINK` or `RTM_DELLINK` that are of use here.
#[derive(Debug, Default)]
pub(super) struct LinkMessage {
    /// `AF_UNSPEC`, or `AF_BRIDGE` for news of a bridge port.
    pub(super) family: u8,
    /// `ARPHRD_*`.
    pub(super) device_type: u16,
    pub(super) ifindex: u32,
    /// `IFF_*`.
    pub(super) flags: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    /// Bytes.
    pub(super) mtu: u32,
    /// `IFLA_LINK`: the lower device, or the peer of a veth.
    pub(super) link: Option<u32>,
    /// The namespace id of `link`; absent when it is in the same namespace.
    pub(super) link_netnsid: Option<i32>,
    /// `IFLA_INFO_KIND`: absent for a physical device.
    pub(super) kind: Option<String>,
    /// `IFLA_INFO_DATA`: the attributes that belong to `kind`.
    pub(super) data: Vec<u8>,
    /// The device's name on its bus, such as a PCI address.
    pub(super) device: Option<String>,
    pub(super) bus: Option<String>,
}

impl LinkMessage {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut link = Self {
            family: u8_at(body, 0)?,
            device_type: u16_at(body, 2)?,
            ifindex: u32_at(body, 4)?,
            flags: u32_at(body, 8)?,
            ..Self::default()
        };
        for attribute in attributes(body.get(LINK_HEADER_LEN..).ok_or(Malformed)?) {
            let (kind, value) = attribute?;
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                // Tunnels without a lower device have 0.
                libc::IFLA_LINK => link.link = Some(u32_at(value, 0)?).filter(|&index| index != 0),
                libc::IFLA_LINK_NETNSID => link.link_netnsid = Some(i32_at(value, 0)?),
                libc::IFLA_LINKINFO => link.decode_info(value)?,
                libc::IFLA_PARENT_DEV_NAME => link.device = Some(text(value)),
                libc::IFLA_PARENT_DEV_BUS_NAME => link.bus = Some(text(value)),
                _ => {}
            }
        }
        Ok(link)
    }

    fn decode_info(&mut self, info: &[u8]) -> Result<(), Malformed> {
        for attribute in attributes(info) {
            match attribute? {
                (libc::IFLA_INFO_KIND, value) => self.kind = Some(text(value)),
                (libc::IFLA_INFO_DATA, value) => self.data = value.to_vec(),
                _ => {}
            }
        }
        Ok(())
    }

    /// A 16-bit or 32-bit number among the attributes of this kind of link.
    pub(super) fn data_number(&self, wanted: u16) -> Option<u32> {
        attributes(&self.data)
            .map_while(Result::ok)
            .find(|&(kind, _)| kind == wanted)
            .and_then(|(_, value)| match value.len() {
                2 => u16_at(value, 0).ok().map(u32::from),
                _ => u32_at(value, 0).ok(),
            })
    }
}

/// The fields of an `RTM_NEWADDR` or `RTM_DELADDR` that are of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressMessage {
    pub(super) ifindex: u32,
    pub(super) address: IpNet,
}

impl AddressMessage {
    /// `None` for an address family other than IPv4 and IPv6.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, Malformed> {
        let (family, prefix_length, ifindex) = (u8_at(body, 0)?, u8_at(body, 1)?, u32_at(body, 4)?);
        let (mut own, mut peer_or_own) = (None, None);
        for attribute in attributes(body.get(ADDRESS_HEADER_LEN..).ok_or(Malformed)?) {
            match attribute? {
                // IFA_ADDRESS is the peer's on a point-to-point interface, which then has its own
                // in IFA_LOCAL.
                (libc::IFA_LOCAL, value) => own = Some(value),
                (libc::IFA_ADDRESS, value) => peer_or_own = Some(value),
                _ => {}
            }
        }
        let value = own.or(peer_or_own).ok_or(Malformed)?;
        let address = match i32::from(family) {
            libc::AF_INET => {
                <[u8; 4]>::try_from(value).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)))
            }
            libc::AF_INET6 => {
                <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
            }
            _ => return Ok(None),
        }
        .map_err(|_| Malformed)?;
        let address = IpNet::new(address, prefix_length).map_err(|_| Malformed)?;
        Ok(Some(Self { ifindex, address }))
    }
}

/// The id in an `RTM_NEWNSID` or `RTM_DELNSID`; `None` when the namespace has none.
pub(super) fn decode_nsid(body: &[u8]) -> Result<Option<i32>, Malformed> {
    for attribute in attributes(body.get(NSID_HEADER_LEN..).ok_or(Malformed)?) {
        if let (NETNSA_NSID, value) = attribute? {
            // NETNSA_NSID_NOT_ASSIGNED is -1.
            return Ok(Some(i32_at(value, 0)?).filter(|&id| id >= 0));
        }
    }
    Err(Malformed)
}

/// The interface in an `RTM_DELTFILTER` or `RTM_DELQDISC` (`struct tcmsg`, uapi
/// `linux/rtnetlink.h`: a family, three bytes of padding, the index).
pub(super) fn decode_tc_ifindex(body: &[u8]) -> Result<u32, Malformed> {
    i32_at(body, 4).map(i32::cast_unsigned)
}

/// The error code in an `NLMSG_ERROR` or `NLMSG_DONE`: 0 or a negative errno.
pub(super) fn decode_error(body: &[u8]) -> Result<i32, Malformed> {
    i32_at(body, 0)
}

/// Text up to its terminating zero. A pod may give its interfaces any bytes for a name.
fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Malformed> {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(Malformed)
}

fn u8_at(bytes: &[u8], offset: usize) -> Result<u8, Malformed> {
    bytes_at(bytes, offset).map(u8::from_ne_bytes)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, Malformed> {
    bytes_at(bytes, offset).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Malformed> {
    bytes_at(bytes, offset).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], offset: usize) -> Result<i32, Malformed> {
    bytes_at(bytes, offset).map(i32::from_ne_bytes)
}
