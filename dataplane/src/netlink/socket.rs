//! A request socket of one netlink protocol, bound to the namespace it was opened in.

use std::{fmt, io, os::fd::AsRawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    NetlinkError,
    decode::{Malformed, Message, decode_error, decode_explanation, messages},
};

/// The largest answer: a PF whose VFs fill an attribute, whose length has 16 bits, and the rest of
/// its description. A dump takes 32 KiB at most in one go (`netlink_dump` in
/// `net/netlink/af_netlink.c`).
const RECEIVE_BYTES: usize = 72 * 1024;
/// A lost answer must not stop the agent. The kernel answers within the call itself, so only a bug
/// or a full receive buffer ever gets here.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;
/// How often a dump is started anew when what it reads changes while it runs.
const DUMP_ATTEMPTS: usize = 8;

/// The step of a socket's set-up that failed, and the kernel's answer.
pub(crate) type SetupError = (&'static str, io::Error);

/// What carries requests and their answers: the kernel's socket, or a simulated kernel in its place
/// where a test needs a device that the machine does not have.
pub trait Transport: fmt::Debug + Send {
    /// Sends one request, header included.
    ///
    /// # Errors
    /// As of `send(2)`.
    fn send(&mut self, request: &[u8]) -> io::Result<()>;

    /// Receives a datagram of the answer into `buffer`; its length, which may be larger than the
    /// buffer's.
    ///
    /// # Errors
    /// As of `recv(2)`.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Transport for netlink_sys::Socket {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        loop {
            match send(self.as_raw_fd(), request, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT.into()),
                other => return other.map_err(io::Error::from),
            }
        }
    }
}

/// A request socket. Calls are synchronous.
#[derive(Debug)]
pub(crate) struct Socket {
    transport: Box<dyn Transport>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket of a protocol (`NETLINK_*`) in the calling thread's namespace.
    pub(crate) fn open(protocol: isize) -> Result<Self, SetupError> {
        Ok(Self::over(set_up(protocol)?))
    }

    /// As [`Socket::open`], and has the kernel hold requests to the letter, and filter dumps
    /// (`NETLINK_GET_STRICT_CHK`).
    pub(crate) fn open_strict(protocol: isize) -> Result<Self, SetupError> {
        let socket = set_up(protocol)?;
        socket
            .set_netlink_get_strict_chk(true)
            .map_err(|source| ("strict checking", source))?;
        Ok(Self::over(socket))
    }

    /// Speaks over anything that carries datagrams.
    pub(crate) fn over(transport: impl Transport + 'static) -> Self {
        Self {
            transport: Box::new(transport),
            sequence: 0,
            buffer: vec![0; RECEIVE_BYTES],
        }
    }

    /// Changes something: sends a request with these flags (`NLM_F_*`) and waits for its
    /// acknowledgement.
    pub(crate) fn change<M: NetlinkSerializable>(
        &mut self,
        message: M,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_ACK | flags, |_| Ok(None::<()>))
            .map(drop)
    }

    /// Asks for one object and decodes the answer; `None` when the kernel only acknowledged.
    pub(crate) fn get<M: NetlinkSerializable, T>(
        &mut self,
        message: M,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Option<T>, NetlinkError> {
        Ok(self.exchange(message, NLM_F_ACK, decode)?.items.pop())
    }

    /// Asks for all objects and decodes those that `decode` wants.
    pub(crate) fn dump<M: NetlinkSerializable + Clone, T>(
        &mut self,
        message: M,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let answer = self.exchange(message.clone(), NLM_F_DUMP, &decode)?;
            if !answer.interrupted {
                return Ok(answer.items);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "it changed each time it was read; try again",
        )
        .into())
    }

    fn exchange<M: NetlinkSerializable, T>(
        &mut self,
        message: M,
        flags: u16,
        decode: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>,
    ) -> Result<Answer<T>, NetlinkError> {
        self.send(message, flags)?;
        let mut answer = Answer {
            items: Vec::new(),
            interrupted: false,
        };
        loop {
            let length = self.transport.receive(&mut self.buffer)?;
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
                            code => Err(NetlinkError::refused(
                                code.saturating_neg(),
                                explanation(&message),
                            )),
                        };
                    }
                    _ => answer.items.extend(decode(&message)?),
                }
            }
        }
    }

    fn send<M: NetlinkSerializable>(&mut self, message: M, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request =
            NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.transport.send(&bytes)
    }
}

fn set_up(protocol: isize) -> Result<netlink_sys::Socket, SetupError> {
    let at = |step| move |source| (step, source);
    let mut socket = netlink_sys::Socket::new(protocol).map_err(at("open"))?;
    socket.bind_auto().map_err(at("bind"))?;
    socket
        .set_ext_ack(true)
        .map_err(at("explanations of errors"))?;
    socket
        .set_cap_ack(true)
        .map_err(at("errors without the request"))?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS),
    )
    .map_err(|errno| ("receive timeout", errno.into()))?;
    Ok(socket)
}

fn explanation(message: &Message<'_>) -> Option<String> {
    let flags = i32::from(message.flags);
    (i32::from(message.kind) == libc::NLMSG_ERROR && flags & libc::NLM_F_ACK_TLVS != 0)
        .then(|| decode_explanation(message.body))
        .flatten()
}

/// What the kernel answered to one request.
struct Answer<T> {
    items: Vec<T>,
    /// The dump is inconsistent: something changed while it ran.
    interrupted: bool,
}
