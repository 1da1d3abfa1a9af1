//! Reading the counters, and telling events.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{PoisonError, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use dataplane_ebpf::{
    abi::{
        Address, Direction, DropReason, Event as RawEvent, EventKind, Fault, FlowCounter,
        UPLINK_BIT, UplinkCounter,
    },
    roce::{Kind, Transport},
};

use super::{Agent, Result, State};
use crate::{
    api::types::{
        DropCount, EndpointStats, Event, FlowStats, PodName, RoceCount, Stats, UplinkStats,
    },
    kernel::{Drops, EventReader, Roce, monotonic_ns},
};

impl Agent {
    /// Every counter.
    pub fn stats(&self) -> Result<Stats> {
        let maps = self.kernel.maps();
        let mut drops = maps.drops()?;
        let mut would_drop = maps.policy().would_drop()?;
        let mut roce = maps.roce()?;
        let mut stats = Stats {
            time_ns: monotonic_ns(),
            repairs: self.repairs.load(Ordering::Relaxed),
            ..Stats::default()
        };
        let state = self.state();
        for (id, endpoint) in &state.endpoints {
            stats.endpoints.push(EndpointStats {
                id: *id,
                interface: endpoint.interface.name.clone(),
                netns: endpoint.record.netns.clone(),
                pod: endpoint.record.pod.clone(),
                ingress: maps.endpoint_counter(*id, Direction::Ingress)?.into(),
                egress: maps.endpoint_counter(*id, Direction::Egress)?.into(),
                drops: describe_drops(drops.remove(id)),
                would_drop: describe_drops(would_drop.remove(id)),
                roce: describe_roce(roce.remove(id)),
            });
        }
        for (id, uplink) in &state.uplinks {
            let port = UPLINK_BIT | id;
            let mut counters = BTreeMap::new();
            for counter in UplinkCounter::ALL {
                let count = maps.uplink_counter(*id, *counter)?;
                counters.insert(counter.name().to_owned(), count.into());
            }
            stats.uplinks.push(UplinkStats {
                interface: uplink.record.interface.clone(),
                counters,
                drops: describe_drops(drops.remove(&port)),
                roce: describe_roce(roce.remove(&port)),
            });
        }
        for fault in Fault::ALL {
            let count = maps.fault(*fault)?;
            stats.faults.insert(fault.name().to_owned(), count);
        }
        stats.flows = self.flow_stats()?;
        Ok(stats)
    }

    fn flow_stats(&self) -> Result<FlowStats> {
        let flows = self.kernel.maps().flows();
        let count = flows.recent_count()?;
        let sizes = self.kernel.sizes();
        let mut events = BTreeMap::new();
        for counter in FlowCounter::ALL {
            events.insert(counter.name().to_owned(), flows.counter(*counter)?);
        }
        Ok(FlowStats {
            answered: count.answered,
            unanswered: count.unanswered,
            answered_limit: sizes.flows.into(),
            unanswered_limit: sizes.flows_new().into(),
            events,
        })
    }

    /// The programs' events; the second call gets `None`.
    pub fn take_events(&self) -> Option<EventReader> {
        self.kernel.maps().take_events()
    }

    /// Passes events on to whoever listens, for as long as the process lives.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub async fn follow(&self, events: EventReader) -> anyhow::Result<()> {
        Ok(events.run(|event| self.tell(&event)).await?)
    }

    fn tell(&self, event: &RawEvent) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let described = self.describe_event(event);
        // Nobody listening any more is no loss.
        let _ = self.events.send(described);
    }

    /// Tells what happened to an endpoint, not to a packet of it.
    pub(super) fn announce(&self, endpoint: u32, kind: &str, direction: &str, reason: String) {
        let state = self.state();
        let known = state.endpoints.get(&endpoint);
        // Nobody listening is no loss.
        let _ = self.events.send(Event {
            time: seconds_since_1970(),
            endpoint,
            interface: known.map(|endpoint| endpoint.interface.name.clone()),
            pod: known.and_then(|endpoint| endpoint.record.pod.clone()),
            direction: direction.to_owned(),
            kind: kind.to_owned(),
            reason,
            ..Event::default()
        });
    }

    fn describe_event(&self, event: &RawEvent) -> Event {
        let state = self.state();
        let endpoint = state.endpoints.get(&event.port);
        let direction = name_of(event.direction, Direction::name);
        let peer = match Direction::try_from(event.direction) {
            Ok(Direction::Ingress) => address(event.source),
            Ok(Direction::Egress) => address(event.destination),
            Err(_) => None,
        };
        let ago_ns = monotonic_ns().saturating_sub(event.time_ns);
        let (kind, reason) = match EventKind::try_from(event.kind) {
            Ok(kind @ (EventKind::Drop | EventKind::WouldDrop)) => {
                (kind.name(), name_of(event.code, DropReason::name))
            }
            Ok(EventKind::Roce) => (EventKind::Roce.name(), name_of(event.code, Kind::name)),
            Err(_) => ("unknown", event.code.to_string()),
        };
        Event {
            time: seconds_since_1970() - ago_ns as f64 / 1e9,
            endpoint: event.port,
            interface: endpoint.map(|endpoint| endpoint.interface.name.clone()),
            pod: endpoint.and_then(|endpoint| endpoint.record.pod.clone()),
            peer: peer.and_then(|peer| self.pod_at(&state, peer)),
            direction,
            kind: kind.to_owned(),
            reason,
            ether_type: event.ether_type,
            source: address(event.source),
            destination: address(event.destination),
            protocol: event.protocol,
            source_port: event.source_port,
            destination_port: event.destination_port,
            length: event.length,
            destination_qp: event.destination_qp,
            psn: event.psn,
        }
    }

    /// The pod at an address: one of this node, or one that the source of
    /// policies knows.
    fn pod_at(&self, state: &State, address: IpAddr) -> Option<PodName> {
        let names = self
            .pod_names
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let known = names.get(address).cloned();
        known.or_else(|| {
            let mut attached = state.endpoints.values();
            let here = attached.find(|endpoint| {
                let mut addresses = endpoint.interface.addresses.iter();
                addresses.any(|cidr| cidr.addr() == address)
            });
            here.and_then(|endpoint| endpoint.record.pod.clone())
        })
    }
}

fn describe_drops(drops: Option<Drops>) -> Vec<DropCount> {
    let mut drops = drops.unwrap_or_default();
    drops.sort_by_key(|(key, _)| (key.direction, key.reason));
    let drops = drops.into_iter().map(|(key, counter)| DropCount {
        direction: name_of(key.direction, Direction::name),
        reason: name_of(key.reason, DropReason::name),
        count: counter.into(),
    });
    drops.collect()
}

fn describe_roce(roce: Option<Roce>) -> Vec<RoceCount> {
    let roce = roce.unwrap_or_default();
    let roce = roce.into_iter().map(|(key, counter)| RoceCount {
        direction: name_of(key.direction, Direction::name),
        transport: name_of(key.transport, Transport::name),
        kind: name_of(key.kind, Kind::name),
        operation: Kind::try_from(key.kind).is_ok_and(Kind::is_operation),
        count: counter.into(),
    });
    roce.collect()
}

/// The name of a number; one that no variant has, from another version's
/// programs, stays a number.
pub(super) fn name_of<E: TryFrom<u8>>(number: u8, name: impl Fn(E) -> &'static str) -> String {
    E::try_from(number).map_or_else(|_| number.to_string(), |known| name(known).to_owned())
}

fn address(address: Address) -> Option<IpAddr> {
    (address != Address::default()).then(|| address.into())
}

fn seconds_since_1970() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}
