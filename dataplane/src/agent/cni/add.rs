//! ADD: intent, act, done.

use super::{
    super::{
        Agent, Error, Result,
        attach::{Pace, Target},
    },
    describe,
};
use crate::{
    api::types::cni::{AddAnswer, AddRequest, AddedInterface, Create, Kind, Work},
    endpoint::{AttachmentRecord, Stage},
    link::{Interface, LinkError, Netlink, Netns, NetnsRef},
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
            ifindex: None,
            rules: Vec::new(),
            vlan: None,
            rdma: None,
            result: None,
        };
        let added = match &request.work {
            Work::Adopt(_) => self.adopt_interfaces(request, record, &netns),
            Work::Create(create) => self.create_interface(request, record, create, &netns),
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
        let interfaces = self.attach_all(&record, netns)?;
        Ok(AddAnswer {
            interfaces,
            rdma: self.rdma_hints(&record, netns),
            rdma_device: record.rdma.map(|moved| moved.name),
            existing: record.result,
        })
    }

    fn adopt_interfaces(
        &self,
        request: &AddRequest,
        mut record: AttachmentRecord,
        netns: &Netns,
    ) -> Result<AddAnswer> {
        crate::agent::failpoint::step("cni::add::before_intent")?;
        self.keep_attachment(&record)?;
        crate::agent::failpoint::step("cni::add::after_intent")?;
        let interfaces = self.attach_all(&record, netns)?;
        crate::agent::failpoint::step("cni::add::after_attach")?;
        let rdma_device = self.bring_rdma(request, &mut record, netns)?;
        crate::agent::failpoint::step("cni::add::after_rdma")?;
        record.stage = Stage::Done;
        self.keep_attachment(&record)?;
        crate::agent::failpoint::step("cni::add::after_done")?;
        self.settle_attachment(&record);
        Ok(AddAnswer {
            interfaces,
            rdma: self.rdma_hints(&record, netns),
            rdma_device,
            existing: None,
        })
    }

    fn create_interface(
        &self,
        request: &AddRequest,
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
        match &create.kind {
            Kind::Macvlan { .. } | Kind::Ipvlan { .. } => {
                self.make_child(&mut record, create, netns)?;
            }
            Kind::Sriov(settings) => self.lend_vf(request, &mut record, settings, create, netns)?,
        }
        crate::agent::failpoint::step("cni::add::after_create")?;
        let interface = inside.interface(&name)?;
        record.ifindex = Some(interface.ifindex);
        let interfaces = vec![describe(&interface)];
        self.attach_one(&record, netns, interface)?;
        crate::agent::failpoint::step("cni::add::after_attach")?;
        let rdma_device = self.bring_rdma(request, &mut record, netns)?;
        crate::agent::failpoint::step("cni::add::after_rdma")?;
        record.stage = Stage::Created;
        self.keep_attachment(&record)?;
        crate::agent::failpoint::step("cni::add::after_created")?;
        Ok(AddAnswer {
            interfaces,
            rdma_device,
            ..AddAnswer::default()
        })
    }

    /// Attaches the record's interfaces.
    fn attach_all(&self, record: &AttachmentRecord, netns: &Netns) -> Result<Vec<AddedInterface>> {
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
            beside: None,
            pace: Pace::Swift,
        })
    }
}
