//! Following the node's interfaces: addresses that come and go, interfaces and
//! namespaces that vanish, uplinks that appear.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Agent, attach::open_same};
use crate::{
    api::types::{Health, TcMechanism},
    link::{LinkChange, LinkError, LinkEvent, Monitor, Netlink},
};

/// How often everything is looked at, events or not.
const PERIOD: Duration = Duration::from_secs(60);
/// Changes that come within this time are dealt with together; no pod can put
/// the work off for longer by causing more.
const SETTLE: Duration = Duration::from_millis(50);

/// When attachments that could not be undone are tried again: so long after the
/// first attempt, and twice as long after each further one.
const RETRY: Duration = Duration::from_millis(100);

/// What has to be looked at again.
#[derive(Default)]
struct Agenda {
    everything: bool,
    /// Attachments that should be gone.
    attachments: bool,
    /// Namespaces by id; `None` is the agent's own.
    namespaces: BTreeSet<Option<i32>>,
    /// Interfaces, by namespace and index, that a TC filter was taken from.
    filters: BTreeSet<(Option<i32>, u32)>,
}

impl Agenda {
    fn note(&mut self, event: &LinkEvent) {
        match event.change {
            LinkChange::Overrun | LinkChange::NamespaceRemoved => self.everything = true,
            LinkChange::FilterRemoved { ifindex } => {
                self.filters.insert((event.nsid, ifindex));
            }
            _ => {
                self.namespaces.insert(event.nsid);
            }
        }
    }
}

/// Attachments that should be gone and are not, such as that of a VF which is
/// on its way back from a namespace that has ended.
#[derive(Default)]
struct Leftovers {
    /// How long after the last attempt the next is due; `None` when there are none.
    patience: Option<Duration>,
    due: Option<Instant>,
}

impl Leftovers {
    fn note(&mut self, done: bool) {
        let next = self.patience.map_or(RETRY, |last| (last * 2).min(PERIOD));
        self.patience = (!done).then_some(next);
        self.due = self.patience.map(|patience| Instant::now() + patience);
    }
}

impl Agent {
    /// Follows link events and looks at everything once a minute, for as long
    /// as the process lives.
    ///
    /// # Errors
    /// The events cannot be heard.
    pub async fn watch(self: Arc<Self>) -> anyhow::Result<()> {
        let mut monitor = Monitor::open(&self.home)?;
        // What changed before the monitor was open.
        let mut agenda = Agenda {
            everything: true,
            ..Agenda::default()
        };
        let mut period = Instant::now() + PERIOD;
        let mut leftovers = Leftovers::default();
        loop {
            let agent = Arc::clone(&self);
            let mut work = std::mem::take(&mut agenda);
            // What comes to the node may be what an attachment waits for.
            work.attachments |= leftovers.due.is_some() && work.namespaces.contains(&None);
            let done = tokio::task::spawn_blocking(move || agent.review(&work)).await;
            match done {
                Ok(Some(undone)) => leftovers.note(undone),
                Ok(None) => {}
                Err(error) => tracing::error!("reviewing the interfaces: {error}"),
            }
            let retry = leftovers.due.filter(|due| *due < period);
            match tokio::time::timeout_at(retry.unwrap_or(period), monitor.next()).await {
                Err(_elapsed) if retry.is_some() => agenda.attachments = true,
                Err(_elapsed) => {}
                Ok(event) => agenda.note(&event?),
            }
            let settled = Instant::now() + SETTLE;
            while let Ok(event) = tokio::time::timeout_at(settled, monitor.next()).await {
                agenda.note(&event?);
            }
            // Events, however many, do not put it off.
            if Instant::now() >= period {
                agenda.everything = true;
                period = Instant::now() + PERIOD;
            }
        }
    }

    /// Looks at the endpoints and uplinks that the agenda names; whether all
    /// attachments that should be gone are, if it has looked at them.
    fn review(&self, agenda: &Agenda) -> Option<bool> {
        // First: what has taken an endpoint's place is still beside it.
        self.attach_siblings(|nsid| agenda.everything || agenda.namespaces.contains(&nsid));
        let endpoints: Vec<_> = {
            let state = self.state();
            let endpoints = state.endpoints.values();
            endpoints
                .filter(|endpoint| agenda.everything || agenda.namespaces.contains(&endpoint.nsid))
                .map(|endpoint| endpoint.record.id)
                .collect()
        };
        for id in endpoints {
            self.review_endpoint(id);
        }
        self.restore_filters(|nsid, ifindex| {
            agenda.everything || agenda.filters.contains(&(nsid, ifindex))
        });
        let undone = (agenda.everything || agenda.attachments).then(|| self.review_attachments());
        if agenda.everything {
            self.review_unknown();
        }
        if agenda.everything || agenda.namespaces.contains(&None) {
            self.review_uplinks();
            self.read_node_addresses();
        }
        self.sync_reach(&mut self.changes());
        self.sync_policy();
        undone
    }

    fn review_endpoint(&self, id: u32) {
        let Ok((_turn, record)) = self.turn(id) else {
            return;
        };
        let found = open_same(&record.netns, record.netns_id).map(|netns| {
            let interface = Netlink::open(&netns)
                .and_then(|mut netlink| netlink.interface_by_index(record.ifindex));
            (netns, interface)
        });
        let gone = match &found {
            None => true,
            Some((_, Err(LinkError::NotFound { .. }))) => true,
            Some(_) => false,
        };
        if gone && found.is_some() && self.stays_elsewhere(&record) {
            return;
        }
        if gone {
            tracing::info!(
                "endpoint {id}: {} in {} is gone; forgetting it",
                record.interface,
                record.netns
            );
            if let Err(error) = self.remove_held(&record) {
                tracing::warn!("endpoint {id}: {error}");
            }
            return;
        }
        if let Some((netns, Ok(interface))) = found {
            let kept = self.keep_hooks(id, &netns, &interface);
            let uplink = self.uplink_of(&interface, &netns);
            if let Some(endpoint) = self.state_mut().endpoints.get_mut(&id) {
                endpoint.interface = interface;
                endpoint.uplink = uplink;
                if let Err(error) = &kept {
                    endpoint.health = Health::Lost(error.to_string());
                }
            }
            if kept.is_err() {
                return;
            }
            let strayed = !record.stand_in
                && record.mechanism == TcMechanism::Tcx
                && self.kernel.linked_interface(id) != Some(record.ifindex);
            if strayed && let Some(endpoint) = self.state_mut().endpoints.get_mut(&id) {
                // The names of interfaces are a pod's to change, while the agent goes by one too.
                endpoint.health = Health::Lost("its programs are not on its interface".into());
            }
            if let Err(error) = self.repair(id, &netns) {
                tracing::warn!("endpoint {id}: {error}");
            }
            if record.stand_in {
                self.schedule_hand_over(id);
            }
        }
    }

    fn review_uplinks(&self) {
        let records: Vec<_> = {
            let state = self.state();
            let uplinks = state.uplinks.values();
            uplinks
                .map(|uplink| {
                    let ifindex = uplink.interface.as_ref().map(|link| link.ifindex);
                    (uplink.record.clone(), ifindex)
                })
                .collect()
        };
        for (record, ifindex) in records {
            let found = self.changes().netlink.interface(&record.interface);
            match found {
                Err(error) => self.lose_uplink(record.id, error.to_string()),
                // Another device of that name needs the programs anew.
                Ok(interface) if ifindex.is_some_and(|known| known != interface.ifindex) => {
                    let name = &record.interface;
                    let detached =
                        self.kernel
                            .detach_uplink(&self.home, name, record.id, record.mechanism);
                    if let Err(error) = detached {
                        tracing::warn!("uplink {name}: {error}");
                    }
                    self.lose_uplink(record.id, format!("{name} is another device now"));
                }
                Ok(interface) => {
                    if let Err(error) = self.configure_uplink(&record, &interface) {
                        tracing::warn!("uplink {}: {error}", record.interface);
                    }
                    if let Some(uplink) = self.state_mut().uplinks.get_mut(&record.id)
                        && uplink.health == Health::Attached
                    {
                        uplink.interface = Some(interface);
                    }
                }
            }
        }
        self.engage_uplinks();
    }
}
