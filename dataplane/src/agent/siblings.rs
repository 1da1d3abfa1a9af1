//! Interfaces that a pod makes beside its endpoints, and endpoints that it moves away: a process
//! with `CAP_NET_ADMIN` can give its pod further children of an endpoint's parent. They become
//! endpoints of that pod, held to the same policies.

use std::collections::BTreeMap;

use super::{
    Agent, Attached, Error, Result,
    attach::{Pace, Target, open_same},
};
use crate::{
    api::types::{Health, PodName, TcMechanism},
    endpoint::EndpointRecord,
    link::{Netlink, Netns, NetnsId, NetnsRef, Parent},
};

/// How many such interfaces a namespace may have: no pod can take the endpoint ids of all others.
const MAX_SIBLINGS: usize = 16;

/// A namespace with endpoints that somebody asked for. It outlives them when it is the pod that
/// deletes them.
#[derive(Debug)]
pub(super) struct Family {
    /// Where the namespace can be opened.
    netns: NetnsRef,
    /// The id under which link events name it.
    nsid: Option<i32>,
    /// In the order in which they came.
    members: Vec<Member>,
}

/// An endpoint that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    interface: String,
    /// Of a child interface.
    parent: Option<Parent>,
    pod: Option<PodName>,
}

/// The families of the node's pods.
#[derive(Debug, Default)]
pub(super) struct Families(BTreeMap<NetnsId, Family>);

impl Families {
    /// Remembers an endpoint as one that further interfaces may come to be beside.
    pub(super) fn join(&mut self, endpoint: &Attached) {
        let record = &endpoint.record;
        if record.beside.is_some() {
            return;
        }
        let family = self.0.entry(record.netns_id).or_insert(Family {
            netns: record.netns.clone(),
            nsid: endpoint.nsid,
            members: Vec::new(),
        });
        let interface = &endpoint.interface;
        let member = Member {
            interface: record.interface.clone(),
            parent: interface.parent.filter(|_| interface.kind.is_child()),
            pod: record.pod.clone(),
        };
        let mut members = family.members.iter_mut();
        match members.find(|one| one.interface == member.interface) {
            Some(before) => *before = member,
            None => family.members.push(member),
        }
    }

    /// Whether further interfaces may come to be in a namespace.
    pub(super) fn has(&self, netns: NetnsId) -> bool {
        self.0.contains_key(&netns)
    }

    /// Forgets an endpoint that is no longer asked for.
    pub(super) fn leave(&mut self, record: &EndpointRecord) {
        if record.beside.is_none()
            && let Some(family) = self.0.get_mut(&record.netns_id)
        {
            family
                .members
                .retain(|member| member.interface != record.interface);
            if family.members.is_empty() {
                self.0.remove(&record.netns_id);
            }
        }
    }
}

impl Agent {
    /// Attaches what hangs off an endpoint's parent, or off an uplink, in a pod's namespace and is
    /// no endpoint yet; what cannot be attached is set down. `affected` says in which namespaces to
    /// look, by id.
    pub(super) fn attach_siblings(&self, affected: impl Fn(Option<i32>) -> bool) {
        let families: Vec<_> = {
            let state = self.state();
            let families = state.families.0.iter();
            families
                // What the node has for itself is no pod's.
                .filter(|(id, family)| **id != self.home.id() && affected(family.nsid))
                .map(|(id, family)| (*id, family.netns.clone(), family.members.clone()))
                .collect()
        };
        for (id, reference, members) in families {
            let Some(netns) = open_same(&reference, id) else {
                let mut state = self.state_mut();
                state.families.0.remove(&id);
                state.let_go.retain(|(netns, _)| *netns != id);
                continue;
            };
            if let Err(error) = self.attach_siblings_of(&members, &netns, &reference) {
                tracing::warn!("looking for interfaces in {netns}: {error}");
            }
        }
    }

    fn attach_siblings_of(
        &self,
        members: &[Member],
        netns: &Netns,
        reference: &NetnsRef,
    ) -> Result<()> {
        let mut netlink = Netlink::open(netns)?;
        let interfaces = netlink.interfaces()?;
        self.state_mut().let_go.retain(|(id, ifindex)| {
            *id != netns.id() || interfaces.iter().any(|one| one.ifindex == *ifindex)
        });
        for interface in interfaces.into_iter().filter(|one| one.kind.is_child()) {
            let key = (netns.id(), interface.ifindex);
            if self.find(key.0, key.1).is_some() || self.state().let_go.contains(&key) {
                continue;
            }
            let same_parent = |member: &&Member| member.parent == interface.parent;
            let beside = members.iter().find(same_parent).or_else(|| {
                self.uplink_of(&interface, netns)?;
                members.first()
            });
            let Some(beside) = beside else { continue };
            let (name, up) = (interface.name.clone(), interface.up);
            let target = Target {
                netns,
                reference: reference.clone(),
                interface,
                pod: beside.pod.clone(),
                beside: Some(beside.interface.clone()),
                pace: Pace::Swift,
            };
            if let Err(error) = self.attach_sibling(target)
                && up
            {
                let down = netlink.set_up(key.1, false);
                let outcome = down.map_or_else(|error| error.to_string(), |()| "set down".into());
                tracing::error!(
                    "{name} in {netns} has come to be beside {} and cannot be attached: {error}; \
                     {outcome}",
                    beside.interface
                );
            }
        }
        Ok(())
    }

    fn attach_sibling(&self, target: Target<'_>) -> Result<()> {
        let netns = target.netns;
        let siblings = {
            let state = self.state();
            let endpoints = state.endpoints.values().map(|endpoint| &endpoint.record);
            let siblings =
                endpoints.filter(|record| record.netns_id == netns.id() && record.beside.is_some());
            siblings.count()
        };
        if siblings >= MAX_SIBLINGS {
            return Err(Error::Exhausted(format!(
                "there are {MAX_SIBLINGS} such interfaces already"
            )));
        }
        let name = target.interface.name.clone();
        let id = self.attach_target(target)?;
        let beside = {
            let state = self.state();
            let endpoint = state.endpoints.get(&id);
            endpoint.and_then(|endpoint| endpoint.record.beside.clone())
        };
        // Else somebody has asked for it meanwhile.
        if let Some(beside) = beside {
            let what = format!(
                "{name} has come to be beside {beside}; attached, and held to the same policies"
            );
            tracing::warn!("endpoint {id}: {what}");
            self.announce(id, "sibling", "egress", what);
            self.schedule_hand_over(id);
        }
        Ok(())
    }

    /// Whether an endpoint whose interface has left its namespace lives on elsewhere, with its
    /// programs on it: in a namespace that somebody in the pod has made. It stays an endpoint then.
    pub(super) fn stays_elsewhere(&self, record: &EndpointRecord) -> bool {
        let is_child = {
            let state = self.state();
            let endpoint = state.endpoints.get(&record.id);
            endpoint.is_some_and(|endpoint| endpoint.interface.kind.is_child())
        };
        // Nothing but a child ends with its namespace: a VF comes back to the node, and must be
        // free of a pod's programs there.
        let stays = is_child
            && record.mechanism == TcMechanism::Tcx
            && self.kernel.linked_interface(record.id).is_some();
        if stays
            && let Some(endpoint) = self.state_mut().endpoints.get_mut(&record.id)
            && endpoint.health == Health::Attached
        {
            let what = format!(
                "moved out of {} to where the agent cannot follow; its programs went with it",
                record.netns
            );
            tracing::warn!("endpoint {} ({}): {what}", record.id, record.interface);
            endpoint.health = Health::Lost(what);
        }
        stays
    }
}
