//! ADD: intent, act, done.

use super::{
    super::{
        Agent, Error, Result,
        attach::{Pace, Target},
    },
    describe,
};
use crate::{
    api::types::cni::{AddAnswer, AddRequest, Create, Kind, Work},
    endpoint::{AttachmentRecord, Made, Stage},
    link::{ChildKind, ChildSpec, Interface, LinkError, MAIN_TABLE, Netlink, Netns, NetnsRef},
};

impl Agent {
    /// Makes or takes over a container's interfaces, and attaches them. An
    /// attachment that is complete stays as it is; what an ADD that failed has
    /// left is undone first.
    pub fn cni_add(&self, request: &AddRequest) -> Result<AddAnswer> {
        let attachment = &request.attachment;
        let _turn = self.attachments.take(attachment.clone());
        let netns = Netns::open(&NetnsRef::Path(request.netns.clone()))?;
        if netns.id() == self.home.id() {
            return Err(Error::Invalid(format!(
                "{} is the node's own network namespace; a pod needs one of its own",
                request.netns
            )));
        }
        if let Some(record) = self.attachment(attachment) {
            let complete = record.stage == Stage::Done && record.netns_id == netns.id();
            if complete && !self.store.has_tombstone(attachment) {
                match self.add_again(request, &record, &netns) {
                    // Its interface is gone: as if it had never been.
                    Err(Error::NotFound(_)) => {}
                    answered => return answered,
                }
            }
        }
        self.delete_held(attachment)?;
        let record = AttachmentRecord {
            attachment: attachment.clone(),
            network: request.network.clone(),
            stage: Stage::Intent,
            netns: NetnsRef::Path(request.netns.clone()),
            netns_id: netns.id(),
            pod: request.pod.clone(),
            interfaces: match &request.work {
                Work::Adopt(interfaces) => interfaces.clone(),
                Work::Create(_) => vec![attachment.ifname().to_owned()],
            },
            made: None,
            result: None,
        };
        let added = match &request.work {
            Work::Adopt(_) => self.adopt_interfaces(record, &netns),
            Work::Create(create) => self.create_interface(record, create, &netns),
        };
        added.map_err(|error| match self.delete_held(attachment) {
            Ok(()) => error,
            Err(undo) => Error::Internal(format!("{error}; undoing it failed: {undo}")),
        })
    }

    /// Answers an ADD that was done before, and mends what has gone since.
    fn add_again(
        &self,
        request: &AddRequest,
        record: &AttachmentRecord,
        netns: &Netns,
    ) -> Result<AddAnswer> {
        let mut record = record.clone();
        if let Work::Adopt(interfaces) = &request.work {
            record.interfaces.clone_from(interfaces);
            self.keep_attachment(&record)?;
        }
        Ok(AddAnswer {
            interfaces: self.attach_all(&record, netns)?,
            rdma_device: None,
            existing: record.result,
        })
    }

    fn adopt_interfaces(&self, mut record: AttachmentRecord, netns: &Netns) -> Result<AddAnswer> {
        fail::fail_point!("cni::add::before_intent", crate::agent::failpoint::act);
        self.keep_attachment(&record)?;
        fail::fail_point!("cni::add::after_intent", crate::agent::failpoint::act);
        let interfaces = self.attach_all(&record, netns)?;
        fail::fail_point!("cni::add::after_attach", crate::agent::failpoint::act);
        record.stage = Stage::Done;
        self.keep_attachment(&record)?;
        fail::fail_point!("cni::add::after_done", crate::agent::failpoint::act);
        self.settle_attachment(&record);
        Ok(AddAnswer {
            interfaces,
            ..AddAnswer::default()
        })
    }

    fn create_interface(
        &self,
        mut record: AttachmentRecord,
        create: &Create,
        netns: &Netns,
    ) -> Result<AddAnswer> {
        let name = record.attachment.ifname().to_owned();
        let mut inside = Netlink::open(netns)?;
        match inside.interface(&name) {
            Err(LinkError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                return Err(Error::Conflict(format!(
                    "{netns} has an interface {name} already; give this network another name in \
                     the pod"
                )));
            }
        }
        let spec = self.child(&name, create)?;
        if let Some(host_reach) = create.host_reach {
            self.ensure_uplink(&spec.master, host_reach)?;
        }
        fail::fail_point!("cni::add::before_intent", crate::agent::failpoint::act);
        // From here on an interface of this name is ours.
        record.made = Some(Made::Child { ifindex: None });
        self.keep_attachment(&record)?;
        fail::fail_point!("cni::add::after_intent", crate::agent::failpoint::act);
        let created = Netlink::open(&self.home)?.create_child(&spec, netns);
        if let Err(error) = created {
            record.made = None;
            self.keep_attachment(&record)?;
            return Err(error.into());
        }
        fail::fail_point!("cni::add::after_create", crate::agent::failpoint::act);
        let interface = inside.interface(&name)?;
        record.made = Some(Made::Child {
            ifindex: Some(interface.ifindex),
        });
        let interfaces = vec![describe(&interface)];
        self.attach_one(&record, netns, interface)?;
        fail::fail_point!("cni::add::after_attach", crate::agent::failpoint::act);
        record.stage = Stage::Created;
        self.keep_attachment(&record)?;
        fail::fail_point!("cni::add::after_created", crate::agent::failpoint::act);
        Ok(AddAnswer {
            interfaces,
            ..AddAnswer::default()
        })
    }

    /// Attaches the record's interfaces.
    fn attach_all(
        &self,
        record: &AttachmentRecord,
        netns: &Netns,
    ) -> Result<Vec<crate::api::types::cni::AddedInterface>> {
        let mut netlink = Netlink::open(netns)?;
        record
            .interfaces
            .iter()
            .map(|name| {
                let interface = netlink.interface(name)?;
                let described = describe(&interface);
                self.attach_one(record, netns, interface)?;
                Ok(described)
            })
            .collect()
    }

    fn attach_one(
        &self,
        record: &AttachmentRecord,
        netns: &Netns,
        interface: Interface,
    ) -> Result<u32> {
        self.attach_target(Target {
            netns,
            reference: record.netns.clone(),
            interface,
            pod: record.pod.clone(),
            pace: Pace::Swift,
        })
    }

    /// What to ask of the kernel.
    fn child(&self, name: &str, create: &Create) -> Result<ChildSpec> {
        let (master, kind) = match &create.kind {
            Kind::Macvlan { master, submode } => (master, ChildKind::Macvlan(mode(submode)?)),
            Kind::Ipvlan { master, submode } => (master, ChildKind::Ipvlan(mode(submode)?)),
            Kind::Sriov(_) => {
                return Err(Error::Invalid(
                    "mode sriov is not there yet; chain this plugin behind sriov-cni".into(),
                ));
            }
        };
        Ok(ChildSpec {
            master: match master {
                Some(master) => master.clone(),
                None => self.default_master()?,
            },
            name: name.to_owned(),
            kind,
            mac: create.mac,
            mtu: create.mtu,
            up: false,
        })
    }

    /// The interface that the node's default route leads to, by the best
    /// metric; IPv4's before IPv6's.
    fn default_master(&self) -> Result<String> {
        let mut netlink = Netlink::open(&self.home)?;
        let best = netlink
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
                "the node has no default route to tell the master by; name one with \"master\""
                    .into(),
            ));
        };
        Ok(netlink.interface_by_index(route.ifindex)?.name)
    }
}

/// A mode by its name.
fn mode<T: serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    serde_json::from_value(name.into())
        .map_err(|error| Error::Invalid(format!("mode {name:?}: {error}")))
}
