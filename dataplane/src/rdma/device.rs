//! RDMA devices, their ports, their names and their namespaces.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd},
};

use serde::{Deserialize, Serialize};

use super::{
    Rdma, RdmaError,
    wire::{self, optional, required},
};
use crate::{
    link::{Mac, Netns},
    netlink::decode::Malformed,
};

/// An RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaDevice {
    /// Unique on the node, whatever the namespace; names need not be (Linux 7.3).
    pub index: u32,
    /// Its name, like `mlx5_0`.
    pub name: String,
    /// `roce`, `ib`, `iw` (iWARP), ...
    pub protocol: Option<String>,
    /// Its firmware's version.
    pub firmware: Option<String>,
    /// The device's own id.
    pub node_guid: Guid,
    /// The id of the hardware that several devices may share.
    pub system_guid: Guid,
    /// Its ports are numbered from 1 to this.
    pub ports: u32,
}

/// A 64-bit global id. Text and serde: `0c42:a103:0065:1234`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Guid(pub u64);

impl Guid {
    /// The id that is made of an Ethernet address (modified EUI-64: RFC 4291, appendix A).
    pub fn of(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        Self(u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32| (self.0 >> shift) & 0xffff;
        write!(
            f,
            "{:04x}:{:04x}:{:04x}:{:04x}",
            part(48),
            part(32),
            part(16),
            part(0)
        )
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.to_string()
    }
}

impl TryFrom<String> for Guid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.replace(':', "");
        u64::from_str_radix(&digits, 16)
            .ok()
            .filter(|_| digits.len() == 16)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a GUID; write 0c42:a103:0065:1234"))
    }
}

/// A port of an RDMA device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaPort {
    /// The device's index.
    pub device: u32,
    /// From 1.
    pub port: u32,
    /// Whether it can carry traffic.
    pub state: PortState,
    /// What the link itself is doing.
    pub physical: PhysicalState,
    /// InfiniBand's local id; absent for RoCE.
    pub lid: Option<u32>,
    /// The network interface that it belongs to, when that is in the namespace of the asker.
    pub netdev: Option<PortNetdev>,
}

/// The network interface of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortNetdev {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

/// Names a numbered state, and keeps the numbers that have no name.
macro_rules! states {
    ($(#[$about:meta])* $name:ident { $($number:literal => $variant:ident $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum $name {
            $($variant,)*
            /// One that this version does not know.
            Other(u8),
        }

        impl From<u8> for $name {
            fn from(number: u8) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.pad($text),)*
                    Self::Other(number) => f.pad(&format!("state {number}")),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                match text.as_str() {
                    $($text => Ok(Self::$variant),)*
                    other => other
                        .strip_prefix("state ")
                        .and_then(|number| number.parse().ok())
                        .map(Self::Other)
                        .ok_or_else(|| serde::de::Error::custom(format!("no such state: {other:?}"))),
                }
            }
        }
    };
}
pub(super) use states;

states! {
    /// `enum ib_port_state` (`rdma/ib_verbs.h`).
    PortState {
        0 => Nop "nop",
        1 => Down "down",
        2 => Init "init",
        3 => Armed "armed",
        4 => Active "active",
        5 => ActiveDefer "active-defer",
    }
}

states! {
    /// `enum ib_port_phys_state` (`rdma/ib_verbs.h`).
    PhysicalState {
        1 => Sleep "sleep",
        2 => Polling "polling",
        3 => Disabled "disabled",
        4 => Training "training",
        5 => LinkUp "link-up",
        6 => ErrorRecovery "error-recovery",
        7 => PhyTest "phy-test",
    }
}

impl RdmaDevice {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let [
            index,
            name,
            protocol,
            firmware,
            node_guid,
            system_guid,
            ports,
        ] = wire::fields(
            body,
            [
                wire::DEV_INDEX,
                wire::DEV_NAME,
                wire::DEV_PROTOCOL,
                wire::FW_VERSION,
                wire::NODE_GUID,
                wire::SYS_IMAGE_GUID,
                wire::PORT_INDEX,
            ],
        )?;
        Ok(Self {
            index: required(index, wire::u32)?,
            name: required(name, wire::text)?,
            protocol: optional(protocol, wire::text)?,
            firmware: optional(firmware, wire::text)?.filter(|text| !text.is_empty()),
            node_guid: Guid(required(node_guid, wire::u64)?),
            system_guid: Guid(required(system_guid, wire::u64)?),
            ports: required(ports, wire::u32)?,
        })
    }
}

impl RdmaPort {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let [device, port, state, physical, lid, ifindex, netdev] = wire::fields(
            body,
            [
                wire::DEV_INDEX,
                wire::PORT_INDEX,
                wire::PORT_STATE,
                wire::PORT_PHYS_STATE,
                wire::LID,
                wire::NDEV_INDEX,
                wire::NDEV_NAME,
            ],
        )?;
        Ok(Self {
            device: required(device, wire::u32)?,
            port: required(port, wire::u32)?,
            state: required(state, wire::byte)?.into(),
            physical: required(physical, wire::byte)?.into(),
            lid: optional(lid, wire::u32)?,
            netdev: optional(ifindex, wire::u32)?
                .zip(optional(netdev, wire::text)?)
                .map(|(ifindex, name)| PortNetdev { ifindex, name }),
        })
    }
}

impl Rdma {
    /// The devices that this socket's namespace sees, in the order of their indices.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn devices(&mut self) -> Result<Vec<RdmaDevice>, RdmaError> {
        let request = wire::request(wire::CMD_GET);
        let mut devices = self.dump(
            || "list RDMA devices".to_owned(),
            request,
            RdmaDevice::decode,
        )?;
        devices.sort_by_key(|device| device.index);
        Ok(devices)
    }

    /// A device by its name.
    ///
    /// # Errors
    /// [`RdmaError::NotFound`], [`RdmaError::Request`].
    pub fn device(&mut self, name: &str) -> Result<RdmaDevice, RdmaError> {
        let devices = self.devices()?;
        let found = devices.iter().find(|device| device.name == name).cloned();
        found.ok_or_else(|| RdmaError::NotFound {
            device: name.to_owned(),
            netns: self.netns.clone(),
            present: devices.into_iter().map(|device| device.name).collect(),
        })
    }

    /// The ports of a device.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn ports(&mut self, device: u32) -> Result<Vec<RdmaPort>, RdmaError> {
        let request = wire::request(wire::CMD_PORT_GET).u32(wire::DEV_INDEX, device);
        self.dump(
            || format!("list the ports of RDMA device {device}"),
            request,
            RdmaPort::decode,
        )
    }

    /// Moves a device to another namespace, in exclusive mode, and looks for it there. Whoever uses
    /// it is cut off. Linux keeps the name; before 7.3 names are unique on the node, since then in
    /// a namespace.
    ///
    /// # Errors
    /// [`RdmaError::Request`], [`RdmaError::Lost`] when the move was accepted but had no effect.
    pub fn move_to(&mut self, device: &RdmaDevice, target: &Netns) -> Result<(), RdmaError> {
        let request = wire::request(wire::CMD_SET)
            .u32(wire::DEV_INDEX, device.index)
            .u32(wire::NET_NS_FD, target.as_fd().as_raw_fd().cast_unsigned());
        let what = || {
            format!(
                "move RDMA device {} to network namespace {target}",
                device.name
            )
        };
        self.change(what, request, |errno| match errno {
            libc::EOPNOTSUPP => {
                "RDMA must be in exclusive mode (rdma system show), and the driver able to let go \
                 of its users: soft-RoCE can from Linux 7.3 on"
            }
            libc::EPERM => "CAP_NET_ADMIN is needed in both namespaces",
            libc::EEXIST => "a device there has the name; rename one of them",
            libc::EINVAL => "the device is gone; a soft-RoCE device goes with its interface's move",
            libc::EBUSY => "the device is being moved or removed; try again",
            _ => "",
        })?;
        let there = Self::open(target)?.devices()?;
        if there.iter().any(|other| other.index == device.index) {
            Ok(())
        } else {
            Err(RdmaError::Lost {
                device: device.name.clone(),
                netns: target.to_string(),
            })
        }
    }

    /// Renames a device of this socket's namespace.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn rename(&mut self, device: u32, name: &str) -> Result<(), RdmaError> {
        let request = wire::request(wire::CMD_SET)
            .u32(wire::DEV_INDEX, device)
            .text(wire::DEV_NAME, name);
        self.change(
            || format!("rename RDMA device {device} to {name}"),
            request,
            |errno| match errno {
                libc::EEXIST => "the name is taken",
                libc::EINVAL => "a name has 1 to 63 bytes and no '/'",
                _ => "",
            },
        )
    }
}
