//! What can go wrong with RDMA devices.

use std::{io, path::PathBuf};

use crate::{link::LinkError, netlink::NetlinkError};

/// An error of the RDMA layer. The text names the thing, the cause and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum RdmaError {
    /// The kernel has no RDMA at all.
    #[error(
        "this kernel has no RDMA (no NETLINK_RDMA protocol); load ib_core, or use a kernel that is \
         built with CONFIG_INFINIBAND"
    )]
    Unsupported,

    /// The netlink socket could not be set up.
    #[error("cannot set up an RDMA netlink socket in network namespace {netns} ({step}): {source}")]
    Socket {
        /// The namespace.
        netns: String,
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel refused a request, or its answer makes no sense.
    #[error(
        "cannot {request} in network namespace {netns}: {source}{}",
        after_semicolon(remedy)
    )]
    Request {
        /// The request, in words.
        request: String,
        /// The namespace of the socket.
        netns: String,
        /// The kernel's answer.
        source: NetlinkError,
        /// What to do about it; may be empty.
        remedy: &'static str,
    },

    /// The device is not in this namespace.
    #[error(
        "RDMA device {device} not found in network namespace {netns}, which has: {}",
        listed(present)
    )]
    NotFound {
        /// The device.
        device: String,
        /// The namespace.
        netns: String,
        /// The devices that are there.
        present: Vec<String>,
    },

    /// The kernel said yes, but the device is not where it should be.
    #[error(
        "RDMA device {device} was moved to network namespace {netns} but is not there; \
         see rdma dev show in both"
    )]
    Lost {
        /// The device.
        device: String,
        /// Where it should be.
        netns: String,
    },

    /// Not the mode that is needed.
    #[error(
        "RDMA is in {found} mode, and {needed} mode is needed; set it with \
         rdma system set netns {needed} while no other network namespace exists, or for good with \
         options ib_core netns_mode={} in /etc/modprobe.d and a reboot",
        needed.number()
    )]
    WrongMode {
        /// The mode that the kernel is in.
        found: super::NetnsMode,
        /// The mode that is needed.
        needed: super::NetnsMode,
    },

    /// sysfs could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Sysfs {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A namespace or a PCI function is at fault.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl RdmaError {
    /// The kernel's error number (`errno(3)`), where it answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Request { source, .. } => source.errno(),
            Self::Socket { source, .. } | Self::Sysfs { source, .. } => source.raw_os_error(),
            Self::Link(error) => error.errno(),
            _ => None,
        }
    }
}

fn after_semicolon(remedy: &str) -> String {
    if remedy.is_empty() {
        String::new()
    } else {
        format!("; {remedy}")
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
