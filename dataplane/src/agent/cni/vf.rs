//! Lending virtual functions, and taking them back as they were.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::super::{Agent, Error, Result, attach::open_same};
use crate::{
    api::types::cni::{AddRequest, Attachment, Create, VfSettings},
    endpoint::{AttachmentRecord, LentVf, Made},
    link::{
        LinkError, Netlink, Netns, PciFunction, Sriov, Sysfs, VfConfig, VfVlanTag, VlanProtocol,
    },
};

/// How long the kernel may take to bring a VF back from a namespace that has
/// ended, before a request for it fails.
const RETURN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

impl Agent {
    /// Sets a VF up at its PF and moves its interface to the container. What
    /// it was is on disk before anything is changed.
    pub(super) fn lend_vf(
        &self,
        request: &AddRequest,
        record: &mut AttachmentRecord,
        settings: &VfSettings,
        create: &Create,
        netns: &Netns,
    ) -> Result<()> {
        let address = request.device.as_deref().ok_or_else(|| {
            Error::Invalid("mode sriov needs deviceID, the PCI address of a VF".into())
        })?;
        let wanted = config(settings, create)?;
        let sysfs = Sysfs::default();
        let function = sysfs.pci(address)?;
        let Sriov::Vf { pf, index } = &function.sriov else {
            return Err(Error::Invalid(format!("{address} is no virtual function")));
        };
        self.free_device(address, &record.attachment)?;
        let mut node = Netlink::open(&self.home)?;
        let netdev = netdev(&mut node, &function)?;
        let pf_index = pf_ifindex(&mut node, &sysfs, pf)?;
        let lent = LentVf {
            address: address.to_owned(),
            pf: pf.clone(),
            index: *index,
            at_pf: node.vf_state(pf_index, *index)?,
            netdev: node.netdev_state(netdev)?,
        };
        let before = lent.netdev.clone();
        crate::agent::failpoint::step("cni::add::before_intent")?;
        record.made = Some(Made::Vf(Box::new(lent)));
        self.claim_device(address, record)?;
        self.keep_attachment(record)?;
        crate::agent::failpoint::step("cni::add::after_intent")?;
        node.configure_vf(pf_index, *index, &wanted)?;
        crate::agent::failpoint::step("cni::add::after_vf")?;
        node.lend(netdev, &before, netns, record.attachment.ifname())?;
        let mut inside = Netlink::open(netns)?;
        let ifindex = inside.interface(record.attachment.ifname())?.ifindex;
        if let Some(mac) = create.mac {
            inside.insist_on_mac(ifindex, mac)?;
        }
        if let Some(mtu) = create.mtu {
            inside.set_mtu(ifindex, mtu)?;
        }
        Ok(())
    }

    /// Takes a VF back: its interface, wherever it is by now, and its state at
    /// the PF. Everything is tried; what fails is told.
    pub(super) fn return_vf(&self, lent: &LentVf, name: &str, netns: Option<&Netns>) -> Result<()> {
        let since = Instant::now();
        while netns.is_none() && under_way(lent) {
            if since.elapsed() > RETURN {
                return Err(Error::Internal(format!(
                    "VF {} is still on its way back to the node; what it was at its PF comes after",
                    lent.address
                )));
            }
            thread::sleep(POLL);
        }
        let mut failures = self.restore(lent, name, netns)?;
        if !failures.is_empty() {
            // Each side has a say in what the other may set. A VF that its PF
            // does not trust, for one, gets its MAC address from there only.
            failures = self.restore(lent, name, netns)?;
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Error::Internal(format!(
                "VF {}: {}",
                lent.address,
                failures.join("; ")
            )))
        }
    }

    /// Makes a VF that was lent before the machine's last start what it was. It
    /// may not have been made again, which is as good.
    pub(super) fn restore_after_boot(&self, lent: &LentVf) -> Result<()> {
        let function = Sysfs::default().pci(&lent.address);
        if function.is_ok_and(|function| !function.netdevs.is_empty()) {
            self.return_vf(lent, "", None)
        } else {
            Ok(())
        }
    }

    /// One attempt at [`Agent::return_vf`]; what failed.
    fn restore(&self, lent: &LentVf, name: &str, netns: Option<&Netns>) -> Result<Vec<String>> {
        let mut failures = Vec::new();
        let sysfs = Sysfs::default();
        let mut node = Netlink::open(&self.home)?;
        let function = sysfs.pci(&lent.address).ok();
        let at_home = function
            .as_ref()
            .and_then(|function| netdev(&mut node, function).ok());
        let restored = match (at_home, netns) {
            // Never moved, or returned by the kernel with its namespace's end.
            (Some(ifindex), _) => Ok(node.restore_netdev(ifindex, &lent.netdev)),
            // Its driver has let go of it, and with it of the interface.
            (None, _) if function.is_some_and(|function| !function.has_net_driver()) => Ok(vec![]),
            (None, Some(netns)) => take_back(lent, name, netns, &self.home),
            (None, None) => Err(LinkError::NoDevice {
                device: lent.address.clone(),
                place: "with an interface on the node",
            }),
        };
        match restored {
            Ok(problems) => failures.extend(problems.iter().map(ToString::to_string)),
            Err(error) => failures.push(error.to_string()),
        }
        match pf_ifindex(&mut node, &sysfs, &lent.pf) {
            Ok(pf) => {
                let problems = node.restore_vf(pf, lent.index, &lent.at_pf);
                failures.extend(problems.iter().map(ToString::to_string));
            }
            Err(error) => failures.push(error.to_string()),
        }
        Ok(failures)
    }

    /// Whether an attachment's VF is between its namespace, which has ended,
    /// and the node. A link event tells of its arrival.
    pub(super) fn vf_under_way(record: &AttachmentRecord) -> bool {
        match &record.made {
            Some(Made::Vf(lent)) => {
                open_same(&record.netns, record.netns_id).is_none() && under_way(lent)
            }
            _ => false,
        }
    }

    /// Makes sure that a device is nobody else's: one whose container is gone
    /// gives it back first.
    fn free_device(&self, address: &str, own: &Attachment) -> Result<()> {
        let holder = self.holder_of(address, own);
        let Some(holder) = holder else { return Ok(()) };
        if open_same(&holder.netns, holder.netns_id).is_some() {
            return Err(in_use(address, &holder));
        }
        let _turn = self.attachments.take(holder.attachment.clone());
        self.delete_held(&holder.attachment)
    }

    /// Writes the record to memory if no other has the device: of two ADDs for
    /// it one wins.
    fn claim_device(&self, address: &str, record: &AttachmentRecord) -> Result<()> {
        let mut state = self.state_mut();
        let mut others = state.attachments.values();
        let holder =
            others.find(|other| other.attachment != record.attachment && lends(other, address));
        if let Some(holder) = holder {
            return Err(in_use(address, holder));
        }
        state
            .attachments
            .insert(record.attachment.clone(), record.clone());
        Ok(())
    }

    fn holder_of(&self, address: &str, own: &Attachment) -> Option<AttachmentRecord> {
        let state = self.state();
        let mut others = state.attachments.values();
        others
            .find(|other| other.attachment != *own && lends(other, address))
            .cloned()
    }
}

/// Whether a VF has an interface, and that is not on the node.
fn under_way(lent: &LentVf) -> bool {
    Sysfs::default()
        .pci(&lent.address)
        .is_ok_and(|function| function.has_net_driver() && function.netdevs.is_empty())
}

fn lends(record: &AttachmentRecord, address: &str) -> bool {
    matches!(&record.made, Some(Made::Vf(lent)) if lent.address == address)
}

fn in_use(address: &str, holder: &AttachmentRecord) -> Error {
    Error::Conflict(format!(
        "VF {address} is in use as {}; the device plugin gave it out twice",
        holder.attachment
    ))
}

/// The index of a VF's one interface on the node.
fn netdev(node: &mut Netlink, function: &PciFunction) -> Result<u32> {
    match &function.netdevs[..] {
        [name] => Ok(node.interface(name)?.ifindex),
        [] => Err(Error::NotFound(format!(
            "VF {} has no interface on the node; it is lent out, or bound to {}",
            function.address,
            function.driver.as_deref().unwrap_or("no driver")
        ))),
        several => Err(Error::Invalid(format!(
            "VF {} has several interfaces: {}",
            function.address,
            several.join(", ")
        ))),
    }
}

fn pf_ifindex(node: &mut Netlink, sysfs: &Sysfs, pf: &str) -> Result<u32> {
    let function = sysfs.pci(pf)?;
    let Some(name) = function.netdevs.first() else {
        return Err(Error::NotFound(format!(
            "PF {pf} has no interface on the node"
        )));
    };
    Ok(node.interface(name)?.ifindex)
}

fn take_back(
    lent: &LentVf,
    name: &str,
    netns: &Netns,
    home: &Netns,
) -> std::result::Result<Vec<LinkError>, LinkError> {
    let mut inside = Netlink::open(netns)?;
    let ifindex = inside.interface(name)?.ifindex;
    Ok(inside.take_back(ifindex, &lent.netdev, home)?.problems)
}

fn config(settings: &VfSettings, create: &Create) -> Result<VfConfig> {
    let vlan = settings.vlan.map(|id| VfVlanTag {
        id,
        qos: settings.vlan_qos.unwrap_or_default(),
        protocol: if settings.vlan_ad {
            VlanProtocol::Dot1Ad
        } else {
            VlanProtocol::Dot1Q
        },
    });
    let link = settings
        .link_state
        .as_deref()
        .map(|state| serde_json::from_value(state.into()))
        .transpose()
        .map_err(|error| Error::Invalid(format!("link_state: {error}")))?;
    let config = VfConfig {
        mac: create.mac,
        vlan,
        spoofchk: settings.spoofchk,
        trust: settings.trust,
        link,
        min_tx_rate: settings.min_tx_rate,
        max_tx_rate: settings.max_tx_rate,
    };
    config.check()?;
    Ok(config)
}
