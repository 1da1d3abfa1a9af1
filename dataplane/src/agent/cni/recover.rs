//! What is left of attachments: of crashes, of missed DELs, of DELs that came
//! while no agent ran.

use super::super::{Agent, attach::open_same};
use crate::{
    api::types::cni::Attachment,
    endpoint::{AttachmentRecord, Made, Stage, StoreError},
};

impl Agent {
    /// Reads the attachments, takes back what was not finished, and makes up
    /// for missed DELs. Endpoints have been adopted.
    pub(in crate::agent) fn recover_attachments(&self) -> Vec<StoreError> {
        let recorded = self.store.attachments();
        for record in recorded.earlier {
            self.void(&record);
        }
        for record in recorded.current {
            let mut state = self.state_mut();
            state.attachments.insert(record.attachment.clone(), record);
        }
        let unfinished: Vec<_> = {
            let state = self.state();
            let begun = |record: &&AttachmentRecord| record.stage != Stage::Done;
            let unfinished = state.attachments.values().filter(begun);
            unfinished.map(|record| record.attachment.clone()).collect()
        };
        for attachment in unfinished {
            self.clear("was not finished", &attachment, |_| true);
        }
        self.review_attachments();
        recorded.errors
    }

    /// Forgets an attachment of an earlier boot. All of it went with the
    /// machine's end but what its NIC may have kept of a VF.
    fn void(&self, record: &AttachmentRecord) {
        tracing::info!("{} is of an earlier boot; forgetting it", record.attachment);
        if let Some(Made::Vf(lent)) = &record.made
            && let Err(error) = self.restore_after_boot(lent)
        {
            tracing::warn!("{}: {error}", record.attachment);
        }
        if let Err(error) = self.store.remove_attachment(&record.attachment) {
            tracing::warn!("{error}");
        }
    }

    /// Undoes attachments whose namespace is gone, and those that a tombstone
    /// asks for; whether all of it is done.
    pub(in crate::agent) fn review_attachments(&self) -> bool {
        let attachments: Vec<_> = self.state().attachments.keys().cloned().collect();
        let mut done = true;
        for attachment in attachments {
            done &= self.clear("has lost its namespace", &attachment, |record| {
                open_same(&record.netns, record.netns_id).is_none()
            });
        }
        let (tombstones, errors) = self.store.tombstones();
        for error in errors {
            tracing::warn!("{error}");
        }
        for del in tombstones {
            tracing::info!("{}: deleted while no agent ran", del.attachment);
            if let Err(error) = self.cni_del(&del) {
                tracing::warn!("{}: {error}", del.attachment);
                done = false;
            }
        }
        done
    }

    /// Undoes an attachment if it is as `wanted`, which its turn decides;
    /// whether nothing is left to do.
    fn clear(
        &self,
        reason: &str,
        attachment: &Attachment,
        wanted: impl Fn(&AttachmentRecord) -> bool,
    ) -> bool {
        let _turn = self.attachments.take(attachment.clone());
        let record = self.attachment(attachment);
        let Some(record) = record.filter(wanted) else {
            return true;
        };
        if Self::vf_under_way(&record) {
            tracing::debug!("{attachment} {reason}; its VF is not back yet");
            return false;
        }
        tracing::info!("{attachment} {reason}; undoing it");
        let undone = self.delete_held(attachment);
        if let Err(error) = &undone {
            tracing::warn!("{attachment}: {error}");
        }
        undone.is_ok()
    }
}
