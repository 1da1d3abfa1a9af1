//! All RDMA devices of a node, wherever they are.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CharDevice, Driver, GidTable, NetnsMode, Rdma, RdmaDevice, RdmaError, RdmaPort};
use crate::link::{Netns, NetnsRef, Sysfs, with_sysfs_of};

/// The RDMA devices of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRdma {
    /// Who sees a device.
    pub mode: NetnsMode,
    /// The devices, by index.
    pub devices: Vec<PlacedDevice>,
    /// The connection manager's character device.
    pub cm_device: Option<CharDevice>,
}

impl NodeRdma {
    /// A node without RDMA devices.
    pub fn none() -> Self {
        Self {
            mode: NetnsMode::Shared,
            devices: Vec::new(),
            cm_device: None,
        }
    }
}

/// An RDMA device and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedDevice {
    /// The device.
    #[serde(flatten)]
    pub device: RdmaDevice,
    /// The namespace that it was found in, the node's or, in exclusive mode, a pod's.
    pub netns: NetnsRef,
    /// Its driver, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// Its PCI function; soft devices have none.
    pub pci: Option<String>,
    /// Its ports.
    #[serde(rename = "port_list")]
    pub ports: Vec<PlacedPort>,
    /// Its character devices.
    pub char_devices: Vec<CharDevice>,
}

/// A port of an RDMA device and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedPort {
    /// The port.
    #[serde(flatten)]
    pub port: RdmaPort,
    /// The namespace of its network interface, where that was found.
    pub netdev_netns: Option<NetnsRef>,
    /// Its GIDs.
    pub gids: GidTable,
}

/// An earlier survey that is believed in part.
#[derive(Debug, Clone, Copy)]
pub struct Earlier<'a> {
    /// What was found.
    pub node: &'a NodeRdma,
    /// The share of the devices that is read anew all the same, below [`TURNS`]; none where that is
    /// not due.
    pub turn: Option<u32>,
}

/// In so many turns every device is read anew, so that no survey has to read all.
pub const TURNS: u32 = 4;

impl Earlier<'_> {
    /// The same port of the same device in the same place and state, if there was one
    /// and it is believed still.
    fn same_port(
        &self,
        device: &RdmaDevice,
        netns: &NetnsRef,
        port: &RdmaPort,
    ) -> Option<&PlacedPort> {
        if self.turn == Some(device.index % TURNS) {
            return None;
        }
        let mut devices = self.node.devices.iter();
        let known = devices.find(|known| known.device == *device && known.netns == *netns)?;
        known.ports.iter().find(|known| {
            // What was found in another namespace is not seen from this one.
            let here = known.netdev_netns.as_ref() == Some(netns);
            let netdev = known.port.netdev.as_ref().filter(|_| here);
            known.port.port == port.port
                && known.port.state == port.state
                && netdev == port.netdev.as_ref()
        })
    }
}

/// Looks at the node and at these pods. A pod that has gone meanwhile is passed over. The second
/// part of the answer names the pods that have nothing of RDMA.
///
/// With an earlier survey as `before`, type and interface of a GID are read again only where the
/// GID or its port has changed since, and where it is the device's turn.
///
/// # Errors
/// [`RdmaError::Unsupported`], or that the node itself could not be read.
pub fn survey(
    node: &Netns,
    sysfs: &Sysfs,
    pods: &[NetnsRef],
    before: Option<Earlier<'_>>,
) -> Result<(NodeRdma, Vec<NetnsRef>), RdmaError> {
    let mut rdma = Rdma::open(node)?;
    let mode = rdma.mode()?;
    let mut devices = place(&mut rdma, &NetnsRef::Host, sysfs, before)?;
    let mut bare = Vec::new();
    for pod in pods {
        let looked = match mode {
            NetnsMode::Exclusive => devices_of(pod, before).map(|found| {
                let any = !found.is_empty();
                devices.extend(found);
                any
            }),
            NetnsMode::Shared => find_netdevs(pod, &mut devices),
        };
        match looked {
            Ok(true) => {}
            Ok(false) => bare.push(pod.clone()),
            Err(error) => tracing::debug!("RDMA devices of {pod}: {error}"),
        }
    }
    devices.sort_by_key(|placed| placed.device.index);
    let node = NodeRdma {
        mode,
        cm_device: rdma.cm_char_device()?,
        devices,
    };
    Ok((node, bare))
}

/// The devices that a pod has for itself.
fn devices_of(pod: &NetnsRef, before: Option<Earlier<'_>>) -> Result<Vec<PlacedDevice>, RdmaError> {
    let netns = Netns::open(pod)?;
    let mut rdma = Rdma::open(&netns)?;
    if rdma.devices()?.is_empty() {
        return Ok(Vec::new());
    }
    with_sysfs_of(&netns, |sysfs| place(&mut rdma, pod, sysfs, before))?
}

/// In shared mode every namespace sees the devices, but each only its own network interfaces.
/// Whether the pod has one of them.
fn find_netdevs(pod: &NetnsRef, devices: &mut [PlacedDevice]) -> Result<bool, RdmaError> {
    let (mut rdma, mut found) = (None, false);
    for placed in devices {
        for port in &mut placed.ports {
            if port.port.netdev.is_some() {
                continue;
            }
            let rdma = match &mut rdma {
                Some(rdma) => rdma,
                None => rdma.insert(Rdma::open(&Netns::open(pod)?)?),
            };
            let seen = rdma.ports(placed.device.index)?;
            let same = seen
                .into_iter()
                .find(|other| other.port == port.port.port && other.netdev.is_some());
            if let Some(same) = same {
                found = true;
                port.port = same;
                port.netdev_netns = Some(pod.clone());
            }
        }
    }
    Ok(found)
}

fn place(
    rdma: &mut Rdma,
    netns: &NetnsRef,
    sysfs: &Sysfs,
    before: Option<Earlier<'_>>,
) -> Result<Vec<PlacedDevice>, RdmaError> {
    let mut placed = Vec::new();
    for device in rdma.devices()? {
        let mut ports = Vec::new();
        for port in rdma.ports(device.index)? {
            let known = before
                .as_ref()
                .and_then(|before| before.same_port(&device, netns, &port));
            ports.push(PlacedPort {
                netdev_netns: port.netdev.as_ref().map(|_| netns.clone()),
                gids: GidTable::read(sysfs, &device.name, port.port, known.map(|port| &port.gids))?,
                port,
            });
        }
        let pci = pci_of(sysfs, &device.name);
        let char_devices = rdma.char_devices(device.index, device.ports)?;
        let told = char_devices.iter().find_map(|found| found.driver);
        let beside = || {
            let function = sysfs.pci(pci.as_deref()?).ok()?;
            Driver::beside(function.driver.as_deref()?)
        };
        placed.push(PlacedDevice {
            netns: netns.clone(),
            driver: told.or_else(beside),
            pci,
            ports,
            char_devices,
            device,
        });
    }
    Ok(placed)
}

/// The PCI function that an RDMA device belongs to, directly or through an auxiliary device.
fn pci_of(sysfs: &Sysfs, device: &str) -> Option<String> {
    let link = sysfs.path(&format!("class/infiniband/{device}/device"));
    let real = std::fs::canonicalize(link).ok()?;
    real.ancestors()
        .filter_map(Path::file_name)
        .filter_map(|name| name.to_str())
        .find(|name| crate::link::sysfs::is_pci_address(name))
        .map(str::to_owned)
}
