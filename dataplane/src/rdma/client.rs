//! The socket.

use std::io;

use netlink_sys::protocols::NETLINK_RDMA;

use super::{RdmaError, counter::Names};
use crate::{
    link::Netns,
    netlink::{
        NetlinkError, Request, Socket, Transport,
        decode::{Malformed, Message},
    },
};

/// A request socket in one namespace. Calls are synchronous.
///
/// In shared mode every namespace sees every device; in exclusive mode each sees its own. Requests
/// that change something need CAP_NET_ADMIN in the node's user namespace.
#[derive(Debug)]
pub struct Rdma {
    pub(super) socket: Socket,
    home: Netns,
    /// The namespace, for error messages.
    pub(super) netns: String,
    /// Names of ports' counters, and of those in counter sets.
    pub(super) port_names: Names,
    pub(super) set_names: Names,
}

impl Rdma {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// [`RdmaError::Unsupported`] when the kernel has no RDMA or its module is not loaded,
    /// [`RdmaError::Socket`], [`RdmaError::Link`].
    pub fn open(netns: &Netns) -> Result<Self, RdmaError> {
        let opened = netns.run(|| Socket::open(NETLINK_RDMA))?;
        match opened {
            Ok(socket) => Ok(Self {
                socket,
                home: netns.try_clone()?,
                netns: netns.to_string(),
                port_names: Names::default(),
                set_names: Names::default(),
            }),
            Err((_, source)) if missing(&source) => Err(RdmaError::Unsupported),
            Err((step, source)) => Err(RdmaError::Socket {
                netns: netns.to_string(),
                step,
                source,
            }),
        }
    }

    /// Speaks to a simulated kernel, which has the devices that the machine has not.
    pub fn simulated(transport: impl Transport + 'static, home: Netns) -> Self {
        Self {
            socket: Socket::over(transport),
            netns: home.to_string(),
            home,
            port_names: Names::default(),
            set_names: Names::default(),
        }
    }

    /// Asks for one object.
    pub(super) fn get<T>(
        &mut self,
        what: impl FnOnce() -> String,
        request: Request,
        decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, RdmaError> {
        let answer = self
            .socket
            .get(request.clone(), answers_to(&request, decode))
            .and_then(|answer| {
                answer.ok_or_else(|| {
                    io::Error::other("the kernel acknowledged but described nothing").into()
                })
            });
        answer.map_err(|source| self.failed(what(), source, ""))
    }

    /// Asks for all objects. A message may hold several.
    pub(super) fn dump<T>(
        &mut self,
        what: impl FnOnce() -> String,
        request: Request,
        decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, RdmaError> {
        self.socket
            .dump(request.clone(), answers_to(&request, decode))
            .map_err(|source| self.failed(what(), source, ""))
    }

    /// Changes something.
    ///
    /// From inside of the namespace: the kernel takes the namespace that a device is to leave for
    /// the caller's, not for the socket's (`ib_device_set_netns_put` in
    /// `drivers/infiniband/core/device.c`).
    pub(super) fn change(
        &mut self,
        what: impl FnOnce() -> String,
        request: Request,
        remedy: impl FnOnce(i32) -> &'static str,
    ) -> Result<(), RdmaError> {
        let changed = self.home.run(|| self.socket.change(request, 0))?;
        changed.map_err(|source| {
            let remedy = source.errno().map_or("", remedy);
            self.failed(what(), source, remedy)
        })
    }

    pub(super) fn failed(
        &self,
        request: String,
        source: NetlinkError,
        remedy: &'static str,
    ) -> RdmaError {
        RdmaError::Request {
            request,
            netns: self.netns.clone(),
            source,
            remedy,
        }
    }
}

/// Decodes the messages of a request's own type; a socket hears nothing else.
fn answers_to<T>(
    request: &Request,
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
) -> impl Fn(&Message<'_>) -> Result<Option<T>, Malformed> {
    let expected = request.kind();
    move |message| {
        if message.kind != expected {
            return Err(Malformed);
        }
        decode(message.body).map(Some)
    }
}

fn missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT)
    )
}
