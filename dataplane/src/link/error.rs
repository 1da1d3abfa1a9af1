//! What can go wrong with interfaces and namespaces.

use std::{io, path::PathBuf};

use super::Netns;
use crate::netlink::NetlinkError;

/// An error of the link layer. The text names the thing, the cause and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The text does not name a network namespace.
    #[error(
        "{text:?} does not name a network namespace ({reason}); give a path, a name under \
         /run/netns, pid:N or host"
    )]
    InvalidNetnsRef {
        /// The text that was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// Nothing is there any more: the pod has gone, or the process has ended.
    #[error("network namespace {netns} is gone or was never there: {source}")]
    NamespaceGone {
        /// The namespace as it was asked for.
        netns: String,
        /// What opening it answered.
        source: io::Error,
    },

    /// The path can be opened, but it is something else.
    #[error("{} is not a network namespace but {found}; give the path of a mounted one", path.display())]
    NotANamespace {
        /// The path that was opened.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// The namespace is there but could not be opened or entered.
    #[error("cannot {action} network namespace {netns}: {source}; CAP_SYS_ADMIN is needed")]
    Namespace {
        /// What was tried: "open", "enter", ...
        action: &'static str,
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// A closure panicked inside a namespace.
    #[error("the work inside network namespace {netns} panicked: {message}; this is a bug")]
    Panicked {
        /// The namespace.
        netns: String,
        /// The panic's message.
        message: String,
    },

    /// The interface does not exist in this namespace.
    #[error(
        "interface {interface} not found in network namespace {netns}, which has: {}",
        present.join(", ")
    )]
    NotFound {
        /// The interface that was asked for, by name or as `index N`.
        interface: String,
        /// The namespace that was searched.
        netns: String,
        /// The interfaces that are there.
        present: Vec<String>,
    },

    /// A netlink socket could not be set up.
    #[error("cannot set up a netlink socket in network namespace {netns} ({step}): {source}")]
    Socket {
        /// The namespace.
        netns: String,
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The kernel refused a request, or its answer makes no sense.
    #[error("netlink request in network namespace {netns} failed ({request}): {source}")]
    Request {
        /// The namespace.
        netns: String,
        /// The request, in words.
        request: &'static str,
        /// The kernel's answer.
        source: NetlinkError,
    },

    /// What was asked for cannot be.
    #[error("{thing} {value:?} cannot be: {reason}")]
    Invalid {
        /// The kind of thing.
        thing: &'static str,
        /// What was given.
        value: String,
        /// Why not, and what to do.
        reason: String,
    },

    /// The name is taken.
    #[error(
        "interface {interface} already exists in network namespace {netns}; delete it or choose \
         another name"
    )]
    Exists {
        /// The name.
        interface: String,
        /// Where it is.
        netns: String,
    },

    /// The kernel cannot do this at all.
    #[error("this kernel has no {feature}; {remedy}")]
    Unsupported {
        /// What is missing.
        feature: String,
        /// What to do about it.
        remedy: &'static str,
    },

    /// The kernel refused a change, and nothing was changed.
    #[error(
        "cannot {change} (asked in network namespace {netns}): {source}{}",
        after_semicolon(remedy)
    )]
    Change {
        /// The change, in words.
        change: String,
        /// The namespace of the socket.
        netns: String,
        /// The kernel's answer.
        source: NetlinkError,
        /// What to do about it; may be empty.
        remedy: &'static str,
    },

    /// A sysctl could not be set.
    #[error(
        "cannot set sysctl net/{path} to {value:?} in network namespace {netns}: {source}; is \
         /proc/sys writable, and the interface there?"
    )]
    Sysctl {
        /// The path below `/proc/sys/net`.
        path: String,
        /// The value.
        value: String,
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// Frames could not be sent or received.
    #[error("packet socket on interface {ifindex} in network namespace {netns} ({step}): {source}")]
    PacketSocket {
        /// The interface.
        ifindex: u32,
        /// Its namespace.
        netns: String,
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },

    /// An interface's driver did not tell what it counts.
    #[error(
        "cannot read the statistics of interface {interface} in network namespace {netns}: \
         {source}; see ethtool -S {interface} there"
    )]
    Statistics {
        /// The interface.
        interface: String,
        /// Its namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },

    /// No such device.
    #[error("device {device} is not {place}; see lspci -D, or /sys/bus/auxiliary/devices")]
    NoDevice {
        /// The device that was asked for.
        device: String,
        /// Where it should be.
        place: &'static str,
    },

    /// The PF has no such VF.
    #[error("{pf} has no VF {vf}; its driver must tell of VFs over netlink, see ip link show {pf}")]
    NoVf {
        /// The PF.
        pf: String,
        /// The VF's number.
        vf: u32,
    },

    /// A file of sysfs could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Sysfs {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },

    /// The monitor's socket failed for good.
    #[error(
        "cannot receive link events in network namespace {netns}: {source}; reopen the monitor"
    )]
    Receive {
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn after_semicolon(remedy: &str) -> String {
    if remedy.is_empty() {
        String::new()
    } else {
        format!("; {remedy}")
    }
}

impl LinkError {
    /// The kernel's error number (`errno(3)`), where it answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Request { source, .. } | Self::Change { source, .. } => source.errno(),
            Self::NamespaceGone { source, .. }
            | Self::Namespace { source, .. }
            | Self::Socket { source, .. }
            | Self::Sysctl { source, .. }
            | Self::Sysfs { source, .. }
            | Self::PacketSocket { source, .. }
            | Self::Statistics { source, .. }
            | Self::Receive { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Turns a refusal with this error number into [`LinkError::Exists`].
    pub(super) fn exists(self, errno: i32, interface: &str, netns: &str) -> Self {
        if self.errno() != Some(errno) {
            return self;
        }
        Self::Exists {
            interface: interface.to_owned(),
            netns: netns.to_owned(),
        }
    }

    /// Turns the error of one step of a socket's set-up into a [`LinkError::Socket`].
    pub(super) fn socket(netns: &Netns, step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Socket {
            netns: netns.to_string(),
            step,
            source,
        }
    }
}
