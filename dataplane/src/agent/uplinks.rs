//! Registering uplinks.

use dataplane_ebpf::abi::{MAX_UPLINKS, UPLINK_BIT, UplinkConfig};

use super::{Agent, Changes, Error, Registered, Result};
use crate::{
    api::types::{Health, Uplink, UplinkRequest},
    endpoint::UplinkRecord,
    kernel::UplinkSettings,
    link::{Interface, Netns},
};

impl Agent {
    /// Registers an uplink, or changes its settings.
    pub fn add_uplink(&self, request: &UplinkRequest) -> Result<Uplink> {
        let mut changes = self.changes();
        let interface = changes.netlink.interface(&request.interface)?;
        if interface.mac.is_none() {
            return Err(Error::Invalid(format!(
                "interface {} is no Ethernet interface and cannot be an uplink",
                interface.name
            )));
        }
        let record = match self.uplink_named(&request.interface) {
            Some(mut record) => {
                record.host_reach = request.host_reach;
                record
            }
            None => UplinkRecord {
                id: self.free_uplink()?,
                interface: request.interface.clone(),
                host_reach: request.host_reach,
                mechanism: self.kernel.mechanism(self.options.tc)?,
                made_clsact: false,
                xdp: None,
            },
        };
        let id = record.id;
        let new = !self.state().uplinks.contains_key(&id);
        if new {
            self.kernel.maps().clear_uplink(id, UPLINK_BIT | id)?;
        }
        self.store.put_uplink(&record)?;
        if let Err(error) = self.engage(&mut changes, record, interface) {
            if new {
                self.store.remove_uplink(id)?;
            }
            return Err(error);
        }
        self.uplink(id)
    }

    /// Makes sure that an interface is an uplink with (or without) host reach.
    pub(super) fn ensure_uplink(&self, interface: &str, host_reach: bool) -> Result<()> {
        let registered = self.uplink_named(interface);
        if registered.is_some_and(|record| record.host_reach == host_reach) {
            return Ok(());
        }
        let request = UplinkRequest {
            interface: interface.to_owned(),
            host_reach,
        };
        self.add_uplink(&request).map(drop)
    }

    /// Registers the uplinks of the configuration. One whose interface is not
    /// there yet is engaged when it appears.
    pub fn declare_uplinks(&self, requests: &[UplinkRequest]) {
        for request in requests {
            match self.add_uplink(request) {
                Ok(_) => {}
                Err(Error::NotFound(reason)) => self.expect_uplink(request, reason),
                Err(error) => {
                    let problem = format!("uplink {}: {error}", request.interface);
                    tracing::error!("{problem}");
                    self.state_mut().problems.push(problem);
                }
            }
        }
    }

    fn expect_uplink(&self, request: &UplinkRequest, reason: String) {
        tracing::warn!("{reason}");
        if self.uplink_named(&request.interface).is_some() {
            return;
        }
        let (Ok(id), Ok(mechanism)) = (self.free_uplink(), self.kernel.mechanism(self.options.tc))
        else {
            return;
        };
        let registered = Registered {
            record: UplinkRecord {
                id,
                interface: request.interface.clone(),
                host_reach: request.host_reach,
                mechanism,
                made_clsact: false,
                xdp: None,
            },
            interface: None,
            health: Health::Lost(reason),
        };
        self.state_mut().uplinks.insert(id, registered);
    }

    /// Forgets an uplink; its pods keep their programs.
    pub fn remove_uplink(&self, interface: &str) -> Result<Uplink> {
        let mut changes = self.changes();
        let Some(record) = self.uplink_named(interface) else {
            return Err(Error::NotFound(format!(
                "{interface} is no uplink; `sluice uplink list` lists them"
            )));
        };
        let uplink = self.uplink(record.id)?;
        self.kernel
            .detach_uplink(&self.home, interface, record.id, record.mechanism)?;
        if record.made_clsact {
            self.kernel.release_clsact(&self.home, interface);
        }
        let maps = self.kernel.maps();
        maps.set_uplink(record.id, UplinkConfig::default())?;
        {
            let mut state = self.state_mut();
            state.uplinks.remove(&record.id);
            for endpoint in state.endpoints.values_mut() {
                if endpoint.uplink == Some(record.id) {
                    endpoint.uplink = None;
                }
            }
        }
        self.sync_reach(&mut changes);
        self.store.remove_uplink(record.id)?;
        maps.clear_uplink(record.id, UPLINK_BIT | record.id)?;
        Ok(uplink)
    }

    /// Puts an uplink's tables and programs in place.
    pub(super) fn engage(
        &self,
        changes: &mut Changes,
        mut record: UplinkRecord,
        interface: Interface,
    ) -> Result<()> {
        let id = record.id;
        self.configure_uplink(&record, &interface)?;
        let settings = UplinkSettings {
            mechanism: record.mechanism,
            xdp: self.options.xdp,
            attached_xdp: record.xdp,
        };
        let attached = self
            .kernel
            .attach_uplink(&self.home, &interface.name, id, &settings)?;
        if attached.made_clsact || record.xdp != Some(attached.xdp) {
            record.made_clsact |= attached.made_clsact;
            record.xdp = Some(attached.xdp);
            self.store.put_uplink(&record)?;
        }
        let registered = Registered {
            record,
            interface: Some(interface),
            health: Health::Attached,
        };
        self.state_mut().uplinks.insert(id, registered);
        self.find_children();
        self.sync_reach(changes);
        Ok(())
    }

    /// Writes the uplink's entry of `uplinks`.
    pub(super) fn configure_uplink(
        &self,
        record: &UplinkRecord,
        interface: &Interface,
    ) -> Result<()> {
        let maps = self.kernel.maps();
        let mut flags = 0;
        if record.host_reach {
            flags |= UplinkConfig::HOST_REACH;
        }
        if !maps.blocks()?.is_empty() {
            flags |= UplinkConfig::BLOCK_LIST;
        }
        let config = UplinkConfig {
            ifindex: interface.ifindex,
            flags,
            mac: interface.mac.map_or([0; 6], |mac| mac.0),
            pad: [0; 2],
        };
        Ok(maps.set_uplink(record.id, config)?)
    }

    /// Finds anew which uplink each endpoint hangs off.
    fn find_children(&self) {
        let candidates: Vec<_> = {
            let state = self.state();
            let endpoints = state.endpoints.values();
            endpoints
                .map(|endpoint| {
                    let record = &endpoint.record;
                    let place = (record.netns.clone(), record.netns_id);
                    (record.id, place, endpoint.interface.clone())
                })
                .collect()
        };
        for (id, (netns, netns_id), interface) in candidates {
            let netns: Option<Netns> = super::attach::open_same(&netns, netns_id);
            let uplink = netns.and_then(|netns| self.uplink_of(&interface, &netns));
            if let Some(endpoint) = self.state_mut().endpoints.get_mut(&id) {
                endpoint.uplink = uplink;
            }
        }
    }

    /// Takes note that an uplink's interface is gone; it is engaged again when
    /// one of its name appears.
    pub(super) fn lose_uplink(&self, id: u32, reason: String) {
        if let Some(uplink) = self.state_mut().uplinks.get_mut(&id) {
            uplink.interface = None;
            uplink.health = Health::Lost(reason);
        }
    }

    fn uplink(&self, id: u32) -> Result<Uplink> {
        let state = self.state();
        let uplink = state.uplinks.get(&id);
        uplink
            .map(Registered::describe)
            .ok_or_else(|| Error::NotFound(format!("no uplink has number {id}")))
    }

    fn uplink_named(&self, interface: &str) -> Option<UplinkRecord> {
        let state = self.state();
        let mut uplinks = state.uplinks.values();
        uplinks
            .find(|uplink| uplink.record.interface == interface)
            .map(|uplink| uplink.record.clone())
    }

    fn free_uplink(&self) -> Result<u32> {
        let state = self.state();
        (0..MAX_UPLINKS)
            .find(|id| !state.uplinks.contains_key(id))
            .ok_or_else(|| {
                Error::Exhausted(format!(
                    "all {MAX_UPLINKS} uplinks are in use; remove one with `sluice uplink del`"
                ))
            })
    }
}
