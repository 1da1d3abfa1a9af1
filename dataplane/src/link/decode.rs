//! Reading rtnetlink messages without trusting them: unknown attributes are passed over.
//!
//! Layouts and numbers: uapi `linux/rtnetlink.h`, `if_link.h`, `if_addr.h`,
//! `fib_rules.h`, `net_namespace.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Mac, Route, SourceRule, VfLink, VfState, VfVlanTag, VlanProtocol};
use crate::netlink::decode::{
    Malformed, attributes, bytes_at, i32_at, text, u8_at, u16_at, u32_at,
};

/// `struct ifinfomsg`.
const LINK_HEADER_LEN: usize = 16;
/// `struct ifaddrmsg`.
const ADDRESS_HEADER_LEN: usize = 8;
/// `struct rtmsg`.
const ROUTE_HEADER_LEN: usize = 12;
/// `struct fib_rule_hdr`.
const RULE_HEADER_LEN: usize = 12;
// uapi `linux/if_link.h`.
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_VLAN_LIST: u16 = 12;
const IFLA_VF_VLAN_INFO: u16 = 1;
/// uapi `linux/if_ether.h`, in network byte order.
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
// uapi `linux/rtnetlink.h`.
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RTNH_F_ONLINK: u32 = 4;
// uapi `linux/fib_rules.h`.
const FR_ACT_TO_TBL: u8 = 1;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_PROTOCOL: u16 = 21;
/// `struct rtgenmsg` with its padding.
const NSID_HEADER_LEN: usize = 4;
/// The attribute of a namespace id message that holds the id (`NETNSA_NSID`).
const NETNSA_NSID: u16 = 1;

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
    /// Other names that it answers to.
    pub(super) altnames: Vec<String>,
    /// Free text.
    pub(super) alias: Option<String>,
    /// A PF's VFs by their numbers, where they were asked for.
    pub(super) vfs: Vec<(u32, VfState)>,
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
                libc::IFLA_IFALIAS => link.alias = Some(text(value)),
                libc::IFLA_PROP_LIST => link.decode_properties(value)?,
                libc::IFLA_VFINFO_LIST => link.vfs = decode_vfs(value)?,
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

    fn decode_properties(&mut self, properties: &[u8]) -> Result<(), Malformed> {
        for attribute in attributes(properties) {
            if let (libc::IFLA_ALT_IFNAME, value) = attribute? {
                self.altnames.push(text(value));
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

/// The VFs in an `IFLA_VFINFO_LIST`, by their numbers. One whose attributes are all unknown has no
/// number, and is left out.
pub(super) fn decode_vfs(list: &[u8]) -> Result<Vec<(u32, VfState)>, Malformed> {
    let mut vfs = Vec::new();
    for attribute in attributes(list) {
        if let (IFLA_VF_INFO, value) = attribute? {
            vfs.extend(decode_vf(value)?);
        }
    }
    Ok(vfs)
}

fn decode_vf(info: &[u8]) -> Result<Option<(u32, VfState)>, Malformed> {
    let mut index = None;
    let mut state = VfState {
        mac: None,
        vlan: VfVlanTag::default(),
        spoofchk: None,
        trust: None,
        link: None,
        min_tx_rate: 0,
        max_tx_rate: 0,
    };
    for attribute in attributes(info) {
        let (kind, value) = attribute?;
        // All of them begin with the VF's number; its VLANs hold structures that do.
        match kind {
            IFLA_VF_MAC => state.mac = Some(Mac(bytes_at(value, 4)?)),
            IFLA_VF_VLAN => {
                state.vlan.id = small(u32_at(value, 4)?)?;
                state.vlan.qos = small(u32_at(value, 8)?)?;
            }
            IFLA_VF_SPOOFCHK => state.spoofchk = switch(u32_at(value, 4)?),
            IFLA_VF_TRUST => state.trust = switch(u32_at(value, 4)?),
            IFLA_VF_LINK_STATE => {
                state.link = match u32_at(value, 4)? {
                    0 => Some(VfLink::Auto),
                    1 => Some(VfLink::Enable),
                    2 => Some(VfLink::Disable),
                    _ => None,
                };
            }
            IFLA_VF_RATE => {
                (state.min_tx_rate, state.max_tx_rate) = (u32_at(value, 4)?, u32_at(value, 8)?);
            }
            IFLA_VF_VLAN_LIST => state.vlan = decode_vf_vlan(value)?.unwrap_or(state.vlan),
            _ => continue,
        }
        if kind != IFLA_VF_VLAN_LIST {
            index = Some(u32_at(value, 0)?);
        }
    }
    Ok(index.map(|index| (index, state)))
}

/// The first tag of a list; the kernel gives one.
fn decode_vf_vlan(list: &[u8]) -> Result<Option<VfVlanTag>, Malformed> {
    for attribute in attributes(list) {
        if let (IFLA_VF_VLAN_INFO, value) = attribute? {
            return Ok(Some(VfVlanTag {
                id: small(u32_at(value, 4)?)?,
                qos: small(u32_at(value, 8)?)?,
                protocol: match bytes_at(value, 12)? {
                    ETH_P_8021AD => VlanProtocol::Dot1Ad,
                    _ => VlanProtocol::Dot1Q,
                },
            }));
        }
    }
    Ok(None)
}

/// On, off, or what the kernel writes when the driver does not tell (-1).
fn switch(setting: u32) -> Option<bool> {
    match setting {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn small<T: TryFrom<u32>>(number: u32) -> Result<T, Malformed> {
    T::try_from(number).map_err(|_| Malformed)
}

/// The fields of an `RTM_NEWADDR` or `RTM_DELADDR` that are of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressMessage {
    pub(super) ifindex: u32,
    pub(super) address: IpNet,
    /// `IFA_F_*`.
    pub(super) flags: u32,
}

impl AddressMessage {
    /// `None` for an address family other than IPv4 and IPv6.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, Malformed> {
        let (family, prefix_length, ifindex) = (u8_at(body, 0)?, u8_at(body, 1)?, u32_at(body, 4)?);
        let mut flags = u32::from(u8_at(body, 2)?);
        let (mut own, mut peer_or_own) = (None, None);
        for attribute in attributes(body.get(ADDRESS_HEADER_LEN..).ok_or(Malformed)?) {
            match attribute? {
                // IFA_ADDRESS is the peer's on a point-to-point interface, which then has its own
                // in IFA_LOCAL.
                (libc::IFA_LOCAL, value) => own = Some(value),
                (libc::IFA_ADDRESS, value) => peer_or_own = Some(value),
                // All of them; the header has room for the first eight only.
                (libc::IFA_FLAGS, value) => flags = u32_at(value, 0)?,
                _ => {}
            }
        }
        let value = own.or(peer_or_own).ok_or(Malformed)?;
        let Some(address) = ip(family, value)? else {
            return Ok(None);
        };
        let address = IpNet::new(address, prefix_length).map_err(|_| Malformed)?;
        Ok(Some(Self {
            ifindex,
            address,
            flags,
        }))
    }
}

/// An address of this family (`AF_*`); `None` for a family other than IPv4 and IPv6.
fn ip(family: u8, value: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    let address = match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(value).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))),
        libc::AF_INET6 => {
            <[u8; 16]>::try_from(value).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => return Ok(None),
    };
    address.map(Some).map_err(|_| Malformed)
}

/// A prefix of this family that is not among the attributes when its length is 0.
fn prefix(family: u8, value: Option<&[u8]>, length: u8) -> Result<Option<IpNet>, Malformed> {
    let address = match (value, i32::from(family)) {
        (Some(value), _) => ip(family, value)?,
        (None, libc::AF_INET) => Some(Ipv4Addr::UNSPECIFIED.into()),
        (None, libc::AF_INET6) => Some(Ipv6Addr::UNSPECIFIED.into()),
        (None, _) => None,
    };
    address
        .map(|address| IpNet::new(address, length).map_err(|_| Malformed))
        .transpose()
}

/// An `RTM_NEWROUTE`.
#[derive(Debug)]
pub(super) struct RouteEntry(pub(super) Route);

impl RouteEntry {
    /// `None` for a route that is not a unicast route out of one interface.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, Malformed> {
        let (family, length) = (u8_at(body, 0)?, u8_at(body, 1)?);
        let (table, scope, kind) = (u8_at(body, 4)?, u8_at(body, 6)?, u8_at(body, 7)?);
        let flags = u32_at(body, 8)?;
        let (mut destination, mut gateway, mut source) = (None, None, None);
        let (mut ifindex, mut metric, mut metrics) = (None, None, &[][..]);
        let mut table = u32::from(table);
        for attribute in attributes(body.get(ROUTE_HEADER_LEN..).ok_or(Malformed)?) {
            match attribute? {
                (libc::RTA_DST, value) => destination = Some(value),
                (libc::RTA_GATEWAY, value) => gateway = ip(family, value)?,
                (libc::RTA_PREFSRC, value) => source = ip(family, value)?,
                (libc::RTA_OIF, value) => ifindex = Some(u32_at(value, 0)?),
                (libc::RTA_PRIORITY, value) => metric = Some(u32_at(value, 0)?),
                (libc::RTA_TABLE, value) => table = u32_at(value, 0)?,
                (libc::RTA_METRICS, value) => metrics = value,
                _ => {}
            }
        }
        let (mut mtu, mut advmss) = (None, None);
        for attribute in attributes(metrics) {
            match attribute? {
                (RTAX_MTU, value) => mtu = Some(u32_at(value, 0)?),
                (RTAX_ADVMSS, value) => advmss = Some(u32_at(value, 0)?),
                _ => {}
            }
        }
        let Some(ifindex) = ifindex.filter(|_| kind == libc::RTN_UNICAST) else {
            return Ok(None);
        };
        Ok(prefix(family, destination, length)?.map(|destination| {
            Self(Route {
                ifindex,
                destination,
                gateway,
                source,
                table,
                metric,
                scope: Some(scope),
                onlink: flags & RTNH_F_ONLINK != 0,
                mtu,
                advmss,
            })
        }))
    }
}

/// An `RTM_NEWRULE`.
#[derive(Debug)]
pub(super) struct RuleEntry(pub(super) SourceRule);

impl RuleEntry {
    /// `None` for a rule that judges by more or less than the source, or does not lead to a table.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, Malformed> {
        let (family, destination_length, length) =
            (u8_at(body, 0)?, u8_at(body, 1)?, u8_at(body, 2)?);
        let (tos, table, action) = (u8_at(body, 3)?, u8_at(body, 4)?, u8_at(body, 7)?);
        let (mut source, mut table, mut priority) = (None, u32::from(table), 0);
        let mut other = destination_length != 0 || tos != 0 || action != FR_ACT_TO_TBL;
        for attribute in attributes(body.get(RULE_HEADER_LEN..).ok_or(Malformed)?) {
            match attribute? {
                (FRA_SRC, value) => source = Some(value),
                (FRA_TABLE, value) => table = u32_at(value, 0)?,
                (FRA_PRIORITY, value) => priority = u32_at(value, 0)?,
                // Who added it, and -1 for "do not suppress": no conditions.
                (FRA_PROTOCOL | FRA_SUPPRESS_PREFIXLEN, _) => {}
                _ => other = true,
            }
        }
        let Some(source) = source.filter(|_| !other) else {
            return Ok(None);
        };
        Ok(prefix(family, Some(source), length)?.map(|from| {
            Self(SourceRule {
                from,
                table,
                priority,
            })
        }))
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
