//! Making macvlan and ipvlan interfaces.

use serde::de::DeserializeOwned;

use super::super::{Agent, Error, Result};
use crate::{
    api::types::cni::{Create, Kind},
    endpoint::{AttachmentRecord, Made},
    link::{ChildKind, ChildSpec, MAIN_TABLE, Netlink, Netns},
};

impl Agent {
    /// Makes a child interface in the container's namespace, which has none of
    /// its name.
    pub(super) fn make_child(
        &self,
        record: &mut AttachmentRecord,
        create: &Create,
        netns: &Netns,
    ) -> Result<()> {
        let mut node = Netlink::open(&self.home)?;
        let (mut spec, vlan) = child(&mut node, record.attachment.ifname(), create)?;
        if let Some(host_reach) = create.host_reach {
            self.ensure_uplink(&spec.master, host_reach)?;
        }
        crate::agent::failpoint::step("cni::add::before_intent")?;
        if let Some(vlan) = vlan {
            spec.master = self.enter_vlan(record, &mut node, &spec.master, vlan)?;
            crate::agent::failpoint::step("cni::add::after_vlan")?;
        }
        // From here on an interface of this name is ours.
        record.made = Some(Made::Child);
        self.keep_attachment(record)?;
        crate::agent::failpoint::step("cni::add::after_intent")?;
        let created = node.create_child(&spec, netns);
        if let Err(error) = created {
            record.made = None;
            self.keep_attachment(record)?;
            return Err(error.into());
        }
        Ok(())
    }
}

/// What to ask of the kernel, and the VLAN that it is to be in.
fn child(node: &mut Netlink, name: &str, create: &Create) -> Result<(ChildSpec, Option<u16>)> {
    let (master, vlan, kind) = match &create.kind {
        Kind::Macvlan {
            master,
            submode,
            vlan,
        } => (master, vlan, ChildKind::Macvlan(mode(submode)?)),
        Kind::Ipvlan {
            master,
            submode,
            vlan,
        } => (master, vlan, ChildKind::Ipvlan(mode(submode)?)),
        Kind::Sriov(_) => return Err(Error::Internal("a VF is no child interface".into())),
    };
    let spec = ChildSpec {
        master: match master {
            Some(master) => master.clone(),
            None => default_master(node)?,
        },
        name: name.to_owned(),
        kind,
        mac: create.mac,
        mtu: create.mtu,
        up: false,
    };
    Ok((spec, *vlan))
}

/// The interface that the node's default route leads to, by the best metric;
/// IPv4's before IPv6's.
fn default_master(node: &mut Netlink) -> Result<String> {
    let best = node
        .routes(MAIN_TABLE)?
        .into_iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .min_by_key(|route| {
            (
                route.destination.addr().is_ipv6(),
                route.metric.unwrap_or_default(),
            )
        });
    let Some(route) = best else {
        return Err(Error::Invalid(
            "the node has no default route to tell the master by; name one with \"master\"".into(),
        ));
    };
    Ok(node.interface_by_index(route.ifindex)?.name)
}

/// A mode by its name.
fn mode<T: DeserializeOwned>(name: &str) -> Result<T> {
    serde_json::from_value(name.into())
        .map_err(|error| Error::Invalid(format!("mode {name:?}: {error}")))
}
