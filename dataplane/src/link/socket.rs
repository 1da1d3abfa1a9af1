//! A netlink request socket, bound to the namespace it was opened in.

use std::{io, os::fd::AsRawFd, path::PathBuf};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    LinkError, Netns, NetnsId,
    decode::{Malformed, Message, decode_error, messages},
};

/// The kernel fills at most this much of a reader's buffer in one go of a dump (`netlink_dump` in
/// `net/netlink/af_netlink.c`).
const RECEIVE_BYTES: usize = 32 * 1024;
/// A lost answer must not stop the agent. The kernel answers within the call itself, so only a bug
/// or a full receive buffer ever gets here.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// How often a dump is started anew when the interfaces change while it runs.
const DUMP_ATTEMPTS: usize = 8;

/// A request socket in one namespace. Calls are synchronous and take microseconds, more when
/// another process holds the kernel's RTNL lock.
///
/// It keeps the namespace alive, and a receive buffer of 32 KiB: open it for a piece of work and
/// drop it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
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
        let failed = |step| LinkError::socket(netns, step);
        let mut socket = netns
            .run(|| Socket::new(NETLINK_ROUTE))?
            .map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Lets the kernel, not us, pick one interface's addresses out of a dump.
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(failed("strict checking"))?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS),
        )
        .map_err(|errno| failed("receive timeout")(errno.into()))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; RECEIVE_BYTES],
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
    ) -> io::Result<Option<T>> {
        Ok(self.exchange(message, NLM_F_ACK, decode)?.items.pop())
    }

    /// Asks for all objects and decodes those that `decode` wants.
    pub(super) fn dump<T>(
        &mut self,
        message: RouteNetlinkMessage,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self.exchange(message.clone(), NLM_F_DUMP, &decode)?;
            if !answer.interrupted {
                return Ok(answer.items);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the interfaces changed each time they were read; try again",
        ))
    }

    pub(super) fn failed(&self, request: &'static str, source: io::Error) -> LinkError {
        LinkError::Request {
            netns: self.netns.clone(),
            request,
            source,
        }
    }

    fn exchange<T>(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> io::Result<Answer<T>> {
        self.send(message, flags)?;
        let mut answer = Answer {
            items: Vec::new(),
            interrupted: false,
        };
        loop {
            let fd = self.socket.as_raw_fd();
            let length = match recv(fd, &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT.into()),
                other => other?,
            };
            let datagram = self.buffer.get(..length).ok_or(Malformed)?;
            for message in messages(datagram) {
                let message = message?;
                // The rest of an earlier exchange that failed half-way.
                if message.sequence != self.sequence {
                    continue;
                }
                answer.interrupted |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match decode_error(message.body)? {
                            0 => Ok(answer),
                            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                        };
                    }
                    _ => answer.items.extend(decode(&message)?),
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request =
            NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        loop {
            match send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }
}

/// What the kernel answered to one request.
struct Answer<T> {
    items: Vec<T>,
    /// The dump is inconsistent: something changed while it ran.
    interrupted: bool,
}
