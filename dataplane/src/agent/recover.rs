//! The start: adopt what is attached, finish or take back what was begun.

use super::{Agent, Attached, Registered, Result, attach::open_same};
use crate::{
    api::types::{Health, TcMechanism},
    endpoint::{EndpointRecord, Phase},
    link::{Interface, Netlink, Netns},
};

impl Agent {
    /// Brings store and kernel in step. Endpoints keep running all the while:
    /// their programs need no agent.
    pub(super) fn recover(&self) -> Result<()> {
        let (uplinks, mut problems) = self.store.uplinks();
        for record in uplinks {
            let registered = Registered {
                health: Health::Lost("not attached yet".into()),
                interface: None,
                record: record.clone(),
            };
            self.state_mut().uplinks.insert(record.id, registered);
        }
        let (endpoints, errors) = self.store.endpoints();
        problems.extend(errors);
        for record in endpoints {
            self.adopt(record);
        }
        self.recover_blocks()?;
        self.keep_unknown();
        self.sweep();
        problems.extend(self.recover_attachments());
        self.state_mut().problems = problems.iter().map(ToString::to_string).collect();
        self.engage_uplinks();
        self.read_node_addresses();
        self.review_policy();
        if let Some(counters) = self.kernel.finish_migration()? {
            tracing::info!("the maps are of this version now; {counters} counters carried over");
        }
        Ok(())
    }

    /// Engages every registered uplink whose interface is there.
    pub(super) fn engage_uplinks(&self) {
        let mut changes = self.changes();
        let records: Vec<_> = {
            let state = self.state();
            let lost = state.uplinks.values();
            lost.filter(|uplink| uplink.health != Health::Attached)
                .map(|uplink| uplink.record.clone())
                .collect()
        };
        for record in records {
            let id = record.id;
            match changes.netlink.interface(&record.interface) {
                Err(error) => self.lose_uplink(id, error.to_string()),
                Ok(interface) => {
                    if let Err(error) = self.engage(&mut changes, record, interface)
                        && let Some(uplink) = self.state_mut().uplinks.get_mut(&id)
                    {
                        uplink.health = Health::Lost(error.to_string());
                    }
                }
            }
        }
        self.sync_reach(&mut changes);
    }

    /// Takes one recorded endpoint over, or clears away what is left of it.
    fn adopt(&self, record: EndpointRecord) {
        let id = record.id;
        let Some((netns, interface)) = find_interface(&record) else {
            return self.clear_away(&record);
        };
        if record.phase == Phase::Intent {
            return self.clear_away(&record);
        }
        let (record, health) = match self.renew(record.clone(), &netns, &interface) {
            Ok(renewed) => (renewed, Health::Attached),
            Err(error) => (record, Health::Lost(error.to_string())),
        };
        let nsid = self.changes().netlink.ensure_nsid(&netns);
        let attached = Attached {
            uplink: None,
            nsid: nsid.unwrap_or_default(),
            record,
            interface,
            health,
            mode_repairs: 0,
        };
        let mut state = self.state_mut();
        state.families.join(&attached);
        state.endpoints.insert(id, attached);
    }

    /// Makes sure that the endpoint runs this version's entry programs, and no
    /// stand-ins beside them; the record of it.
    fn renew(
        &self,
        mut record: EndpointRecord,
        netns: &Netns,
        interface: &Interface,
    ) -> Result<EndpointRecord> {
        self.configure(record.id)?;
        if record.stand_in {
            return self.end_stand_in(record, netns, interface);
        }
        let current = record.entry_tags == self.entry_tags && !self.kernel.is_migrating();
        let alive = match record.mechanism {
            TcMechanism::Tcx => self.kernel.linked_interface(record.id) == Some(interface.ifindex),
            // Attaching replaces the filter, and puts it back if it is gone.
            TcMechanism::Clsact => false,
        };
        if alive && current {
            return Ok(record);
        }
        if !(alive && self.kernel.refresh(record.id).is_ok()) {
            self.kernel
                .attach(netns, &interface.name, record.id, record.mechanism)?;
        }
        if !current {
            record.entry_tags = self.entry_tags;
            self.store.put_endpoint(&record)?;
        }
        Ok(record)
    }

    /// Removes what an endpoint whose interface is gone left behind.
    fn clear_away(&self, record: &EndpointRecord) {
        let netns = open_same(&record.netns, record.netns_id);
        let detached = self.take_off(record, netns.as_ref(), &record.interface);
        match detached {
            Ok(()) => self.take_back(record.id),
            Err(error) => tracing::warn!("clearing endpoint {} away: {error}", record.id),
        }
    }

    /// Removes pins and files that belong to nothing.
    fn sweep(&self) {
        let state = self.state();
        let pins = self.kernel.pins();
        let wanted: std::collections::HashSet<_> = state
            .endpoints
            .keys()
            .chain(&state.unknown)
            .flat_map(|id| pins.endpoint_links(*id))
            .chain(state.uplinks.keys().flat_map(|id| pins.uplink_links(*id)))
            .collect();
        for path in pins.stray_links(|path| wanted.contains(path)) {
            match std::fs::remove_file(&path) {
                Ok(()) => tracing::info!("{}: stray pin removed", path.display()),
                Err(error) => tracing::warn!("{}: {error}", path.display()),
            }
        }
        self.store
            .sweep_endpoints(|id| state.endpoints.contains_key(&id) || state.unknown.contains(&id));
        self.store.sweep_temporary();
    }
}

/// The interface that a record speaks of, if it is still the same one.
fn find_interface(record: &EndpointRecord) -> Option<(Netns, Interface)> {
    let netns = open_same(&record.netns, record.netns_id)?;
    let interface = Netlink::open(&netns)
        .and_then(|mut netlink| netlink.interface_by_index(record.ifindex))
        .ok()?;
    Some((netns, interface))
}
