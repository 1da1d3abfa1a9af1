//! What `sluice status` shows.

use dataplane_ebpf::abi::LAYOUT;

use super::{Agent, Result};
use crate::api::types::{Endpoint, Health, RoceEndpoints, RoceVisibility, Status};

impl Agent {
    /// The state of the agent and its dataplane.
    pub fn status(&self) -> Result<Status> {
        let features = self.kernel.features();
        let maps = self.kernel.map_status();
        let foreign = self.kernel.foreign_pins();
        let policies = self.policy_problems();
        let crowded = self.rdma_problems();
        let roce = roce_endpoints(&self.endpoints());
        let state = self.state();
        let foreign = foreign.iter().map(|path| {
            format!(
                "{}: not one of Sluice's pins; remove it if nothing needs it",
                path.display()
            )
        });
        let lost_endpoints = state.endpoints.values().filter_map(|endpoint| {
            let Health::Lost(reason) = &endpoint.health else {
                return None;
            };
            let (id, name) = (endpoint.record.id, &endpoint.interface.name);
            Some(format!("endpoint {id} ({name}): not attached: {reason}"))
        });
        let tampered = state.endpoints.values().filter_map(|endpoint| {
            let (id, name) = (endpoint.record.id, &endpoint.interface.name);
            let times = endpoint.mode_repairs;
            (times > 0).then(|| {
                format!(
                    "endpoint {id} ({name}): found in ipvlan mode l3s, in which nothing that \
                     arrives is judged, {times} times since the agent started; take CAP_NET_ADMIN \
                     from the pods on its parent"
                )
            })
        });
        let unasked = state.endpoints.values().filter_map(|endpoint| {
            let (id, name) = (endpoint.record.id, &endpoint.interface.name);
            let (beside, netns) = (endpoint.record.beside.as_ref()?, &endpoint.record.netns);
            Some(format!(
                "endpoint {id} ({name}): nobody asked for it; it has come to be beside {beside} in \
                 {netns} and is held to the same policies: take CAP_NET_ADMIN from that pod if it \
                 should not make interfaces, or `sluice attach` it if it should be there"
            ))
        });
        let lost_uplinks = state.uplinks.values().filter_map(|uplink| {
            let Health::Lost(reason) = &uplink.health else {
                return None;
            };
            let name = &uplink.record.interface;
            Some(format!("uplink {name}: not attached: {reason}"))
        });
        let problems = state
            .problems
            .iter()
            .cloned()
            .chain(crowded)
            .chain(foreign)
            .chain(lost_endpoints)
            .chain(tampered)
            .chain(unasked)
            .chain(lost_uplinks)
            .chain(policies)
            .collect();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            kernel: features.release.clone(),
            cpus: features.cpus,
            mechanism: self.kernel.mechanism(self.options.tc)?,
            pins: self.kernel.pins().folder(),
            layout: LAYOUT,
            pipeline: self.kernel.pipeline().to_owned(),
            endpoints: state.endpoints.len() as u32,
            max_endpoints: self.options.max_endpoints,
            memory_bytes: maps.iter().map(|map| map.memory_bytes).sum(),
            maps,
            roce,
            uplinks: state
                .uplinks
                .values()
                .map(super::Registered::describe)
                .collect(),
            problems,
        })
    }
}

fn roce_endpoints(endpoints: &[Endpoint]) -> RoceEndpoints {
    let mut roce = RoceEndpoints::default();
    for endpoint in endpoints {
        match endpoint.roce {
            Some(RoceVisibility::Wire) => roce.wire += 1,
            Some(RoceVisibility::Offloaded) => roce.offloaded.push(endpoint.id),
            Some(RoceVisibility::None) => roce.none += 1,
            None => roce.unknown.push(endpoint.id),
        }
    }
    roce
}
