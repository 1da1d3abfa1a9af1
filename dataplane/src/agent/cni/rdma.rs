//! The RDMA device that goes with an interface.

use super::super::{Agent, Error, Result};
use crate::{
    api::types::cni::{AddRequest, Rdma as Wish},
    endpoint::{AttachmentRecord, MovedRdma},
    link::{DeviceId, Interface, InterfaceKind, Netns, Sysfs},
    rdma::{NetnsMode, Rdma, RdmaDevice, RdmaError},
};

/// What an interface has to do with RDMA.
enum Found {
    /// It has an RDMA device of its own, which is on the node.
    OnNode(RdmaDevice),
    /// It has one that somebody has moved into the container already.
    Inside(RdmaDevice),
    /// It hangs off an interface of the node: there is at most its master's.
    Child,
    /// Nothing.
    None,
}

impl Agent {
    /// Moves the RDMA device of an attachment into the container, where the
    /// node gives each namespace its own; the name of the interface's device,
    /// moved or not.
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
        let sysfs = Sysfs::default();
        if !required && !sysfs.has_rdma() {
            return Ok(None);
        }
        let mut rdma = match Rdma::open(&self.home) {
            Err(RdmaError::Unsupported) if !required => return Ok(None),
            opened => opened?,
        };
        let mode = rdma.mode()?;
        let device = match self.find_rdma(&sysfs, &mut rdma, mode, request, record, netns)? {
            Found::OnNode(device) => device,
            // It is for whoever moved it to take it back.
            Found::Inside(device) => return Ok(Some(device.name)),
            Found::Child | Found::None if !required => return Ok(None),
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
        } else if mode == NetnsMode::Shared {
            tracing::info!(
                "{}: RDMA device {} stays on the node, which shares its devices with all pods",
                record.attachment,
                device.name
            );
            return Ok(Some(device.name));
        }
        record.rdma = Some(MovedRdma {
            index: device.index,
            name: device.name.clone(),
        });
        self.keep_attachment(record)?;
        crate::agent::failpoint::step("cni::add::before_rdma")?;
        rdma.move_to(&device, netns)?;
        Ok(Some(device.name))
    }

    /// Takes an RDMA device back from a container. One that is not there came
    /// back by itself, as with the end of a namespace, or went with its
    /// interface, as soft-RoCE does.
    pub(super) fn return_rdma(&self, moved: &MovedRdma, netns: Option<&Netns>) -> Result<()> {
        let MovedRdma { index, name } = moved;
        if let Some(netns) = netns
            && Rdma::open(netns)?.take_back(*index, name, &self.home)?
        {
            return Ok(());
        }
        let mut node = Rdma::open(&self.home)?;
        let devices = node.devices()?;
        let back = devices.iter().find(|device| device.index == *index);
        match back {
            Some(device) if device.name != *name => Ok(node.rename(*index, name)?),
            _ => Ok(()),
        }
    }

    /// The device that the request names, else the one behind the interface,
    /// or on it.
    fn find_rdma(
        &self,
        sysfs: &Sysfs,
        node: &mut Rdma,
        mode: NetnsMode,
        request: &AddRequest,
        record: &AttachmentRecord,
        netns: &Netns,
    ) -> Result<Found> {
        let interface = self.interface_of(record);
        let named = request.device.as_deref();
        let behind = interface.as_ref().and_then(|one| one.device.as_ref());
        let device = named.or(behind.map(|device| device.name.as_str()));
        if let Some(device) = device.and_then(DeviceId::parse)
            && let Some(found) = only(&device, node.of_device(sysfs, &device)?)?
        {
            return Ok(Found::OnNode(found));
        }
        let Some(interface) = interface else {
            return Ok(Found::None);
        };
        if let Some((found, _)) = Rdma::open(netns)?.of_netdev(interface.ifindex)? {
            return Ok(match mode {
                NetnsMode::Shared => Found::OnNode(found),
                NetnsMode::Exclusive => Found::Inside(found),
            });
        }
        if let Some(mac) = interface.mac
            && let Some(found) = node.soft_device_of(sysfs, &interface.name, mac)?
        {
            return Ok(Found::OnNode(found));
        }
        Ok(match interface.kind {
            InterfaceKind::Macvlan { .. } | InterfaceKind::Ipvlan { .. } => Found::Child,
            _ => Found::None,
        })
    }

    fn interface_of(&self, record: &AttachmentRecord) -> Option<Interface> {
        let id = *self.endpoints_of(record).first()?;
        let state = self.state();
        let endpoint = state.endpoints.get(&id)?;
        Some(endpoint.interface.clone())
    }
}

fn only(id: &DeviceId, devices: Vec<RdmaDevice>) -> Result<Option<RdmaDevice>> {
    if devices.len() > 1 {
        let names: Vec<_> = devices.into_iter().map(|device| device.name).collect();
        return Err(Error::Invalid(format!(
            "device {id} has several RDMA devices ({}); which one is meant cannot be told, set \
             \"rdma\" to \"off\"",
            names.join(", ")
        )));
    }
    Ok(devices.into_iter().next())
}

fn missing(record: &AttachmentRecord) -> Error {
    Error::NotFound(format!(
        "{} has no RDMA device, which \"rdma\": \"require\" asks for; assign one that has, or set \
         \"rdma\" to \"auto\"",
        record.attachment
    ))
}
