//! The agent's part of the CNI plugin: what a runtime asks for, done so that a
//! crash at any point leaves a record from which it can be undone.
//!
//! An attachment's record is its intent, written and synced before anything is
//! touched; whatever is done for the attachment is either in the record or can
//! be found from it. One attachment is worked on by one request at a time.

mod add;
mod check;
mod child;
mod configure;
mod del;
mod hints;
mod interface;
mod rdma;
mod recover;
mod vf;
mod vlan;

use super::{Agent, Result};
use crate::{
    api::types::cni::{AddedInterface, Attachment, Readiness},
    endpoint::AttachmentRecord,
    link::Interface,
};

impl Agent {
    /// Whether pods can be added.
    pub fn cni_status(&self) -> Readiness {
        let mut obstacles = Vec::new();
        if let Err(error) = self.store.probe() {
            obstacles.push(error.to_string());
        }
        let state = self.state();
        let max = self.options.max_endpoints;
        if state.endpoints.len() >= max as usize {
            obstacles.push(format!(
                "all {max} endpoints are in use; raise max_endpoints in the configuration"
            ));
        }
        Readiness {
            pods_suffer: !obstacles.is_empty()
                && state
                    .endpoints
                    .values()
                    .any(|endpoint| endpoint.health != crate::api::types::Health::Attached),
            obstacles,
        }
    }

    /// The record of an attachment.
    fn attachment(&self, attachment: &Attachment) -> Option<AttachmentRecord> {
        self.state().attachments.get(attachment).cloned()
    }

    /// Has the stand-ins replaced, now that the runtime need not wait for it.
    fn settle_attachment(&self, record: &AttachmentRecord) {
        for id in self.endpoints_of(record) {
            self.schedule_hand_over(id);
        }
    }

    /// Writes how far an attachment has come.
    fn keep_attachment(&self, record: &AttachmentRecord) -> Result<()> {
        self.store.put_attachment(record)?;
        let mut state = self.state_mut();
        state
            .attachments
            .insert(record.attachment.clone(), record.clone());
        Ok(())
    }
}

/// An interface as the plugin is told of it.
fn describe(interface: &Interface) -> AddedInterface {
    let device = interface.device.as_ref();
    AddedInterface {
        name: interface.name.clone(),
        mac: interface.mac,
        mtu: interface.mtu,
        pci: device
            .filter(|device| device.bus == "pci")
            .map(|device| device.name.clone()),
    }
}
