//! What the node and its endpoints have of RDMA.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::super::{Agent, Error, Result};
use crate::{
    api::{
        hardware::{EndpointRdma, NodeRdma},
        types::{Endpoint, RoceVisibility},
    },
    link::{NetnsRef, Sysfs, other_namespaces},
    rdma::{Earlier, NetnsMode, PlacedDevice, PlacedPort, Rdma, RdmaError, TURNS, survey},
};

/// How old a survey may be. GID tables have hundreds of files, and `sluice top` asks each second.
const FRESH: Duration = Duration::from_secs(2);
/// From this part of a GID table on the node's administrator is warned.
const NEARLY_FULL: f64 = 0.8;

/// How many namespaces a message names.
const SHOWN: usize = 8;

/// How long a pod without RDMA is taken to be so: entering the namespaces of hundreds of pods takes
/// tens of milliseconds. A device that comes or goes anywhere has all of them looked at again.
const BARE: Duration = Duration::from_secs(60);

/// Type and interface of a GID are taken to be what they were while the GID itself, its port and the
/// endpoints stay, until it is its device's turn: [`TURNS`] of them, so long apart at least. What may
/// go unseen for a round: an interface that is no endpoint was renamed, or its address went to
/// another one.
const GIDS_TURN: Duration = Duration::from_secs(15);

type Surveyed = Arc<std::result::Result<NodeRdma, RdmaError>>;

/// The last survey.
#[derive(Default)]
pub(in crate::agent) struct RdmaView {
    last: Mutex<Option<Last>>,
}

struct Last {
    taken: Instant,
    view: Surveyed,
    /// The interfaces of endpoints, by id.
    interfaces: BTreeMap<u32, String>,
    /// Which of the [`TURNS`] was the last, and when.
    turn: (u32, Instant),
    /// Pods that had nothing of RDMA, and when they were looked at.
    bare: HashMap<NetnsRef, Instant>,
}

/// What tells that a device has come, gone or moved.
fn places(node: &NodeRdma) -> BTreeSet<(u32, String)> {
    let devices = node.devices.iter();
    devices
        .map(|placed| (placed.device.index, placed.netns.to_string()))
        .collect()
}

impl Agent {
    /// The RDMA devices of the node and its endpoints, with their ports and GIDs.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::agent::Error::Unsupported) when this kernel has no RDMA.
    pub fn rdma(&self) -> Result<NodeRdma> {
        match self.rdma_view().as_ref() {
            Ok(node) => Ok(node.clone()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets who sees RDMA devices. The kernel lets it change only while no other network namespace
    /// exists.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::agent::Error::Conflict) when the kernel refuses; the text says what blocks it and how to make
    /// the change permanent. [`Error::Unsupported`](crate::agent::Error::Unsupported) when this kernel has no RDMA.
    pub fn set_rdma_mode(&self, mode: NetnsMode) -> Result<NodeRdma> {
        let mut rdma = Rdma::open(&self.home)?;
        if rdma.mode()? != mode {
            rdma.set_mode(mode)
                .map_err(|error| self.explain_blocked(error.into()))?;
        }
        self.forget_rdma();
        self.rdma()
    }

    /// Adds the namespaces that are in the way of a change of the mode.
    fn explain_blocked(&self, error: Error) -> Error {
        let Error::Conflict(text) = error else {
            return error;
        };
        let others = other_namespaces(&self.home);
        let shown = others.len().min(SHOWN);
        let listed = others[..shown].join(", ");
        Error::Conflict(match others.len() - shown {
            0 if others.is_empty() => format!(
                "{text}; none has a name or a process: one that is just ending, or one that a \
                 mount or a file descriptor keeps"
            ),
            0 => format!("{text}; in the way: {listed}"),
            more => format!("{text}; in the way: {listed} and {more} more"),
        })
    }

    /// Adds what an endpoint has of RDMA, looked up now.
    pub(in crate::agent) fn add_rdma(&self, endpoint: &mut Endpoint) {
        match self.rdma_view().as_ref() {
            Ok(node) => {
                let (rdma, roce) = endpoint_rdma(endpoint, node);
                endpoint.rdma = rdma;
                endpoint.roce = roce;
            }
            Err(RdmaError::Unsupported) => endpoint.roce = Some(RoceVisibility::None),
            // Not known.
            Err(_) => {}
        }
    }

    /// Makes the next question be answered from the kernel.
    pub(in crate::agent) fn forget_rdma(&self) {
        let mut last = self
            .rdma
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = None;
    }

    /// GID tables that are full or soon will be, one line each.
    pub(in crate::agent) fn rdma_problems(&self) -> Vec<String> {
        let view = self.rdma_view();
        let Ok(node) = view.as_ref() else {
            return Vec::new();
        };
        node.devices
            .iter()
            .flat_map(|device| device.ports.iter().map(move |port| (device, port)))
            .filter(|(_, port)| port.gids.fill() >= NEARLY_FULL)
            .map(|(device, port)| nearly_full(device, port))
            .collect()
    }

    fn rdma_view(&self) -> Surveyed {
        let mut last = self
            .rdma
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Last { taken, view, .. }) = last.as_ref()
            && taken.elapsed() < FRESH
        {
            return view.clone();
        }
        let (pods, interfaces): (BTreeSet<String>, BTreeMap<u32, String>) = {
            let state = self.state();
            let records = state.endpoints.values().map(|endpoint| &endpoint.record);
            let places = records.map(|record| {
                (
                    record.netns.to_string(),
                    (record.id, record.interface.clone()),
                )
            });
            places.unzip()
        };
        let pods: Vec<NetnsRef> = pods.iter().filter_map(|pod| pod.parse().ok()).collect();
        let now = self.survey(&pods, interfaces, last.as_ref());
        let view = now.view.clone();
        *last = Some(now);
        view
    }

    /// Looks at these pods, but for those that lately had nothing, unless a device has moved.
    fn survey(
        &self,
        pods: &[NetnsRef],
        interfaces: BTreeMap<u32, String>,
        last: Option<&Last>,
    ) -> Last {
        let taken = Instant::now();
        let before = last.and_then(|last| last.view.as_ref().as_ref().ok());
        let settled = last.filter(|last| last.interfaces == interfaces);
        let turn = match settled.map(|last| last.turn) {
            Some((turn, at)) if at.elapsed() < GIDS_TURN => (turn, at),
            Some((turn, _)) => ((turn + 1) % TURNS, taken),
            None => (0, taken),
        };
        let earlier = before.filter(|_| settled.is_some()).map(|node| Earlier {
            node,
            turn: (turn.1 == taken).then_some(turn.0),
        });
        let look = |pods: &[NetnsRef]| survey(&self.home, &Sysfs::default(), pods, earlier);
        let mut bare = last.map_or_else(HashMap::new, |last| last.bare.clone());
        bare.retain(|pod, looked| looked.elapsed() < BARE && pods.contains(pod));
        let asked: Vec<_> = pods
            .iter()
            .filter(|pod| !bare.contains_key(*pod))
            .cloned()
            .collect();
        let mut surveyed = look(&asked);
        if let (Ok((now, _)), Some(before)) = (&surveyed, before)
            && !bare.is_empty()
            && places(now) != places(before)
        {
            bare.clear();
            surveyed = look(pods);
        }
        let view = surveyed.map(|(node, without)| {
            bare.extend(without.into_iter().map(|pod| (pod, taken)));
            node
        });
        Last {
            taken,
            view: Arc::new(view),
            interfaces,
            turn,
            bare,
        }
    }
}

fn nearly_full(device: &PlacedDevice, port: &PlacedPort) -> String {
    let (used, capacity) = (port.gids.entries.len(), port.gids.capacity);
    format!(
        "RDMA port {}/{}: {used} of {capacity} GIDs in use; each address of each interface on its \
         NIC takes one or two, and a pod whose address finds no place has no RoCE: move pods to \
         another NIC, or turn IPv6 link-local addresses off where they are not needed",
        device.device.name, port.port.port
    )
}

/// The port of an endpoint: that of its own interface, or else, where devices are shared, the one
/// that has a GID for one of its addresses, as a macvlan's master's has.
///
/// And who sees its RoCE, where the device's driver is known.
fn endpoint_rdma(
    endpoint: &Endpoint,
    node: &NodeRdma,
) -> (Option<EndpointRdma>, Option<RoceVisibility>) {
    let Some((device, port)) = find_port(endpoint, node) else {
        return (None, Some(RoceVisibility::None));
    };
    let rdma = describe(endpoint, node, device, port);
    (Some(rdma), visibility(device))
}

fn visibility(device: &PlacedDevice) -> Option<RoceVisibility> {
    if device
        .device
        .protocol
        .as_deref()
        .is_some_and(|protocol| protocol != "roce")
    {
        return Some(RoceVisibility::None);
    }
    let software = device.driver?.is_software();
    Some(if software {
        RoceVisibility::Wire
    } else {
        RoceVisibility::Offloaded
    })
}

fn find_port<'a>(
    endpoint: &Endpoint,
    node: &'a NodeRdma,
) -> Option<(&'a PlacedDevice, &'a PlacedPort)> {
    let addresses: Vec<IpAddr> = endpoint
        .addresses
        .iter()
        .map(|address| address.addr())
        .collect();
    let ports = || {
        node.devices
            .iter()
            .flat_map(|device| device.ports.iter().map(move |port| (device, port)))
    };
    let own = |port: &PlacedPort| {
        let netdev = port.port.netdev.as_ref();
        port.netdev_netns.as_ref() == Some(&endpoint.netns)
            && netdev.is_some_and(|netdev| netdev.ifindex == endpoint.ifindex)
    };
    let speaks_for = |port: &PlacedPort| {
        let gid = port.gids.best(&addresses);
        gid.is_some_and(|gid| gid.netdev.as_ref() == Some(&endpoint.interface))
    };
    ports()
        .find(|(_, port)| own(port))
        .or_else(|| ports().find(|(_, port)| node.mode == NetnsMode::Shared && speaks_for(port)))
}

fn describe(
    endpoint: &Endpoint,
    node: &NodeRdma,
    device: &PlacedDevice,
    port: &PlacedPort,
) -> EndpointRdma {
    let addresses: Vec<IpAddr> = endpoint
        .addresses
        .iter()
        .map(|address| address.addr())
        .collect();
    let gid = port.gids.best(&addresses).cloned();
    let hca = format!("{}:{}", device.device.name, port.port.port);
    let mut environment = BTreeMap::from([("NCCL_IB_HCA".to_owned(), hca)]);
    if let Some(gid) = &gid {
        environment.insert("NCCL_IB_GID_INDEX".to_owned(), gid.index.to_string());
    }
    EndpointRdma {
        device: device.device.name.clone(),
        port: port.port.port,
        exclusive: node.mode == NetnsMode::Exclusive && device.netns == endpoint.netns,
        gid,
        environment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::types::{Health, TcMechanism},
        rdma::{
            Driver, Gid, GidTable, GidType, Guid, PhysicalState, PortNetdev, PortState, RdmaDevice,
            RdmaPort,
        },
    };

    fn endpoint(netns: &str, ifindex: u32, address: &str) -> Endpoint {
        Endpoint {
            id: 0,
            netns: netns.parse().unwrap(),
            netns_inode: 0,
            interface: "net1".into(),
            ifindex,
            kind: "macvlan bridge".into(),
            mac: None,
            addresses: vec![address.parse().unwrap()],
            pod: None,
            beside: None,
            uplink: None,
            mechanism: TcMechanism::Tcx,
            rdma: None,
            roce: None,
            health: Health::Attached,
        }
    }

    fn gid(index: u32, address: &str, netdev: &str) -> Gid {
        let address: IpAddr = address.parse().unwrap();
        Gid {
            index,
            gid: match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            },
            kind: GidType::RoceV2,
            netdev: Some(netdev.into()),
        }
    }

    fn device(index: u32, netns: &str, netdev: (u32, &str), gids: Vec<Gid>) -> PlacedDevice {
        let (ifindex, name) = netdev;
        let netns: NetnsRef = netns.parse().unwrap();
        PlacedDevice {
            device: RdmaDevice {
                index,
                name: format!("mlx5_{index}"),
                protocol: Some("roce".into()),
                firmware: None,
                node_guid: Guid(1),
                system_guid: Guid(1),
                ports: 1,
            },
            driver: None,
            pci: None,
            char_devices: Vec::new(),
            ports: vec![PlacedPort {
                port: RdmaPort {
                    device: index,
                    port: 1,
                    state: PortState::Active,
                    physical: PhysicalState::LinkUp,
                    lid: None,
                    netdev: Some(PortNetdev {
                        ifindex,
                        name: name.into(),
                    }),
                },
                netdev_netns: Some(netns.clone()),
                gids: GidTable {
                    capacity: 4,
                    entries: gids,
                },
            }],
            netns,
        }
    }

    fn node(mode: NetnsMode, devices: Vec<PlacedDevice>) -> NodeRdma {
        NodeRdma {
            mode,
            devices,
            cm_device: None,
        }
    }

    #[test]
    fn a_shared_device_speaks_for_a_macvlan_by_its_gid() {
        let gids = vec![
            gid(1, "10.0.0.1", "ens1f0"),
            gid(5, "10.0.0.7", "net1"),
            gid(7, "10.0.0.8", "net1"),
        ];
        let node = node(
            NetnsMode::Shared,
            vec![device(0, "host", (3, "ens1f0"), gids)],
        );
        let found = endpoint_rdma(&endpoint("a", 2, "10.0.0.8/24"), &node)
            .0
            .unwrap();
        assert_eq!((found.device.as_str(), found.port), ("mlx5_0", 1));
        assert!(!found.exclusive);
        assert_eq!(found.gid.unwrap().index, 7);
        assert_eq!(found.environment["NCCL_IB_HCA"], "mlx5_0:1");
        assert_eq!(found.environment["NCCL_IB_GID_INDEX"], "7");
        let other = endpoint_rdma(&endpoint("a", 2, "10.0.0.9/24"), &node);
        assert_eq!(other, (None, Some(RoceVisibility::None)));
    }

    #[test]
    fn a_device_of_ones_own_is_found_by_its_interface() {
        let other = device(0, "b", (2, "net1"), vec![gid(0, "10.0.0.7", "net1")]);
        let own = device(1, "a", (2, "net1"), vec![gid(3, "10.0.0.7", "net1")]);
        let node = node(NetnsMode::Exclusive, vec![other, own]);
        let found = endpoint_rdma(&endpoint("a", 2, "10.0.0.7/24"), &node)
            .0
            .unwrap();
        assert_eq!(found.device, "mlx5_1");
        assert!(found.exclusive);
        assert_eq!(found.gid.map(|gid| gid.index), Some(3));
        // Before the device has a GID for it.
        let found = endpoint_rdma(&endpoint("a", 2, "10.0.0.9/24"), &node)
            .0
            .unwrap();
        assert_eq!(found.gid, None);
        assert!(!found.environment.contains_key("NCCL_IB_GID_INDEX"));
    }

    #[test]
    fn the_driver_tells_who_sees_the_packets() {
        use RoceVisibility::{None as Nobody, Offloaded, Wire};
        for (driver, protocol, expected) in [
            (Some(Driver::Rxe), "roce", Some(Wire)),
            (Some(Driver::Mlx5), "roce", Some(Offloaded)),
            (Some(Driver::Ionic), "roce", Some(Offloaded)),
            (Some(Driver::Siw), "iw", Some(Nobody)),
            (Some(Driver::Mlx5), "ib", Some(Nobody)),
            (None, "roce", None),
        ] {
            let mut device = device(0, "a", (2, "net1"), Vec::new());
            device.driver = driver;
            device.device.protocol = Some(protocol.into());
            assert_eq!(visibility(&device), expected, "{driver:?} {protocol}");
        }
    }

    #[test]
    fn a_table_that_fills_is_told() {
        let gids = (0..3).map(|index| gid(index, "10.0.0.1", "net1")).collect();
        let device = device(0, "host", (3, "ens1f0"), gids);
        assert!(device.ports[0].gids.fill() < NEARLY_FULL);
        let text = nearly_full(&device, &device.ports[0]);
        assert!(
            text.starts_with("RDMA port mlx5_0/1: 3 of 4 GIDs"),
            "{text}"
        );
    }
}
