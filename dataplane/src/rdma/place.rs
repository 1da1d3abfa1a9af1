//! Which RDMA device goes with which PCI function, subfunction or network interface, and the way of
//! a device to a pod and back.

use super::{Rdma, RdmaDevice, RdmaError, RdmaPort};
use crate::link::{DeviceId, Netns, Sysfs};

impl Rdma {
    /// The devices of a PCI function or auxiliary device, as far as they are in this socket's
    /// namespace, which must be the node's: in exclusive mode sysfs has no others.
    ///
    /// # Errors
    /// [`RdmaError::Link`] when there is no such function, [`RdmaError::Request`].
    pub fn of_device(
        &mut self,
        sysfs: &Sysfs,
        device: &DeviceId,
    ) -> Result<Vec<RdmaDevice>, RdmaError> {
        let names = sysfs.rdma(device)?;
        let mut devices = self.devices()?;
        devices.retain(|device| names.contains(&device.name));
        Ok(devices)
    }

    /// The device and port of a network interface of this socket's namespace.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn of_netdev(&mut self, ifindex: u32) -> Result<Option<(RdmaDevice, RdmaPort)>, RdmaError> {
        for device in self.devices()? {
            let port = self.ports(device.index)?.into_iter().find(|port| {
                port.netdev
                    .as_ref()
                    .is_some_and(|netdev| netdev.ifindex == ifindex)
            });
            if let Some(port) = port {
                return Ok(Some((device, port)));
            }
        }
        Ok(None)
    }

    /// Takes a device back from this socket's namespace, a pod's, to the node's, under the name it
    /// had there; `false` when it is not here: it may have come back by itself, as it does when a
    /// namespace ends.
    ///
    /// # Errors
    /// [`RdmaError::Request`], [`RdmaError::Lost`].
    pub fn take_back(&mut self, device: u32, name: &str, node: &Netns) -> Result<bool, RdmaError> {
        let Some(here) = self
            .devices()?
            .into_iter()
            .find(|other| other.index == device)
        else {
            return Ok(false);
        };
        self.move_to(&here, node)?;
        if here.name != name {
            Self::open(node)?.rename(device, name)?;
        }
        Ok(true)
    }
}
