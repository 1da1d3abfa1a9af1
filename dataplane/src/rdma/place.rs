//! Which RDMA device goes with which PCI function, subfunction or network interface, and the way of
//! a device to a pod and back.

use super::{Guid, Rdma, RdmaDevice, RdmaError, RdmaPort};
use crate::link::{DeviceId, Mac, Netns, Sysfs};

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

    /// The soft-RoCE device of this socket's namespace, which must be the node's, on an interface of
    /// another: in exclusive mode it is made on the node, wherever its interface is, and no answer
    /// tells of that interface then. Its `parent` in sysfs does, by name, and the device's GUID is
    /// made of the interface's address.
    ///
    /// # Errors
    /// [`RdmaError::Request`].
    pub fn soft_device_of(
        &mut self,
        sysfs: &Sysfs,
        interface: &str,
        mac: Mac,
    ) -> Result<Option<RdmaDevice>, RdmaError> {
        let devices = self.devices()?;
        Ok(devices
            .into_iter()
            .find(|device| is_soft_device_of(sysfs, device, interface, mac)))
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

fn is_soft_device_of(sysfs: &Sysfs, device: &RdmaDevice, interface: &str, mac: Mac) -> bool {
    let parent = sysfs.path(&format!("class/infiniband/{}/parent", device.name));
    device.node_guid == Guid::of(mac)
        && std::fs::read_to_string(parent).is_ok_and(|parent| parent.trim_end() == interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_device_is_known_in_a_handmade_sysfs() {
        let folder = tempfile::tempdir().unwrap();
        let sysfs = Sysfs::new(folder.path());
        let rxe0 = sysfs.path("class/infiniband/rxe0");
        std::fs::create_dir_all(&rxe0).unwrap();
        std::fs::write(rxe0.join("parent"), "net1\n").unwrap();
        let mac = Mac([2, 0x42, 0xac, 0, 0, 7]);
        let device = |name: &str, guid: &str| RdmaDevice {
            index: 0,
            name: name.into(),
            protocol: Some("roce".into()),
            firmware: None,
            node_guid: guid.to_owned().try_into().unwrap(),
            system_guid: Guid(0),
            ports: 1,
        };
        let is = |device: &RdmaDevice, interface: &str| {
            is_soft_device_of(&sysfs, device, interface, mac)
        };
        let own = device("rxe0", "0042:acff:fe00:0007");
        assert!(is(&own, "net1"));
        // The interface of another pod that has the name, or one more of the same master.
        assert!(!is(&device("rxe0", "0042:acff:fe00:0008"), "net1"));
        assert!(!is(&own, "net2"));
        // Hardware has no such file.
        assert!(!is(&device("mlx5_0", "0042:acff:fe00:0007"), "net1"));
    }
}
