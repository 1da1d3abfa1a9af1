//! What RDMA applications in a container have to be told.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::super::Agent;
use crate::{
    api::types::Endpoint,
    endpoint::AttachmentRecord,
    link::{Netlink, Netns, NetnsRef, Sysfs},
    rdma::NetnsMode,
};

/// How long an ADD waits for the GID of a new address: the kernel makes it in
/// the background.
const PATIENCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(10);

impl Agent {
    /// Device, port and GID of an attachment's interfaces, by their names.
    pub(super) fn rdma_hints(
        &self,
        record: &AttachmentRecord,
        netns: &Netns,
    ) -> BTreeMap<String, Value> {
        if !Sysfs::default().has_rdma() {
            return BTreeMap::new();
        }
        let Ok(mut inside) = Netlink::open(netns) else {
            return BTreeMap::new();
        };
        let ids = self.endpoints_of(record).into_iter();
        ids.filter_map(|id| {
            let mut endpoint = self.endpoint(id).ok()?;
            let interface = inside.interface(&endpoint.interface).ok()?;
            endpoint.addresses = interface.addresses;
            let parent = interface.parent.map(|parent| parent.ifindex);
            let hint = self.rdma_hint(&mut endpoint, parent)?;
            Some((endpoint.interface, hint))
        })
        .collect()
    }

    fn rdma_hint(&self, endpoint: &mut Endpoint, parent: Option<u32>) -> Option<Value> {
        let routed = endpoint.addresses.iter().any(|net| match net.addr() {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        });
        let since = Instant::now();
        loop {
            self.forget_rdma();
            self.add_rdma(endpoint);
            let expects_gid = match &endpoint.rdma {
                Some(rdma) => rdma.gid.is_none(),
                None => self.shares_rdma(parent),
            };
            if !routed || !expects_gid || since.elapsed() > PATIENCE {
                return serde_json::to_value(endpoint.rdma.as_ref()?).ok();
            }
            thread::sleep(POLL);
        }
    }

    /// Whether an interface of the node has a device that its children use too.
    fn shares_rdma(&self, master: Option<u32>) -> bool {
        let (Some(master), Ok(node)) = (master, self.rdma()) else {
            return false;
        };
        let mut ports = node.devices.iter().flat_map(|device| &device.ports);
        node.mode == NetnsMode::Shared
            && ports.any(|port| {
                let netdev = port.port.netdev.as_ref();
                port.netdev_netns == Some(NetnsRef::Host)
                    && netdev.is_some_and(|netdev| netdev.ifindex == master)
            })
    }
}
