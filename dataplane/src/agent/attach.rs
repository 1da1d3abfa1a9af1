//! Attaching and detaching endpoints.

use dataplane_ebpf::abi::EndpointConfig;

use super::{
    Agent, Attached, Error, InterfaceKey, Result, State, repairs::is_out_of_sight, turns::Turn,
};
use crate::{
    api::types::{AttachRequest, Endpoint, EndpointSelector, Health, PodName, TcMechanism},
    endpoint::{EndpointRecord, Phase},
    link::{Interface, InterfaceKind, Netlink, Netns, NetnsId, NetnsRef},
};

/// An interface that is to be attached.
pub(super) struct Target<'a> {
    pub(super) netns: &'a Netns,
    /// Where the namespace can be opened again.
    pub(super) reference: NetnsRef,
    pub(super) interface: Interface,
    pub(super) pod: Option<PodName>,
    /// Nobody asks for it; the interface that it was found beside.
    pub(super) beside: Option<String>,
    pub(super) pace: Pace,
}

/// How an attachment is to come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// For good, however long the kernel takes.
    Thorough,
    /// In force at once, with stand-ins where the kernel would take long.
    Swift,
}

impl Agent {
    /// Attaches an interface; attaching it again returns the same endpoint.
    pub fn attach(&self, request: &AttachRequest) -> Result<Endpoint> {
        let netns = Netns::open(&request.netns)?;
        let interface = Netlink::open(&netns)?.interface(&request.interface)?;
        let id = self.attach_target(Target {
            reference: lasting(&request.netns, &netns),
            netns: &netns,
            interface,
            pod: request.pod.clone(),
            beside: None,
            pace: Pace::Thorough,
        })?;
        self.endpoint(id)
    }

    /// Attaches an interface; the id of its endpoint, which may be there
    /// already.
    pub(super) fn attach_target(&self, target: Target<'_>) -> Result<u32> {
        let Target {
            netns, interface, ..
        } = &target;
        if interface.mac.is_none() {
            return Err(Error::Invalid(format!(
                "interface {} in {netns} is no Ethernet interface; name one with a MAC address",
                interface.name
            )));
        }
        if is_out_of_sight(&interface.kind) {
            return Err(Error::Invalid(format!(
                "interface {} in {netns} is ipvlan in mode l3s, whose arriving packets pass no hook \
                 of the interface; use mode l2 or l3",
                interface.name
            )));
        }
        let _turn = self.interfaces.take((netns.id(), interface.ifindex));
        if let Some(id) = self.find(netns.id(), interface.ifindex) {
            self.claim(id, &target)?;
            self.repair(id, netns)?;
            self.sync_policy();
            return Ok(id);
        }
        let id = self.reserve_id()?;
        let attached = self.attach_as(id, target);
        if attached.is_err() {
            self.take_back(id);
        }
        self.state_mut().reserved.remove(&id);
        attached?;
        self.sync_reach(&mut self.changes());
        self.sync_policy();
        Ok(id)
    }

    /// Attaches an interface under an id that is reserved for it.
    fn attach_as(&self, id: u32, target: Target<'_>) -> Result<()> {
        let mechanism = self.kernel.mechanism(self.options.tc)?;
        let record = EndpointRecord {
            id,
            phase: Phase::Intent,
            netns: target.reference,
            netns_id: target.netns.id(),
            interface: target.interface.name.clone(),
            ifindex: target.interface.ifindex,
            pod: target.pod,
            mechanism,
            made_clsact: false,
            entry_tags: self.entry_tags,
            audit: false,
            stand_in: target.pace == Pace::Swift && mechanism == TcMechanism::Tcx,
            ipvlan_mode: match target.interface.kind {
                InterfaceKind::Ipvlan { mode } => Some(mode),
                _ => None,
            },
            beside: target.beside,
        };
        self.store.put_endpoint(&record)?;
        self.put_in_place(record, target.interface, target.netns)
    }

    /// Detaches an endpoint and forgets its counters.
    pub fn detach(&self, selector: &EndpointSelector) -> Result<Endpoint> {
        let id = self.select(selector)?;
        let endpoint = self.endpoint(id)?;
        let (_, record) = self.turn(id)?;
        let key = (record.netns_id, record.ifindex);
        self.state_mut().let_go.insert(key);
        let removed = self.remove(id);
        let mut state = self.state_mut();
        if removed.is_err() || !state.families.has(record.netns_id) {
            state.let_go.remove(&key);
        }
        removed.map(|()| endpoint)
    }

    /// The right to change an endpoint, with its record as it is then.
    pub(super) fn turn(&self, id: u32) -> Result<(Turn<'_, InterfaceKey>, EndpointRecord)> {
        let record = || {
            let state = self.state();
            let endpoint = state.endpoints.get(&id);
            endpoint.map(|endpoint| endpoint.record.clone())
        };
        loop {
            let before = record().ok_or_else(|| unknown(id))?;
            let turn = self.interfaces.take((before.netns_id, before.ifindex));
            match record() {
                Some(now) if (now.netns_id, now.ifindex) == (before.netns_id, before.ifindex) => {
                    return Ok((turn, now));
                }
                // Its id has gone to another interface meanwhile.
                Some(_) => {}
                None => return Err(unknown(id)),
            }
        }
    }

    /// Carries an intent out.
    fn put_in_place(
        &self,
        mut record: EndpointRecord,
        interface: Interface,
        netns: &Netns,
    ) -> Result<()> {
        self.kernel.maps().clear_endpoint(record.id)?;
        self.begin(record.id)?;
        let nsid = self.changes().netlink.ensure_nsid(netns)?;
        record.made_clsact = if record.stand_in {
            self.kernel.stand_in(netns, &interface.name, record.id)?
        } else {
            self.kernel
                .attach(netns, &interface.name, record.id, record.mechanism)?
        };
        record.phase = Phase::Attached;
        self.store.put_endpoint(&record)?;
        let attached = Attached {
            uplink: self.uplink_of(&interface, netns),
            record,
            interface,
            nsid,
            health: Health::Attached,
            mode_repairs: 0,
        };
        let mut state = self.state_mut();
        state.let_go.remove(&(netns.id(), attached.record.ifindex));
        state.families.join(&attached);
        state.endpoints.insert(attached.record.id, attached);
        Ok(())
    }

    /// Writes a new endpoint's entry of `endpoints`. Whatever the id's last
    /// owner left in the flow tables is of an earlier epoch.
    fn begin(&self, id: u32) -> Result<()> {
        self.kernel.maps().change_endpoint(id, |config| {
            let epoch = config.policy_epoch.wrapping_add(1);
            *config = EndpointConfig {
                flags: self.first_flags(),
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
            config.flow_rate = self.options.flow_rate;
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
    pub(super) fn remove(&self, id: u32) -> Result<()> {
        let (_turn, record) = self.turn(id)?;
        self.remove_held(&record)?;
        self.state_mut().families.leave(&record);
        Ok(())
    }

    /// As [`Agent::remove`], of an endpoint whose turn the caller has.
    pub(super) fn remove_held(&self, record: &EndpointRecord) -> Result<()> {
        let id = record.id;
        let name = {
            let state = self.state();
            let endpoint = state.endpoints.get(&id).ok_or_else(|| unknown(id))?;
            endpoint.interface.name.clone()
        };
        let netns = open_same(&record.netns, record.netns_id);
        self.take_off(record, netns.as_ref(), &name)?;
        {
            // The id is nobody else's until its entries are cleared.
            let mut state = self.state_mut();
            state.endpoints.remove(&id);
            state.reserved.insert(id);
        }
        self.sync_reach(&mut self.changes());
        self.take_back(id);
        self.state_mut().reserved.remove(&id);
        self.sync_policy();
        Ok(())
    }

    /// Takes an endpoint's programs off its interface.
    pub(super) fn take_off(
        &self,
        record: &EndpointRecord,
        netns: Option<&Netns>,
        interface: &str,
    ) -> Result<()> {
        let detach = |mechanism| self.kernel.detach(netns, interface, record.id, mechanism);
        if record.stand_in {
            detach(TcMechanism::Clsact)?;
        }
        detach(record.mechanism)?;
        if let Some(netns) = netns
            && record.made_clsact
        {
            self.kernel.release_clsact(netns, interface);
        }
        Ok(())
    }

    /// Attaches anew what is recorded as attached and is not. The caller has
    /// the endpoint's turn.
    pub(super) fn repair(&self, id: u32, netns: &Netns) -> Result<()> {
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
        self.sync_reach(&mut self.changes());
        Ok(())
    }

    /// Notes that an endpoint is asked for, under which name and for whom. The
    /// caller has its turn.
    fn claim(&self, id: u32, target: &Target<'_>) -> Result<()> {
        if target.beside.is_some() {
            return Ok(());
        }
        let known = {
            let state = self.state();
            let endpoint = state.endpoints.get(&id);
            endpoint.map(|endpoint| endpoint.record.clone())
        };
        let before = known.ok_or_else(|| unknown(id))?;
        let record = EndpointRecord {
            interface: target.interface.name.clone(),
            pod: target.pod.clone().or_else(|| before.pod.clone()),
            beside: None,
            ..before.clone()
        };
        if record == before {
            return Ok(());
        }
        self.store.put_endpoint(&record)?;
        let State {
            endpoints,
            families,
            ..
        } = &mut *self.state_mut();
        if let Some(endpoint) = endpoints.get_mut(&id) {
            endpoint.record = record;
            endpoint.interface = target.interface.clone();
            families.join(endpoint);
        }
        Ok(())
    }

    /// The registered uplink that an interface hangs off.
    pub(super) fn uplink_of(&self, interface: &Interface, netns: &Netns) -> Option<u32> {
        let parent = interface.parent?;
        if !interface.kind.is_child() {
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

    pub(super) fn endpoint(&self, id: u32) -> Result<Endpoint> {
        let state = self.state();
        let endpoint = state.endpoints.get(&id).ok_or_else(|| unknown(id))?;
        Ok(endpoint.describe(&state))
    }

    pub(super) fn find(&self, netns: NetnsId, ifindex: u32) -> Option<u32> {
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

    /// Takes the smallest id that is free. 0 stays unused: it is what an
    /// entry program without an id would say.
    fn reserve_id(&self) -> Result<u32> {
        let mut state = self.state_mut();
        let max = self.options.max_endpoints;
        let free = |id: &u32| {
            !state.endpoints.contains_key(id)
                && !state.reserved.contains(id)
                && !state.unknown.contains(id)
        };
        let id = (1..=max).find(free).ok_or_else(|| {
            Error::Exhausted(format!(
                "all {max} endpoints are in use; raise max_endpoints in the configuration"
            ))
        })?;
        state.reserved.insert(id);
        Ok(id)
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
