//! What hardware counts, and whose it is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::super::{Agent, Error, Result};
use crate::{
    api::hardware::{OwnedQueuePair, RdmaResources},
    endpoint::Store,
    hw::{Asked, Collector, HwStats, Kernel, Pods, Processes, Resident},
    rdma::{NodeRdma, Owner},
};

/// How old a reading may be: scrapers that come together share one.
const FRESH: Duration = Duration::from_millis(500);
/// How often sums that only grow are saved. What wraps, resets and ends is saved at once.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The counters of hardware, and the last reading.
pub(in crate::agent) struct HwView {
    inner: Mutex<Inner>,
}

struct Inner {
    collector: Collector,
    last: Option<(Instant, Arc<HwStats>)>,
    saved: Instant,
}

impl HwView {
    /// Goes on with what the last agent of this boot saved.
    pub(in crate::agent) fn open(store: &Store) -> Self {
        let saved = store.hw_counters().unwrap_or_else(|error| {
            tracing::warn!("hardware counters: sums start anew: {error}");
            None
        });
        Self {
            inner: Mutex::new(Inner {
                collector: Collector::new(Kernel, saved.unwrap_or_default()),
                last: None,
                saved: Instant::now(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// What hardware counts: RDMA devices, where the kernel has RDMA, and network interfaces.
    ///
    /// # Errors
    /// RDMA is there and cannot be read.
    pub fn hw(&self) -> Result<Arc<HwStats>> {
        let node = match self.rdma() {
            Err(Error::Unsupported(_)) => NodeRdma::none(),
            other => other?,
        };
        let mut inner = self.hw.lock();
        if let Some((taken, stats)) = &inner.last
            && taken.elapsed() < FRESH
        {
            return Ok(Arc::clone(stats));
        }
        let asked = Asked {
            node: &node,
            pods: self.pods(),
            uplinks: self.uplink_interfaces(),
            make_sets: self.options.rdma_pod_counters,
        };
        let stats = Arc::new(inner.collector.read(asked));
        self.save_hw(&mut inner);
        inner.last = Some((Instant::now(), Arc::clone(&stats)));
        Ok(stats)
    }

    /// Saves what the next agent is to go on with, before anybody is told of it.
    fn save_hw(&self, inner: &mut Inner) {
        let due = inner.saved.elapsed() >= SAVE_EVERY;
        let Some(state) = inner.collector.to_save(due) else {
            return;
        };
        match self.store.put_hw_counters(&state) {
            Ok(()) => inner.saved = Instant::now(),
            Err(error) => tracing::warn!("hardware counters: {error}"),
        }
    }

    /// Saves the sums at a planned stop.
    pub fn save_hw_counters(&self) {
        let mut inner = self.hw.lock();
        if let Some(state) = inner.collector.to_save(true)
            && let Err(error) = self.store.put_hw_counters(&state)
        {
            tracing::warn!("hardware counters: {error}");
        }
    }

    /// The RDMA objects of the node and of every pod, and whose they are.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::agent::Error::Unsupported) when this kernel has no RDMA.
    pub fn rdma_resources(&self) -> Result<RdmaResources> {
        let holdings = self.hw()?.holdings.clone();
        let node = self.rdma()?;
        let mut pods = self.pods();
        let mut processes = Processes::new("/proc");
        let mut queue_pairs = Vec::new();
        for placed in &node.devices {
            let Some(mut rdma) = self.rdma_in(placed)? else {
                continue;
            };
            for pair in rdma.queue_pairs(placed.device.index)? {
                let holder = pods.holder(&pair.owner, &mut processes);
                let process = match &pair.owner {
                    Owner::Process(pid) => processes.get(*pid),
                    _ => None,
                };
                queue_pairs.push(OwnedQueuePair {
                    device: placed.device.name.clone(),
                    netns: placed.netns.clone(),
                    process: process.map(|process| process.name.clone()),
                    holder: pods.in_netns(&placed.netns).unwrap_or(holder),
                    pair,
                });
            }
        }
        Ok(RdmaResources {
            holdings,
            queue_pairs,
        })
    }

    /// What is known of pods, to find out whose a process is.
    fn pods(&self) -> Pods {
        let uids = self.policy_pod_uids();
        let state = self.state();
        let residents = state.endpoints.values().map(|endpoint| Resident {
            endpoint: endpoint.record.id,
            netns: endpoint.record.netns.clone(),
            inode: endpoint.record.netns_id.ino,
            pod: endpoint.record.pod.clone(),
        });
        let containers = state.attachments.iter().filter_map(|(attachment, record)| {
            let pod = record.pod.clone()?;
            Some((attachment.container_id().to_owned(), pod))
        });
        Pods::new(residents, containers).with_uids(uids)
    }

    fn uplink_interfaces(&self) -> Vec<String> {
        let state = self.state();
        let uplinks = state.uplinks.values();
        uplinks
            .filter(|uplink| uplink.interface.is_some())
            .map(|uplink| uplink.record.interface.clone())
            .collect()
    }
}
