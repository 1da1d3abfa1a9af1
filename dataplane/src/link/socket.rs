//! An rtnetlink request socket, bound to the namespace it was opened in.

use std::path::PathBuf;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{LinkError, Netns, NetnsId};
use crate::netlink::{
    NetlinkError, Socket,
    decode::{Malformed, Message},
};

/// A request socket in one namespace. Calls are synchronous and take microseconds, more when
/// another process holds the kernel's RTNL lock.
///
/// It keeps the namespace alive, and a receive buffer of 72 KiB: open it for a piece of work and
/// drop it.
#[derive(Debug)]
pub struct Netlink {
    pub(super) socket: Socket,
    /// The namespace, for error messages.
    pub(super) netns: String,
    pub(super) netns_id: NetnsId,
    pub(super) sysfs: PathBuf,
}

impl Netlink {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// [`LinkError::Namespace`] when the namespace cannot be entered, [`LinkError::Socket`].
    pub fn open(netns: &Netns) -> Result<Self, LinkError> {
        let socket = netns
            // Strict: the kernel, not we, picks one interface's addresses out of a dump.
            .run(|| Socket::open_strict(NETLINK_ROUTE))?
            .map_err(|(step, source)| LinkError::socket(netns, step)(source))?;
        Ok(Self {
            socket,
            netns: netns.to_string(),
            netns_id: netns.id(),
            sysfs: PathBuf::from("/sys"),
        })
    }

    /// Asks for one object and decodes the answer; `None` when the kernel only acknowledged.
    pub(super) fn get<T>(
        &mut self,
        message: RouteNetlinkMessage,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Option<T>, NetlinkError> {
        self.socket.get(message, decode)
    }

    /// Asks for all objects and decodes those that `decode` wants.
    pub(super) fn dump<T>(
        &mut self,
        message: RouteNetlinkMessage,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        self.socket.dump(message, decode)
    }

    pub(super) fn failed(
        &self,
        request: &'static str,
        source: impl Into<NetlinkError>,
    ) -> LinkError {
        LinkError::Request {
            netns: self.netns.clone(),
            request,
            source: source.into(),
        }
    }
}
