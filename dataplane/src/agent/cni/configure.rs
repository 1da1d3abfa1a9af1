//! The second half of an ADD as main plugin: addresses, routes, and how the
//! interface behaves.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use super::{
    super::{Agent, Error, Result, attach::open_same},
    interface::Work,
};
use crate::{
    api::types::cni::{
        Address, ConfigureAnswer, ConfigureRequest, RESULT_KEY, Route as WantedRoute,
    },
    endpoint::{AttachmentRecord, Stage},
    link::Netlink,
};

impl Agent {
    /// Gives an interface that was made its addresses and routes, and sets it
    /// up. When it fails, the plugin undoes the ADD.
    pub fn cni_configure(&self, request: &ConfigureRequest) -> Result<ConfigureAnswer> {
        let attachment = &request.attachment;
        let _turn = self.attachments.take(attachment.clone());
        let mut record = self
            .attachment(attachment)
            .filter(|record| record.stage == Stage::Created)
            .ok_or_else(|| {
                Error::Conflict(format!("{attachment} waits for no addresses; try ADD anew"))
            })?;
        let gone = || Error::NotFound(format!("{attachment}: its namespace is gone"));
        let netns = open_same(&record.netns, record.netns_id).ok_or_else(gone)?;
        let Some(ifindex) = record.ifindex else {
            return Err(Error::Internal(format!("{attachment} has no interface")));
        };
        crate::agent::failpoint::step("cni::configure::before")?;
        let through_node = self.routes_through_node(&record, request)?;
        let mut work = Work::open(request, &netns, ifindex)?;
        work.prepare()?;
        crate::agent::failpoint::step("cni::configure::after_probe")?;
        work.add_addresses()?;
        crate::agent::failpoint::step("cni::configure::after_addresses")?;
        let rules = work.add_routes(&through_node)?;
        if !rules.is_empty() {
            // Rules outlive their interface: they are recorded before they are made.
            record.rules.clone_from(&rules);
            self.keep_attachment(&record)?;
            work.add_rules(&rules)?;
        }
        crate::agent::failpoint::step("cni::configure::after_routes")?;
        let mut result = request.result.clone();
        if let Some(routes) = result
            .get_mut("routes")
            .and_then(|routes| routes.as_array_mut())
        {
            routes.extend(through_node.iter().map(|route| serde_json::json!(route)));
        }
        let rdma = self.rdma_hints(&record, &netns);
        if !rdma.is_empty() {
            result[RESULT_KEY] = json!({ "rdma": &rdma });
        }
        record.result = Some(result);
        record.stage = Stage::Done;
        self.keep_attachment(&record)?;
        crate::agent::failpoint::step("cni::configure::after_done")?;
        if let Some(netns) = open_same(&record.netns, record.netns_id) {
            work.announce(netns);
        }
        self.settle_attachment(&record);
        Ok(ConfigureAnswer { through_node, rdma })
    }

    /// Routes to the wished prefixes through the node's own address on the
    /// interface's uplink.
    fn routes_through_node(
        &self,
        record: &AttachmentRecord,
        request: &ConfigureRequest,
    ) -> Result<Vec<WantedRoute>> {
        if request.through_node.is_empty() {
            return Ok(Vec::new());
        }
        let node = self.node_addresses(record)?;
        request
            .through_node
            .iter()
            .map(|dst| {
                let gateway = gateway_for(dst, &node, &request.addresses).ok_or_else(|| {
                    Error::Invalid(format!(
                        "the node has no address to route {dst} through on the master; give it \
                         one of that family, or leave the route out"
                    ))
                })?;
                Ok(WantedRoute {
                    dst: *dst,
                    gw: Some(gateway),
                    mtu: None,
                    advmss: None,
                    priority: None,
                    table: None,
                    scope: None,
                })
            })
            .collect()
    }

    /// The node's addresses on the parent of the attachment's interface.
    fn node_addresses(&self, record: &AttachmentRecord) -> Result<Vec<IpNet>> {
        let parent = {
            let state = self.state();
            let mut endpoints = state.endpoints.values();
            endpoints
                .find(|endpoint| {
                    endpoint.record.netns_id == record.netns_id
                        && record.interfaces.contains(&endpoint.record.interface)
                })
                .and_then(|endpoint| endpoint.interface.parent)
        };
        let parent = parent.ok_or_else(|| {
            Error::Invalid(
                "routes through the node need an interface that hangs off one of the node's".into(),
            )
        })?;
        let interface = Netlink::open(&self.home)?.interface_by_index(parent.ifindex)?;
        Ok(interface.addresses)
    }
}

/// The node's address to use as a gateway: one in a subnet of the pod's if
/// there is one; never a link-local one.
fn gateway_for(dst: &IpNet, node: &[IpNet], pod: &[Address]) -> Option<IpAddr> {
    let family = |address: &IpAddr| address.is_ipv6() == dst.addr().is_ipv6();
    let usable = || {
        node.iter()
            .map(IpNet::addr)
            .filter(family)
            .filter(|address| !is_link_local(address))
    };
    usable()
        .find(|address| pod.iter().any(|pod| pod.address.contains(address)))
        .or_else(|| usable().next())
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
