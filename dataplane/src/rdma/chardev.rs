//! The character devices by which programs use RDMA devices.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Driver, Rdma, RdmaError, wire};
use crate::netlink::decode::Malformed;

/// The kinds that belong to a device, by the kernel's names; those of a port first.
const OF_A_PORT: [&str; 2] = ["umad", "issm"];
const OF_A_DEVICE: [&str; 1] = ["uverbs"];
/// The connection manager's, one for the node.
const OF_THE_NODE: &str = "rdma_cm";

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CharDevice {
    /// Its name under `/dev/infiniband`.
    pub name: String,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// The version of its interface.
    pub abi: u64,
    /// The driver behind it, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
}

impl CharDevice {
    /// Where udev makes it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/dev/infiniband").join(&self.name)
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let [name, number, abi, driver] = wire::fields(
            body,
            [
                wire::CHARDEV_NAME,
                wire::CHARDEV,
                wire::CHARDEV_ABI,
                wire::UVERBS_DRIVER_ID,
            ],
        )?;
        let name = wire::required(name, wire::text)?;
        // It becomes a part of a path.
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(Malformed);
        }
        let number = u32::try_from(wire::required(number, wire::u64)?).map_err(|_| Malformed)?;
        Ok(Self {
            name,
            // `new_encode_dev` (linux/kdev_t.h).
            major: (number & 0xfff00) >> 8,
            minor: (number & 0xff) | ((number >> 12) & 0xfff00),
            abi: wire::required(abi, wire::u64)?,
            driver: wire::optional(driver, wire::u32)?.and_then(Driver::from_number),
        })
    }
}

impl Rdma {
    /// The character devices that belong to a device and its ports. Kinds whose module is not
    /// loaded are absent.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn char_devices(&mut self, device: u32, ports: u32) -> Result<Vec<CharDevice>, RdmaError> {
        let mut found = Vec::new();
        for kind in OF_A_DEVICE {
            found.extend(self.char_device(kind, Some(device), None)?);
        }
        for port in 1..=ports {
            for kind in OF_A_PORT {
                found.extend(self.char_device(kind, Some(device), Some(port))?);
            }
        }
        Ok(found)
    }

    /// The connection manager's character device, if its module is loaded.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn cm_char_device(&mut self) -> Result<Option<CharDevice>, RdmaError> {
        self.char_device(OF_THE_NODE, None, None)
    }

    fn char_device(
        &mut self,
        kind: &str,
        device: Option<u32>,
        port: Option<u32>,
    ) -> Result<Option<CharDevice>, RdmaError> {
        let mut request = wire::request(wire::CMD_GET_CHARDEV).text(wire::CHARDEV_TYPE, kind);
        if let Some(device) = device {
            request = request.u32(wire::DEV_INDEX, device);
        }
        if let Some(port) = port {
            request = request.u32(wire::PORT_INDEX, port);
        }
        let what = || format!("find the {kind} character device");
        match self.get(what, request, CharDevice::decode) {
            Ok(found) => Ok(Some(found)),
            // No such client of the device: its module is not loaded, or it has no use for it.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENOENT | libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
