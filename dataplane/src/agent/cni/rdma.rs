//! The RDMA device that goes with an interface.

use super::super::{Agent, Error, Result};
use crate::{
    api::types::cni::{AddRequest, Rdma as Wish},
    endpoint::AttachmentRecord,
    link::{DeviceId, Interface, InterfaceKind, Netns, Sysfs},
    rdma::{NetnsMode, Rdma, RdmaError},
};

/// What an interface has to do with RDMA.
enum Found {
    /// It is of a device that has an RDMA device of its own.
    Own(String),
    /// It hangs off an interface of the node: there is at most its master's.
    Child,
    /// Nothing.
    None,
}

impl Agent {
    /// Moves the RDMA device of an attachment into the container, where the
    /// node gives each namespace its own; its name.
    pub(super) fn bring_rdma(
        &self,
        request: &AddRequest,
        record: &mut AttachmentRecord,
        netns: &Netns,
    ) -> Result<Option<String>> {
        let required = match request.rdma {
            Wish::Off => return Ok(None),
            Wish::Auto => false,
            Wish::Require => true,
        };
        let found = self.find_rdma(request, record)?;
        if let (Found::None, false) | (Found::Child, false) = (&found, required) {
            return Ok(None);
        }
        let mut rdma = match Rdma::open(&self.home) {
            Err(RdmaError::Unsupported) if !required => return Ok(None),
            opened => opened?,
        };
        let name = match found {
            Found::Own(name) => name,
            Found::Child => {
                // The pod sees its master's device, if it sees any.
                rdma.require_mode(NetnsMode::Shared)?;
                return if rdma.devices()?.is_empty() {
                    Err(missing(record))
                } else {
                    Ok(None)
                };
            }
            Found::None => return Err(missing(record)),
        };
        if required {
            rdma.require_mode(NetnsMode::Exclusive)?;
        } else if rdma.mode()? == NetnsMode::Shared {
            return Ok(None);
        }
        let device = rdma.device(&name)?;
        record.rdma = Some(name.clone());
        self.keep_attachment(record)?;
        crate::agent::failpoint::step("cni::add::before_rdma")?;
        rdma.move_to(&device, netns)?;
        Ok(Some(name))
    }

    /// Takes an RDMA device back from a container. One that is not there came
    /// back by itself.
    pub(super) fn return_rdma(&self, name: &str, netns: &Netns) -> Result<()> {
        let mut inside = Rdma::open(netns)?;
        match inside.device(name) {
            Ok(device) => Ok(inside.move_to(&device, &self.home)?),
            Err(RdmaError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The device that the request names, else the one behind the interface.
    fn find_rdma(&self, request: &AddRequest, record: &AttachmentRecord) -> Result<Found> {
        if let Some(device) = request.device.as_deref().and_then(DeviceId::parse) {
            return own(&device);
        }
        let interface = self.interface_of(record);
        let Some(interface) = interface else {
            return Ok(Found::None);
        };
        if let InterfaceKind::Macvlan { .. } | InterfaceKind::Ipvlan { .. } = interface.kind {
            return Ok(Found::Child);
        }
        let device = interface.device.as_ref();
        match device.and_then(|device| DeviceId::parse(&device.name)) {
            Some(device) => own(&device),
            None => Ok(Found::None),
        }
    }

    fn interface_of(&self, record: &AttachmentRecord) -> Option<Interface> {
        let id = *self.endpoints_of(record).first()?;
        let state = self.state();
        let endpoint = state.endpoints.get(&id)?;
        Some(endpoint.interface.clone())
    }
}

fn own(device: &DeviceId) -> Result<Found> {
    let names = Sysfs::default().rdma(device)?;
    match &names[..] {
        [] => Ok(Found::None),
        [name] => Ok(Found::Own(name.clone())),
        several => Err(Error::Invalid(format!(
            "device {device} has several RDMA devices ({}); which one is meant cannot be told, set \
             \"rdma\" to \"off\"",
            several.join(", ")
        ))),
    }
}

fn missing(record: &AttachmentRecord) -> Error {
    Error::NotFound(format!(
        "{} has no RDMA device, which \"rdma\": \"require\" asks for; assign one that has, or set \
         \"rdma\" to \"auto\"",
        record.attachment
    ))
}
