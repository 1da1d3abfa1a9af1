//! Namespace ids: the number by which one namespace knows another.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};

use super::{LinkError, Netlink, Netns, decode::decode_nsid};

/// Lets the kernel choose the id (`NETNSA_NSID_NOT_ASSIGNED`, uapi `linux/net_namespace.h`).
const CHOOSE: i32 = -1;

impl Netlink {
    /// The id by which this socket's namespace knows `other`, if it has one.
    ///
    /// # Errors
    /// [`LinkError::Request`].
    pub fn nsid(&mut self, other: &Netns) -> Result<Option<i32>, LinkError> {
        let message = RouteNetlinkMessage::GetNsId(nsid_message(other, None));
        self.get(message, |message| decode_nsid(message.body))
            .map_err(|source| self.failed("read a namespace id", source))
    }

    /// The [`LinkEvent::nsid`](super::LinkEvent::nsid) of the events from `other`: the id by which
    /// this socket's namespace knows it, assigned now if it has none yet. `None` when `other` is
    /// this socket's own namespace, which needs none.
    ///
    /// The id lives as long as `other`; the kernel may then give it to another namespace.
    ///
    /// # Errors
    /// [`LinkError::Request`]; assigning needs CAP_NET_ADMIN.
    pub fn ensure_nsid(&mut self, other: &Netns) -> Result<Option<i32>, LinkError> {
        if other.id() == self.netns_id {
            return Ok(None);
        }
        if let Some(id) = self.nsid(other)? {
            return Ok(Some(id));
        }
        let message = RouteNetlinkMessage::NewNsId(nsid_message(other, Some(CHOOSE)));
        match self.get(message, |_| Ok(None::<()>)) {
            // EEXIST: someone else was faster.
            Err(error) if !error.is(libc::EEXIST) => {
                return Err(self.failed("assign a namespace id", error));
            }
            _ => {}
        }
        match self.nsid(other)? {
            Some(id) => Ok(Some(id)),
            None => Err(self.failed(
                "read a namespace id",
                io::Error::other("there is none, just after one was assigned"),
            )),
        }
    }
}

fn nsid_message(other: &Netns, id: Option<i32>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message
        .attributes
        .push(NsidAttribute::Fd(other.as_fd().as_raw_fd().cast_unsigned()));
    message.attributes.extend(id.map(NsidAttribute::Id));
    message
}
