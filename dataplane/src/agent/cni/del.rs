//! Undoing attachments: DEL, GC, failed ADDs, and what a crash left.

use super::super::{Agent, Error, Result, attach::open_same};
use crate::{
    api::types::cni::{Attachment, DelRequest, Done, GcAnswer, GcRequest},
    endpoint::{AttachmentRecord, Made},
    link::{LinkError, Netlink, Netns},
};

impl Agent {
    /// Undoes an attachment. One that is not there is as good; what fails is
    /// left for the next attempt, and does not stop the rest.
    pub fn cni_del(&self, request: &DelRequest) -> Result<Done> {
        let _turn = self.attachments.take(request.attachment.clone());
        self.delete_held(&request.attachment)?;
        Ok(Done {})
    }

    /// Undoes the network's attachments that are not in use.
    pub fn cni_gc(&self, request: &GcRequest) -> Result<GcAnswer> {
        let stale: Vec<_> = {
            let state = self.state();
            let of_network = state
                .attachments
                .values()
                .filter(|record| record.network == request.network);
            of_network
                .map(|record| record.attachment.clone())
                .filter(|attachment| !request.valid.contains(attachment))
                .collect()
        };
        let mut answer = GcAnswer::default();
        let mut failures = Vec::new();
        for attachment in stale {
            let _turn = self.attachments.take(attachment.clone());
            match self.delete_held(&attachment) {
                Ok(()) => answer.removed.push(attachment),
                Err(error) => failures.push(format!("{attachment}: {error}")),
            }
        }
        if failures.is_empty() {
            Ok(answer)
        } else {
            Err(Error::Internal(failures.join("; ")))
        }
    }

    /// Undoes an attachment whose turn the caller has, and with it a DEL that
    /// came while no agent ran.
    pub(super) fn delete_held(&self, attachment: &Attachment) -> Result<()> {
        if let Some(record) = self.attachment(attachment) {
            self.undo(&record)?;
        }
        crate::agent::failpoint::step("cni::del::before_forget")?;
        // Even without a record in memory: a file that could not be read has
        // no other way out.
        self.store.remove_attachment(attachment)?;
        self.state_mut().attachments.remove(attachment);
        crate::agent::failpoint::step("cni::del::after_forget")?;
        self.store.remove_tombstone(attachment)?;
        Ok(())
    }

    /// Takes back all that was done for an attachment, in the reverse order.
    fn undo(&self, record: &AttachmentRecord) -> Result<()> {
        crate::agent::failpoint::step("cni::del::before_undo")?;
        let mut failures = Vec::new();
        let mut note = |done: Result<()>| {
            if let Err(error) = done {
                failures.push(error.to_string());
            }
        };
        let netns = open_same(&record.netns, record.netns_id);
        // RDMA devices go first: one whose interface is gone may be lost.
        if let Some(moved) = &record.rdma {
            note(self.return_rdma(moved, netns.as_ref()));
        }
        crate::agent::failpoint::step("cni::del::after_rdma")?;
        // The interface goes before its programs: nothing passes in between.
        match (&record.made, &netns) {
            (Some(Made::Child), Some(netns)) => note(delete_child(record, netns)),
            (Some(Made::Vf(lent)), netns) => {
                let name = record.attachment.ifname();
                note(self.return_vf(lent, name, netns.as_ref()));
            }
            // It went with its namespace.
            (Some(Made::Child), None) | (None, _) => {}
        }
        note(self.leave_vlan(record));
        crate::agent::failpoint::step("cni::del::after_unmake")?;
        for id in self.endpoints_of(record) {
            note(match self.remove(id) {
                // Link events may have been faster.
                Err(Error::NotFound(_)) => Ok(()),
                other => other,
            });
        }
        crate::agent::failpoint::step("cni::del::after_detach")?;
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::Internal(failures.join("; ")))
        }
    }

    /// The endpoints that an attachment's interfaces are.
    pub(super) fn endpoints_of(&self, record: &AttachmentRecord) -> Vec<u32> {
        let state = self.state();
        let endpoints = state.endpoints.values().filter(|endpoint| {
            let endpoint = &endpoint.record;
            endpoint.netns_id == record.netns_id && record.interfaces.contains(&endpoint.interface)
        });
        endpoints.map(|endpoint| endpoint.record.id).collect()
    }
}

/// Deletes the interface that was made in a container's namespace, and the
/// rules that led to it. Before its index was recorded it is known by its name,
/// which was free when the intent was written.
fn delete_child(record: &AttachmentRecord, netns: &Netns) -> Result<()> {
    let mut netlink = Netlink::open(netns)?;
    for rule in &record.rules {
        netlink.remove_rule(rule)?;
    }
    let ifindex = match record.ifindex {
        Some(ifindex) => ifindex,
        None => match netlink.interface(record.attachment.ifname()) {
            Ok(interface) => interface.ifindex,
            Err(LinkError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        },
    };
    netlink.delete(ifindex)?;
    Ok(())
}
