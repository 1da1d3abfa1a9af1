//! Putting back what a pod with `CAP_NET_ADMIN` can take from the programs: filters on clsact, and
//! an ipvlan interface's place in front of their hooks.

use std::sync::atomic::Ordering;

use super::{Agent, Result, attach::open_same};
use crate::{
    api::types::TcMechanism,
    link::{Interface, InterfaceKind, IpvlanMode, Netlink, Netns},
};

impl Agent {
    /// Puts back the filters that somebody may have taken away: on clsact
    /// nothing but this stops a pod from doing so. `affected` says of which
    /// interfaces, by namespace's id and index.
    pub(super) fn restore_filters(&self, affected: impl Fn(Option<i32>, u32) -> bool) {
        let endpoints: Vec<_> = {
            let state = self.state();
            let endpoints = state.endpoints.values();
            endpoints
                .filter(|endpoint| {
                    let record = &endpoint.record;
                    record.mechanism == TcMechanism::Clsact
                        && affected(endpoint.nsid, record.ifindex)
                })
                .map(|endpoint| (endpoint.record.id, endpoint.interface.name.clone()))
                .collect()
        };
        for (id, interface) in endpoints {
            let Ok((_turn, record)) = self.turn(id) else {
                continue;
            };
            let Some(netns) = open_same(&record.netns, record.netns_id) else {
                continue;
            };
            match self.kernel.restore_filters(&netns, &interface, record.id) {
                Ok(0) => {}
                Ok(restored) => self.tell_repair(
                    id,
                    restored,
                    &format!("{restored} filters of {interface} had been removed; put back"),
                ),
                Err(error) => tracing::error!("endpoint {id}: {error}"),
            }
        }
    }

    /// Takes an ipvlan interface out of mode l3s, in which arriving packets
    /// pass no hook of it, and with it all others of the same parent. One that
    /// cannot be taken out is set down.
    ///
    /// # Errors
    /// It is in that mode still; what arrives is not judged unless it is down.
    pub(super) fn keep_hooks(&self, id: u32, netns: &Netns, interface: &Interface) -> Result<()> {
        if !is_out_of_sight(&interface.kind) {
            return Ok(());
        }
        let mode = {
            let mut state = self.state_mut();
            let Some(endpoint) = state.endpoints.get_mut(&id) else {
                return Ok(());
            };
            endpoint.mode_repairs += 1;
            endpoint.record.ipvlan_mode.unwrap_or(IpvlanMode::L2)
        };
        let mut netlink = Netlink::open(netns)?;
        let name = &interface.name;
        if let Err(error) = netlink.set_ipvlan_mode(interface.ifindex, mode) {
            let down = netlink.set_up(interface.ifindex, false);
            let outcome = down.map_or_else(|error| error.to_string(), |()| "set down".to_owned());
            tracing::error!("endpoint {id}: {name} is in ipvlan mode l3s: {error}; {outcome}");
            return Err(error.into());
        }
        let what = format!(
            "{name} had been put into ipvlan mode l3s, whose arriving packets pass no program; \
             put back into mode {mode}"
        );
        self.tell_repair(id, 1, &what);
        Ok(())
    }

    /// Counts something that was put back, logs it, and tells it as an event.
    fn tell_repair(&self, id: u32, times: u64, what: &str) {
        self.repairs.fetch_add(times, Ordering::Relaxed);
        tracing::warn!("endpoint {id}: {what}");
        self.announce(id, "repair", "ingress", what.to_owned());
    }
}

/// Whether arriving packets pass no hook of such an interface.
pub(super) fn is_out_of_sight(kind: &InterfaceKind) -> bool {
    matches!(
        kind,
        InterfaceKind::Ipvlan {
            mode: IpvlanMode::L3s
        }
    )
}
