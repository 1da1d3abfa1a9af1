//! Attaching and detaching endpoints.

use dataplane_ebpf::abi::EndpointConfig;

use super::{Agent, Attached, Changes, Error, Result, State};
use crate::{
    api::types::{AttachRequest, Endpoint, EndpointSelector, Health, PodName},
    endpoint::{EndpointRecord, Phase},
    link::{Interface, InterfaceKind, Netlink, Netns, NetnsId, NetnsRef},
};

/// New flows a second that one endpoint may have remembered: a fourth of the
/// table of unanswered flows, so that those of its neighbours live for seconds
/// whatever it does.
const FLOW_RATE: u32 = 8192;

impl Agent {
    /// Attaches an interface; attaching it again returns the same endpoint.
    pub fn attach(&self, request: &AttachRequest) -> Result<Endpoint> {
        let mut changes = self.changes();
        let netns = Netns::open(&request.netns)?;
        let interface = Netlink::open(&netns)?.interface(&request.interface)?;
        if interface.mac.is_none() {
            return Err(Error::Invalid(format!(
                "interface {} in {} is no Ethernet interface; name one with a MAC address",
                interface.name, request.netns
            )));
        }
        let present = self.find(netns.id(), interface.ifindex);
        if let Some(id) = present {
            self.set_pod(id, request.pod.as_ref())?;
            self.repair(&mut changes, id, &netns)?;
            return self.endpoint(id);
        }
        let record = EndpointRecord {
            id: self.free_id()?,
            phase: Phase::Intent,
            netns: lasting(&request.netns, &netns),
            netns_id: netns.id(),
            interface: interface.name.clone(),
            ifindex: interface.ifindex,
            pod: request.pod.clone(),
            mechanism: self.kernel.mechanism(self.options.tc)?,
            entry_tags: self.entry_tags,
        };
        self.store.put_endpoint(&record)?;
        let id = record.id;
        let attached = self.put_in_place(&mut changes, record, interface, &netns);
        if let Err(error) = attached {
            self.take_back(id);
            return Err(error);
        }
        self.sync_reach(&mut changes);
        self.endpoint(id)
    }

    /// Detaches an endpoint and forgets its counters.
    pub fn detach(&self, selector: &EndpointSelector) -> Result<Endpoint> {
        let mut changes = self.changes();
        let id = self.select(selector)?;
        let endpoint = self.endpoint(id)?;
        self.remove(&mut changes, id)?;
        Ok(endpoint)
    }

    /// Carries an intent out.
    fn put_in_place(
        &self,
        changes: &mut Changes,
        mut record: EndpointRecord,
        interface: Interface,
        netns: &Netns,
    ) -> Result<()> {
        self.kernel.maps().clear_endpoint(record.id)?;
        self.begin(record.id)?;
        let nsid = changes.netlink.ensure_nsid(netns)?;
        self.kernel
            .attach(netns, &interface.name, record.id, record.mechanism)?;
        record.phase = Phase::Attached;
        self.store.put_endpoint(&record)?;
        let attached = Attached {
            uplink: self.uplink_of(&interface, netns),
            record,
            interface,
            nsid,
            health: Health::Attached,
        };
        let mut state = self.state_mut();
        state.endpoints.insert(attached.record.id, attached);
        Ok(())
    }

    /// Writes a new endpoint's entry of `endpoints`. Whatever the id's last
    /// owner left in the flow tables is of an earlier epoch.
    fn begin(&self, id: u32) -> Result<()> {
        self.kernel.maps().change_endpoint(id, |config| {
            let epoch = config.policy_epoch.wrapping_add(1);
            *config = EndpointConfig {
                policy_epoch: epoch,
                first_epoch: epoch,
                ..EndpointConfig::default()
            };
        })?;
        self.configure(id)
    }

    /// Brings the endpoint's entry of `endpoints` to what the agent was told;
    /// what policy says there stays.
    pub(super) fn configure(&self, id: u32) -> Result<()> {
        self.kernel.maps().change_endpoint(id, |config| {
            config.flags |= EndpointConfig::IN_USE;
            config.event_rate = self.options.event_rate;
            config.flow_rate = FLOW_RATE;
        })?;
        Ok(())
    }

    /// Undoes what an intent may have done; what fails is left to the next
    /// start, since the record stays.
    pub(super) fn take_back(&self, id: u32) {
        let maps = self.kernel.maps();
        // The epoch stays, for the id's next owner to count on from.
        let release = |config: &mut EndpointConfig| {
            *config = EndpointConfig {
                policy_epoch: config.policy_epoch,
                ..EndpointConfig::default()
            };
        };
        let undone = maps
            .change_endpoint(id, release)
            .and_then(|_| maps.clear_endpoint(id));
        match undone {
            Ok(()) => {
                if let Err(error) = self.store.remove_endpoint(id) {
                    tracing::warn!("{error}");
                }
            }
            Err(error) => tracing::warn!("taking endpoint {id} back: {error}"),
        }
    }

    /// Takes an endpoint out of the dataplane.
    pub(super) fn remove(&self, changes: &mut Changes, id: u32) -> Result<()> {
        let (record, name) = {
            let state = self.state();
            let endpoint = state.endpoints.get(&id).ok_or_else(|| unknown(id))?;
            (endpoint.record.clone(), endpoint.interface.name.clone())
        };
        let netns = open_same(&record.netns, record.netns_id);
        self.kernel
            .detach(netns.as_ref(), &name, id, record.mechanism)?;
        self.state_mut().endpoints.remove(&id);
        self.sync_reach(changes);
        self.take_back(id);
        Ok(())
    }

    /// Attaches anew what is recorded as attached and is not.
    pub(super) fn repair(&self, changes: &mut Changes, id: u32, netns: &Netns) -> Result<()> {
        let (record, name) = {
            let state = self.state();
            let endpoint = state.endpoints.get(&id).ok_or_else(|| unknown(id))?;
            if endpoint.health == Health::Attached {
                return Ok(());
            }
            (endpoint.record.clone(), endpoint.interface.name.clone())
        };
        self.kernel.attach(netns, &name, id, record.mechanism)?;
        if let Some(endpoint) = self.state_mut().endpoints.get_mut(&id) {
            endpoint.health = Health::Attached;
        }
        self.sync_reach(changes);
        Ok(())
    }

    fn set_pod(&self, id: u32, pod: Option<&PodName>) -> Result<()> {
        let mut state = self.state_mut();
        let Some(endpoint) = state.endpoints.get_mut(&id) else {
            return Err(unknown(id));
        };
        if pod.is_some() && endpoint.record.pod.as_ref() != pod {
            let mut record = endpoint.record.clone();
            record.pod = pod.cloned();
            self.store.put_endpoint(&record)?;
            endpoint.record = record;
        }
        Ok(())
    }

    /// The registered uplink that an interface hangs off.
    pub(super) fn uplink_of(&self, interface: &Interface, netns: &Netns) -> Option<u32> {
        let parent = interface.parent?;
        if !matches!(
            interface.kind,
            InterfaceKind::Macvlan { .. } | InterfaceKind::Ipvlan { .. }
        ) {
            return None;
        }
        // The parent's index means something in the parent's namespace only.
        let in_ours = match parent.netnsid {
            None => netns.id() == self.home.id(),
            Some(nsid) => {
                let known_as = Netlink::open(netns).and_then(|mut there| there.nsid(&self.home));
                known_as.ok().flatten() == Some(nsid)
            }
        };
        if !in_ours {
            return None;
        }
        let state = self.state();
        let uplinks = state.uplinks.values();
        uplinks
            .filter(|uplink| {
                let interface = uplink.interface.as_ref();
                interface.is_some_and(|interface| interface.ifindex == parent.ifindex)
            })
            .map(|uplink| uplink.record.id)
            .next()
    }

    fn endpoint(&self, id: u32) -> Result<Endpoint> {
        let state = self.state();
        let endpoint = state.endpoints.get(&id).ok_or_else(|| unknown(id))?;
        Ok(endpoint.describe(&state))
    }

    fn find(&self, netns: NetnsId, ifindex: u32) -> Option<u32> {
        find(&self.state(), |endpoint| {
            endpoint.record.netns_id == netns && endpoint.record.ifindex == ifindex
        })
    }

    fn select(&self, selector: &EndpointSelector) -> Result<u32> {
        let state = self.state();
        match selector {
            EndpointSelector::Id { id } => {
                let known = state.endpoints.contains_key(id);
                known.then_some(*id).ok_or_else(|| unknown(*id))
            }
            EndpointSelector::Interface { netns, interface } => {
                // By identity where the namespace can be opened, so that any
                // of its names will do; else by the name given at attach.
                let opened = Netns::open(netns).ok().map(|netns| netns.id());
                find(&state, |endpoint| {
                    endpoint.interface.name == *interface
                        && opened.map_or(endpoint.record.netns == *netns, |id| {
                            id == endpoint.record.netns_id
                        })
                })
                .ok_or_else(|| {
                    Error::NotFound(format!(
                        "interface {interface} in {netns} is no endpoint; \
                         `sluice endpoints` lists them"
                    ))
                })
            }
        }
    }

    /// The smallest id that is free. 0 stays unused: it is what an entry
    /// program without an id would say.
    fn free_id(&self) -> Result<u32> {
        let state = self.state();
        let max = self.options.max_endpoints;
        (1..=max)
            .find(|id| !state.endpoints.contains_key(id))
            .ok_or_else(|| {
                Error::Exhausted(format!(
                    "all {max} endpoints are in use; raise max_endpoints in the configuration"
                ))
            })
    }
}

fn find(state: &State, wanted: impl Fn(&Attached) -> bool) -> Option<u32> {
    let mut endpoints = state.endpoints.values();
    endpoints
        .find(|endpoint| wanted(endpoint))
        .map(|endpoint| endpoint.record.id)
}

fn unknown(id: u32) -> Error {
    Error::NotFound(format!(
        "no endpoint has id {id}; `sluice endpoints` lists them"
    ))
}

/// A reference that another process can open later: of a process's namespace,
/// its path.
fn lasting(given: &NetnsRef, netns: &Netns) -> NetnsRef {
    match given {
        NetnsRef::Pid(_) => NetnsRef::Path(netns.path().display().to_string()),
        other => other.clone(),
    }
}

/// Opens the namespace again if it is still the same one.
pub(super) fn open_same(netns: &NetnsRef, id: NetnsId) -> Option<Netns> {
    Netns::open(netns).ok().filter(|netns| netns.id() == id)
}
