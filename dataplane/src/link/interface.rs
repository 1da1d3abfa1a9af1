//! What an interface is: its kind, its parent, its addresses, the device behind it.

use std::{fmt, path::Path};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Mac, decode::LinkMessage, sysfs::link_target};

/// `IFLA_MACVLAN_MODE` (uapi `linux/if_link.h`).
const IFLA_MACVLAN_MODE: u16 = 1;
/// `IFLA_IPVLAN_MODE` (uapi `linux/if_link.h`).
const IFLA_IPVLAN_MODE: u16 = 1;
/// `IFLA_VLAN_ID` (uapi `linux/if_link.h`).
const IFLA_VLAN_ID: u16 = 1;

/// An interface as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Unique within its namespace only.
    pub ifindex: u32,
    /// Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Absent on a loopback and on links that are not Ethernet.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// What sort of interface it is.
    pub kind: InterfaceKind,
    /// The lower device, or the peer of a veth.
    pub parent: Option<Parent>,
    /// IPv4 and IPv6, with prefix lengths.
    pub addresses: Vec<IpNet>,
    /// The hardware behind it.
    pub device: Option<Device>,
}

/// What an interface is called, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Its name.
    pub name: String,
    /// Other names that it answers to, in its namespace.
    pub altnames: Vec<String>,
    /// Free text that it carries along.
    pub alias: Option<String>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Can carry traffic (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Bytes.
    pub mtu: u32,
    /// Absent on a loopback and on links that are not Ethernet.
    pub mac: Option<Mac>,
}

impl From<LinkMessage> for Details {
    fn from(link: LinkMessage) -> Self {
        let has = |flag: libc::c_int| link.flags & flag.cast_unsigned() != 0;
        Self {
            up: has(libc::IFF_UP),
            carrier: has(libc::IFF_LOWER_UP),
            mac: link
                .mac
                .filter(|_| link.device_type != libc::ARPHRD_LOOPBACK),
            mtu: link.mtu,
            name: link.name,
            altnames: link.altnames,
            alias: link.alias,
        }
    }
}

/// What sort of interface it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceKind {
    /// A macvlan child.
    Macvlan {
        /// How it treats its siblings.
        mode: MacvlanMode,
    },
    /// An ipvlan child.
    Ipvlan {
        /// The layer at which it is demultiplexed.
        mode: IpvlanMode,
    },
    /// One end of a veth pair.
    Veth,
    /// An 802.1Q child.
    Vlan {
        /// The VLAN id.
        id: u16,
    },
    /// A device of its own: a NIC, a PF, a subfunction.
    Physical,
    /// A virtual function of an SR-IOV NIC.
    Vf {
        /// The PCI address of its physical function.
        pf: String,
    },
    /// Anything else, by the kernel's name for it.
    Other(String),
}

impl InterfaceKind {
    /// Whether such an interface shares its parent with others of its kind.
    pub fn is_child(&self) -> bool {
        matches!(self, Self::Macvlan { .. } | Self::Ipvlan { .. })
    }
}

impl fmt::Display for InterfaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Macvlan { mode } => write!(f, "macvlan {mode}"),
            Self::Ipvlan { mode } => write!(f, "ipvlan {mode}"),
            Self::Veth => f.write_str("veth"),
            Self::Vlan { id } => write!(f, "vlan {id}"),
            Self::Physical => f.write_str("physical"),
            Self::Vf { pf } => write!(f, "vf of {pf}"),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

/// `MACVLAN_MODE_*` (uapi `linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// No traffic between siblings.
    Private,
    /// Traffic between siblings goes through the switch.
    Vepa,
    /// Siblings reach each other within the node.
    Bridge,
    /// One child takes over the parent.
    Passthru,
    /// Frames from listed source addresses only.
    Source,
}

impl MacvlanMode {
    fn from_kernel(mode: u32) -> Option<Self> {
        match mode {
            1 => Some(Self::Private),
            2 => Some(Self::Vepa),
            4 => Some(Self::Bridge),
            8 => Some(Self::Passthru),
            16 => Some(Self::Source),
            _ => None,
        }
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Passthru => "passthru",
            Self::Source => "source",
        })
    }
}

/// `IPVLAN_MODE_*` (uapi `linux/if_link.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// By destination address, with the child's own neighbour table.
    L2,
    /// Routed in the parent's namespace.
    L3,
    /// As L3, and through netfilter.
    L3s,
}

impl IpvlanMode {
    fn from_kernel(mode: u32) -> Option<Self> {
        match mode {
            0 => Some(Self::L2),
            1 => Some(Self::L3),
            2 => Some(Self::L3s),
            _ => None,
        }
    }
}

impl fmt::Display for IpvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        })
    }
}

/// The interface below another one, or the peer of a veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parent {
    /// Its index, in its own namespace.
    pub ifindex: u32,
    /// The id of its namespace, as the child's namespace knows it; absent when it is the same one.
    pub netnsid: Option<i32>,
}

/// The hardware behind an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `pci`, `virtio`, `auxiliary`, ...
    pub bus: String,
    /// The name on its bus, for PCI the address like `0000:3b:00.2`.
    pub name: String,
    /// The kernel driver that is bound to it.
    pub driver: Option<String>,
}

impl Interface {
    /// Builds an interface, without its addresses, from what netlink says and sysfs adds.
    ///
    /// sysfs shows network classes of one namespace only, but buses of them all: what is read here
    /// is right for a device in any namespace.
    pub(super) fn from_message(link: LinkMessage, sysfs: &Path) -> Self {
        let device = link
            .bus
            .as_ref()
            .zip(link.device.as_ref())
            .map(|(bus, name)| Device {
                bus: bus.clone(),
                name: name.clone(),
                driver: link_target(&sysfs.join(format!("bus/{bus}/devices/{name}/driver"))),
            });
        let loopback = link.device_type == libc::ARPHRD_LOOPBACK;
        Self {
            ifindex: link.ifindex,
            mac: link.mac.filter(|_| !loopback),
            mtu: link.mtu,
            up: link.flags & libc::IFF_UP.cast_unsigned() != 0,
            kind: kind(&link, device.as_ref(), sysfs),
            parent: link.link.map(|ifindex| Parent {
                ifindex,
                netnsid: link.link_netnsid,
            }),
            addresses: Vec::new(),
            device,
            name: link.name,
        }
    }
}

fn kind(link: &LinkMessage, device: Option<&Device>, sysfs: &Path) -> InterfaceKind {
    let Some(kernel_kind) = &link.kind else {
        if link.device_type == libc::ARPHRD_LOOPBACK {
            return InterfaceKind::Other("loopback".to_owned());
        }
        return device
            .filter(|device| device.bus == "pci")
            .and_then(|device| {
                link_target(&sysfs.join(format!("bus/pci/devices/{}/physfn", device.name)))
            })
            .map_or(InterfaceKind::Physical, |pf| InterfaceKind::Vf { pf });
    };
    let mode = |attribute| link.data_number(attribute);
    let known = match kernel_kind.as_str() {
        "macvlan" => mode(IFLA_MACVLAN_MODE)
            .and_then(MacvlanMode::from_kernel)
            .map(|mode| InterfaceKind::Macvlan { mode }),
        "ipvlan" => mode(IFLA_IPVLAN_MODE)
            .and_then(IpvlanMode::from_kernel)
            .map(|mode| InterfaceKind::Ipvlan { mode }),
        "vlan" => mode(IFLA_VLAN_ID)
            .and_then(|id| u16::try_from(id).ok())
            .map(|id| InterfaceKind::Vlan { id }),
        "veth" => Some(InterfaceKind::Veth),
        _ => None,
    };
    known.unwrap_or_else(|| InterfaceKind::Other(kernel_kind.clone()))
}

#[cfg(test)]
mod tests {
    use super::{super::sysfs::fixture, *};

    fn number(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn kind_of(kernel_kind: &str, data: Vec<u8>) -> InterfaceKind {
        let link = LinkMessage {
            kind: Some(kernel_kind.to_owned()),
            data,
            ..Default::default()
        };
        Interface::from_message(link, Path::new("/nonexistent")).kind
    }

    #[test]
    fn kinds_that_this_machine_may_lack() {
        let ipvlan = |mode: u16| kind_of("ipvlan", number(IFLA_IPVLAN_MODE, &mode.to_ne_bytes()));
        assert_eq!(
            ipvlan(0),
            InterfaceKind::Ipvlan {
                mode: IpvlanMode::L2
            }
        );
        assert_eq!(
            ipvlan(1),
            InterfaceKind::Ipvlan {
                mode: IpvlanMode::L3
            }
        );
        assert_eq!(
            ipvlan(2),
            InterfaceKind::Ipvlan {
                mode: IpvlanMode::L3s
            }
        );
        assert_eq!(ipvlan(3), InterfaceKind::Other("ipvlan".into()));
        let vlan = number(IFLA_VLAN_ID, &4094_u16.to_ne_bytes());
        assert_eq!(kind_of("vlan", vlan), InterfaceKind::Vlan { id: 4094 });
        let source = number(IFLA_MACVLAN_MODE, &16_u32.to_ne_bytes());
        assert_eq!(
            kind_of("macvlan", source),
            InterfaceKind::Macvlan {
                mode: MacvlanMode::Source
            }
        );
        assert_eq!(
            kind_of("macvlan", Vec::new()),
            InterfaceKind::Other("macvlan".into())
        );
        assert_eq!(
            kind_of("netkit", Vec::new()),
            InterfaceKind::Other("netkit".into())
        );
    }

    fn hardware(address: &str) -> Interface {
        let root = fixture::sysfs();
        let link = LinkMessage {
            device_type: libc::ARPHRD_ETHER,
            bus: Some("pci".into()),
            device: Some(address.to_owned()),
            ..Default::default()
        };
        Interface::from_message(link, root.path())
    }

    #[test]
    fn a_vf_names_its_pf() {
        let vf = hardware("0000:3b:00.2");
        assert_eq!(
            vf.kind,
            InterfaceKind::Vf {
                pf: "0000:3b:00.0".into()
            }
        );
        assert_eq!(vf.kind.to_string(), "vf of 0000:3b:00.0");
        let device = vf.device.unwrap();
        assert_eq!(device.name, "0000:3b:00.2");
        assert_eq!(device.driver.as_deref(), Some("mlx5_core"));
    }

    #[test]
    fn a_pf_and_a_plain_nic_are_physical() {
        assert_eq!(hardware("0000:3b:00.0").kind, InterfaceKind::Physical);
        assert_eq!(hardware("0000:5e:00.0").kind, InterfaceKind::Physical);
    }

    #[test]
    fn json_is_readable() {
        let mode = InterfaceKind::Macvlan {
            mode: MacvlanMode::Bridge,
        };
        let json = serde_json::to_string(&mode).unwrap();
        assert_eq!(json, r#"{"macvlan":{"mode":"bridge"}}"#);
        assert_eq!(serde_json::from_str::<InterfaceKind>(&json).unwrap(), mode);
    }
}
