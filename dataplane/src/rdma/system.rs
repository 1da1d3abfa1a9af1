//! How RDMA devices and network namespaces go together on this node.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Rdma, RdmaError, wire};
use crate::netlink::decode::Malformed;

/// Who sees an RDMA device (`rdma system show`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetnsMode {
    /// Every namespace sees every device.
    Shared,
    /// A device is in one namespace, and seen there only.
    Exclusive,
}

impl NetnsMode {
    /// `ib_core`'s module parameter `netns_mode`, and the number on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Shared => 1,
            Self::Exclusive => 0,
        }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let [mode] = wire::fields(body, [wire::SYS_NETNS_MODE])?;
        match wire::required(mode, wire::byte)? {
            0 => Ok(Self::Exclusive),
            1 => Ok(Self::Shared),
            _ => Err(Malformed),
        }
    }
}

impl fmt::Display for NetnsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        })
    }
}

impl FromStr for NetnsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "shared" => Ok(Self::Shared),
            "exclusive" => Ok(Self::Exclusive),
            _ => Err(format!("{text:?} is neither \"shared\" nor \"exclusive\"")),
        }
    }
}

impl Rdma {
    /// The mode of the node. Before Linux 5.2 there was none, and every device was shared; such
    /// kernels answer with an error.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn mode(&mut self) -> Result<NetnsMode, RdmaError> {
        let request = wire::request(wire::CMD_SYS_GET);
        self.get(
            || "read the RDMA namespace mode".to_owned(),
            request,
            NetnsMode::decode,
        )
    }

    /// Sets the mode of the node. The kernel refuses (EBUSY) while any network namespace exists
    /// besides the first, whether it has RDMA devices or not: on a node with pods that is always.
    ///
    /// # Errors
    /// [`RdmaError::Request`] with the remedy.
    pub fn set_mode(&mut self, mode: NetnsMode) -> Result<(), RdmaError> {
        let request =
            wire::request(wire::CMD_SYS_SET).attribute(wire::SYS_NETNS_MODE, &[mode.number()]);
        self.change(
            || format!("set the RDMA namespace mode to {mode}"),
            request,
            |errno| match (errno, mode) {
                (libc::EBUSY, NetnsMode::Exclusive) => {
                    "it can change only while no other network namespace exists (see lsns -t net); \
                     write options ib_core netns_mode=0 to /etc/modprobe.d/ib_core.conf, rebuild \
                     the initramfs and reboot"
                }
                (libc::EBUSY, NetnsMode::Shared) => {
                    "it can change only while no other network namespace exists (see lsns -t net); \
                     remove netns_mode=0 from /etc/modprobe.d, rebuild the initramfs and reboot"
                }
                (libc::EPERM, _) => "CAP_NET_ADMIN is needed in the node's own user namespace",
                _ => "",
            },
        )
    }

    /// Checks that the node is in a mode.
    ///
    /// # Errors
    /// [`RdmaError::WrongMode`], [`RdmaError::Request`].
    pub fn require_mode(&mut self, needed: NetnsMode) -> Result<(), RdmaError> {
        let found = self.mode()?;
        if found == needed {
            Ok(())
        } else {
            Err(RdmaError::WrongMode { found, needed })
        }
    }
}
