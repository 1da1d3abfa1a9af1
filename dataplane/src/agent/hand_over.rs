//! What a pod's start need not wait for: from stand-ins on clsact to entry
//! programs on TCX.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Agent, Error, Result};
use crate::{
    endpoint::EndpointRecord,
    link::{Interface, Netns},
};

/// A TCX attachment holds the kernel's RTNL lock for tens of milliseconds. So
/// long after an ADD the runtime is done with the pod's other networks, and the
/// pod's own processes have not begun.
const AFTER: Duration = Duration::from_millis(100);

/// Endpoints whose stand-ins are to be replaced.
pub(super) struct HandOvers {
    sender: UnboundedSender<u32>,
    receiver: Mutex<Option<UnboundedReceiver<u32>>>,
}

impl HandOvers {
    pub(super) fn new() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
        }
    }
}

impl Agent {
    /// Has an endpoint's stand-ins replaced soon.
    pub(super) fn schedule_hand_over(&self, id: u32) {
        // Without a receiver the minute's review is there to do it.
        let _ = self.hand_overs.sender.send(id);
    }

    /// Replaces stand-ins for as long as the process lives.
    ///
    /// # Errors
    /// Somebody does it already.
    pub async fn hand_over(self: Arc<Self>) -> anyhow::Result<()> {
        let receiver = {
            let receiver = &self.hand_overs.receiver;
            receiver
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
        };
        let Some(mut receiver) = receiver else {
            anyhow::bail!("stand-ins are replaced in one place only");
        };
        while let Some(id) = receiver.recv().await {
            tokio::time::sleep(AFTER).await;
            let mut ids = vec![id];
            while let Ok(id) = receiver.try_recv() {
                ids.push(id);
            }
            let agent = Arc::clone(&self);
            let replaced = tokio::task::spawn_blocking(move || {
                for id in ids {
                    agent.replace_stand_in(id);
                }
            });
            replaced.await?;
        }
        Ok(())
    }

    fn replace_stand_in(&self, id: u32) {
        // Gone again, or somebody else's by now: both are fine.
        let Ok((_turn, record)) = self.turn(id) else {
            return;
        };
        if !record.stand_in {
            return;
        }
        let Some(netns) = super::attach::open_same(&record.netns, record.netns_id) else {
            return;
        };
        let interface = {
            let state = self.state();
            let endpoint = state.endpoints.get(&id);
            endpoint.map(|endpoint| endpoint.interface.clone())
        };
        let Some(interface) = interface else { return };
        match self.end_stand_in(record, &netns, &interface) {
            Ok(record) => {
                if let Some(endpoint) = self.state_mut().endpoints.get_mut(&id) {
                    endpoint.record = record;
                }
            }
            // Its interface has just gone, and the stand-ins with it.
            Err(Error::NotFound(_)) => {}
            Err(error) => tracing::warn!("endpoint {id}: its stand-ins stay for now: {error}"),
        }
    }

    /// Puts the entry programs in the place of an endpoint's stand-ins; the
    /// record of it. The caller has the endpoint's turn, or is alone.
    pub(super) fn end_stand_in(
        &self,
        mut record: EndpointRecord,
        netns: &Netns,
        interface: &Interface,
    ) -> Result<EndpointRecord> {
        crate::agent::failpoint::step("hand_over::before")?;
        self.kernel.hand_over(netns, interface, record.id)?;
        crate::agent::failpoint::step("hand_over::after")?;
        record.stand_in = false;
        if record.made_clsact {
            self.kernel.release_clsact(netns, &interface.name);
            record.made_clsact = false;
        }
        record.entry_tags = self.entry_tags;
        self.store.put_endpoint(&record)?;
        Ok(record)
    }
}
