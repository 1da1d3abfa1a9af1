//! CHECK: is what was given still there?

use super::super::{Agent, Error, Result};
use crate::{
    api::types::{
        Health,
        cni::{CheckRequest, Done, ExpectedInterface},
    },
    endpoint::Stage,
    link::{MAIN_TABLE, Netlink, Netns, NetnsRef, Route},
};

impl Agent {
    /// Holds an attachment against what a result said of it.
    pub fn cni_check(&self, request: &CheckRequest) -> Result<Done> {
        let attachment = &request.attachment;
        let _turn = self.attachments.take(attachment.clone());
        let netns = Netns::open(&NetnsRef::Path(request.netns.clone()))?;
        let record = self
            .attachment(attachment)
            .filter(|record| record.stage == Stage::Done && record.netns_id == netns.id())
            .ok_or_else(|| {
                Error::NotFound(format!("{attachment} is not attached; it needs a new ADD"))
            })?;
        let mut netlink = Netlink::open(&netns)?;
        for expected in &request.interfaces {
            self.check_interface(&mut netlink, &netns, expected)?;
        }
        let Some(name) = record.interfaces.first() else {
            return Ok(Done {});
        };
        let ifindex = netlink.interface(name)?.ifindex;
        for wanted in &request.routes {
            let table = wanted.table.unwrap_or(MAIN_TABLE);
            let there = netlink.routes(table)?.iter().any(|route: &Route| {
                route.ifindex == ifindex && route.destination == wanted.dst.trunc()
            });
            if !there {
                return Err(differs(name, &format!("has no route to {}", wanted.dst)));
            }
        }
        Ok(Done {})
    }

    fn check_interface(
        &self,
        netlink: &mut Netlink,
        netns: &Netns,
        expected: &ExpectedInterface,
    ) -> Result<()> {
        let name = &expected.name;
        let interface = netlink.interface(name)?;
        if expected.mac.is_some() && expected.mac != interface.mac {
            return Err(differs(name, "has another MAC address"));
        }
        for address in &expected.addresses {
            if !interface.addresses.contains(address) {
                return Err(differs(name, &format!("has no address {address}")));
            }
        }
        let Some(id) = self.find(netns.id(), interface.ifindex) else {
            return Err(differs(name, "is not in the dataplane"));
        };
        let state = self.state();
        match state.endpoints.get(&id).map(|endpoint| &endpoint.health) {
            Some(Health::Lost(reason)) => Err(differs(name, reason)),
            _ => Ok(()),
        }
    }
}

fn differs(interface: &str, how: &str) -> Error {
    Error::Conflict(format!(
        "interface {interface} {how}; the pod must be made anew"
    ))
}
