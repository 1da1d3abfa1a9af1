//! Making child interfaces: macvlan, ipvlan and VLAN, inside the namespace where they will be used.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoData, InfoIpVlan, InfoKind, InfoMacVlan, InfoVlan, IpVlanMode, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    Interface, IpvlanMode, LinkError, Mac, MacvlanMode, Netlink, Netns, change::check_name,
};
use crate::netlink::NetlinkError;

/// A child interface to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// The interface that it hangs off, in the socket's namespace.
    pub master: String,
    /// Its name.
    pub name: String,
    /// What to make.
    pub kind: ChildKind,
    /// Its Ethernet address; the kernel chooses when absent. An ipvlan has its master's.
    pub mac: Option<Mac>,
    /// Bytes; the master's when absent.
    pub mtu: Option<u32>,
    /// Set it up at once.
    pub up: bool,
}

/// The kinds of child interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildKind {
    /// With an Ethernet address of its own.
    Macvlan(MacvlanMode),
    /// With its master's Ethernet address.
    Ipvlan(IpvlanMode),
    /// An 802.1Q child.
    Vlan(u16),
}

impl Netlink {
    /// Makes a child of an interface of this socket's namespace directly in `target`, under its
    /// final name: there is no moment at which it exists elsewhere or is called otherwise.
    ///
    /// # Errors
    /// [`LinkError::NotFound`] for the master, [`LinkError::Invalid`] for what cannot be,
    /// [`LinkError::Exists`], [`LinkError::Unsupported`] when the kernel has no such kind,
    /// [`LinkError::Change`]. Nothing was made then.
    pub fn create_child(&mut self, spec: &ChildSpec, target: &Netns) -> Result<(), LinkError> {
        check_name(&spec.name)?;
        let master = self.interface(&spec.master)?;
        check(spec, &master)?;
        let message = RouteNetlinkMessage::NewLink(message(spec, &master, target));
        self.socket
            .change(message, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|source| self.refused_child(spec, target, source))
    }

    fn refused_child(&self, spec: &ChildSpec, target: &Netns, source: NetlinkError) -> LinkError {
        let kind = kind_name(spec.kind);
        let remedy = match source.errno() {
            Some(libc::EEXIST) => {
                return LinkError::Exists {
                    interface: spec.name.clone(),
                    netns: target.to_string(),
                };
            }
            Some(libc::EOPNOTSUPP) => {
                return LinkError::Unsupported {
                    feature: format!("{kind} interfaces"),
                    remedy: "load its module, or choose another kind",
                };
            }
            Some(libc::EBUSY) => {
                "the master may already have children of the other kind (macvlan and ipvlan \
                 exclude each other), or belong to a bridge or bond; use another master"
            }
            Some(libc::EINVAL) => {
                "a passthru child must be its master's only one, and needs a master that has none"
            }
            Some(libc::EPERM) => "CAP_NET_ADMIN is needed in both namespaces",
            _ => "",
        };
        self.refused(
            format!(
                "create {kind} {} on {} in network namespace {target}",
                spec.name, spec.master
            ),
            source,
            remedy,
        )
    }
}

/// What the kernel would refuse with a bare number, or take and do otherwise.
fn check(spec: &ChildSpec, master: &Interface) -> Result<(), LinkError> {
    if let Some(mtu) = spec.mtu.filter(|&mtu| mtu > master.mtu) {
        return Err(LinkError::Invalid {
            thing: "mtu",
            value: mtu.to_string(),
            reason: format!(
                "master {} has only {}; lower it, or raise the master's",
                master.name, master.mtu
            ),
        });
    }
    if let Some(mac) = spec.mac {
        let reason = if matches!(spec.kind, ChildKind::Ipvlan(_)) {
            Some("an ipvlan has its master's address; leave it out")
        } else if mac.0[0] & 1 != 0 {
            Some("it is a group address; clear the lowest bit of the first byte")
        } else if mac.0 == [0; 6] {
            Some("it is all zeros; give an address or leave it out")
        } else if matches!(spec.kind, ChildKind::Macvlan(_)) && Some(mac) == master.mac {
            Some("it is the master's; give another or leave it out")
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(LinkError::Invalid {
                thing: "mac",
                value: mac.to_string(),
                reason: reason.to_owned(),
            });
        }
    }
    if let ChildKind::Vlan(id @ (0 | 4095..)) = spec.kind {
        return Err(LinkError::Invalid {
            thing: "vlan",
            value: id.to_string(),
            reason: "it must be from 1 to 4094".to_owned(),
        });
    }
    Ok(())
}

fn message(spec: &ChildSpec, master: &Interface, target: &Netns) -> LinkMessage {
    let mut message = LinkMessage::default();
    if spec.up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    message.attributes = vec![
        LinkAttribute::IfName(spec.name.clone()),
        // Found in the socket's namespace, while the child is made in the target's.
        LinkAttribute::Link(master.ifindex),
        LinkAttribute::NetNsFd(target.as_fd().as_raw_fd()),
    ];
    let optional = [
        spec.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())),
        spec.mtu.map(LinkAttribute::Mtu),
    ];
    message.attributes.extend(optional.into_iter().flatten());
    message
        .attributes
        .push(LinkAttribute::LinkInfo(link_info(spec.kind)));
    message
}

pub(super) fn link_info(kind: ChildKind) -> Vec<LinkInfo> {
    let (kind, data) = match kind {
        ChildKind::Macvlan(mode) => (
            InfoKind::MacVlan,
            InfoData::MacVlan(vec![InfoMacVlan::Mode(match mode {
                MacvlanMode::Private => MacVlanMode::Private,
                MacvlanMode::Vepa => MacVlanMode::Vepa,
                MacvlanMode::Bridge => MacVlanMode::Bridge,
                MacvlanMode::Passthru => MacVlanMode::Passthrough,
                MacvlanMode::Source => MacVlanMode::Source,
            })]),
        ),
        ChildKind::Ipvlan(mode) => (
            InfoKind::IpVlan,
            InfoData::IpVlan(vec![InfoIpVlan::Mode(match mode {
                IpvlanMode::L2 => IpVlanMode::L2,
                IpvlanMode::L3 => IpVlanMode::L3,
                IpvlanMode::L3s => IpVlanMode::L3S,
            })]),
        ),
        ChildKind::Vlan(id) => (InfoKind::Vlan, InfoData::Vlan(vec![InfoVlan::Id(id)])),
    };
    vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]
}

fn kind_name(kind: ChildKind) -> &'static str {
    match kind {
        ChildKind::Macvlan(_) => "macvlan",
        ChildKind::Ipvlan(_) => "ipvlan",
        ChildKind::Vlan(_) => "vlan",
    }
}
