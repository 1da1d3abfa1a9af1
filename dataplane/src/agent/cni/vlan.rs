//! VLANs of macvlan and ipvlan interfaces.
//!
//! Neither kind tags frames: the interface hangs off a VLAN interface on its
//! master. There can be one for each VLAN and master, so all pods of a VLAN
//! share it. Who needs it is what the attachments' records say: it is recorded
//! before it is made, and deleted before the last record that names it.

use std::sync::PoisonError;

use super::super::{Agent, Result};
use crate::{
    endpoint::AttachmentRecord,
    link::{ChildKind, ChildSpec, Interface, InterfaceKind, LinkError, Netlink},
};

impl Agent {
    /// The interface of a master's VLAN, made if there is none. One that others
    /// have made is used, and stays theirs.
    pub(super) fn enter_vlan(
        &self,
        record: &mut AttachmentRecord,
        node: &mut Netlink,
        master: &str,
        id: u16,
    ) -> Result<String> {
        let _alone = self.vlans.lock().unwrap_or_else(PoisonError::into_inner);
        let master = node.interface(master)?;
        let is_it = |other: &Interface| {
            other.kind == InterfaceKind::Vlan { id }
                && other
                    .parent
                    .is_some_and(|parent| parent.ifindex == master.ifindex)
        };
        let there = node.interfaces()?.into_iter().find(is_it);
        let name = name(master.ifindex, id);
        if let Some(other) = there.as_ref().filter(|there| there.name != name) {
            return Ok(other.name.clone());
        }
        record.vlan = Some(name.clone());
        self.keep_attachment(record)?;
        if there.is_none() {
            let spec = ChildSpec {
                master: master.name,
                name: name.clone(),
                kind: ChildKind::Vlan(id),
                mac: None,
                mtu: None,
                up: true,
            };
            node.create_child(&spec, &self.home)?;
        }
        Ok(name)
    }

    /// Deletes the VLAN interface of an attachment that is being undone, if no
    /// other attachment needs it.
    pub(super) fn leave_vlan(&self, record: &AttachmentRecord) -> Result<()> {
        let Some(name) = &record.vlan else {
            return Ok(());
        };
        let _alone = self.vlans.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = {
            let state = self.state();
            let mut others = state.attachments.values();
            others.any(|other| {
                other.attachment != record.attachment && other.vlan.as_ref() == Some(name)
            })
        };
        if !needed {
            let mut node = Netlink::open(&self.home)?;
            match node.interface(name) {
                Ok(interface) => drop(node.delete(interface.ifindex)?),
                Err(LinkError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // For others that leave at the same time; on disk the whole record goes.
        if let Some(record) = self.state_mut().attachments.get_mut(&record.attachment) {
            record.vlan = None;
        }
        Ok(())
    }
}

/// Its name, which says that it is ours: 15 characters at most.
fn name(master: u32, id: u16) -> String {
    format!("slv{master}.{id}")
}
