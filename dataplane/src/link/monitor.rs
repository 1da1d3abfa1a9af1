//! Link and address changes of many namespaces, heard on one socket.

use std::{
    io::{self, IoSliceMut},
    os::fd::AsRawFd,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{LinkError, LinkEvent, Netns, events::Decoder};

/// Room for one datagram. The kernel sends one message in each, and a link's is 1 to 2 KiB.
const RECEIVE_BYTES: usize = 32 * 1024;
/// What the kernel may queue while the agent is busy (it doubles the number): about a thousand
/// events.
const QUEUE_BYTES: usize = 1024 * 1024;
/// No more datagrams than this are ever queued: each is charged with more than 512 bytes, for the
/// `sk_buff` alone.
const QUEUE_LENGTH: usize = 2 * QUEUE_BYTES / 512;

/// Hears the changes of its own namespace and of all that have an id in it
/// ([`Netlink::ensure_nsid`](super::Netlink::ensure_nsid)).
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    control: Vec<u8>,
    decoder: Decoder,
    home: String,
}

impl Monitor {
    /// Opens the socket in `home`, the agent's own namespace. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Namespace`], [`LinkError::Socket`].
    pub fn open(home: &Netns) -> Result<Self, LinkError> {
        let failed = |step| LinkError::socket(home, step);
        tokio::runtime::Handle::try_current()
            .map_err(|error| failed("no tokio runtime")(io::Error::other(error)))?;
        let mut socket = home
            .run(|| Socket::new(NETLINK_ROUTE))?
            .map_err(failed("open"))?;
        socket
            .set_non_blocking(true)
            .map_err(failed("non-blocking"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES)
            .map_err(|errno| failed("receive buffer, which needs CAP_NET_ADMIN")(errno.into()))?;
        socket
            .set_listen_all_namespaces(true)
            .map_err(failed("listen to all namespaces"))?;
        socket
            .bind(&SocketAddr::new(0, 0))
            .map_err(failed("bind"))?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_TC,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_NSID,
        ] {
            socket
                .add_membership(group)
                .map_err(failed("join a group"))?;
        }
        // SAFETY: the socket owns its file descriptor, always answers the same one, and lives in
        // the `AsyncFd`, which is the only one that can close it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(|error| failed("register with tokio")(error.into_parts().1))?;
        Ok(Self {
            socket,
            buffer: vec![0; RECEIVE_BYTES],
            control: nix::cmsg_space!(i32),
            decoder: Decoder::default(),
            home: home.to_string(),
        })
    }

    /// Waits for the next change. Dropping the future loses none.
    ///
    /// # Errors
    /// [`LinkError::Receive`] when the socket is of no more use.
    pub async fn next(&mut self) -> Result<LinkEvent, LinkError> {
        loop {
            if let Some(event) = self.decoder.events.pop_front() {
                return Ok(event);
            }
            let failed = |source| LinkError::Receive {
                netns: self.home.clone(),
                source,
            };
            let mut ready = self.socket.readable().await.map_err(failed)?;
            let (decoder, buffer, control) =
                (&mut self.decoder, &mut self.buffer, &mut self.control);
            let received =
                ready.try_io(|socket| receive(socket.get_ref(), buffer, control, decoder));
            match received {
                Ok(result) => result.map_err(failed)?,
                Err(_would_block) => self.decoder.queue_empty(),
            }
        }
    }

    /// Messages that made no sense and were passed over, since the start.
    pub fn malformed(&self) -> u64 {
        self.decoder.malformed
    }

    /// How often events were lost, since the start.
    pub fn overruns(&self) -> u64 {
        self.decoder.overruns
    }
}

/// Receives one datagram and hands it to the decoder.
fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut [u8],
    decoder: &mut Decoder,
) -> io::Result<()> {
    let mut slices = [IoSliceMut::new(buffer)];
    let received = match recvmsg::<NetlinkAddr>(
        socket.as_raw_fd(),
        &mut slices,
        Some(control),
        MsgFlags::MSG_DONTWAIT,
    ) {
        Ok(received) => received,
        Err(Errno::ENOBUFS) => {
            decoder.queue_overflowed(QUEUE_LENGTH);
            return Ok(());
        }
        Err(Errno::EINTR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    // Only the kernel (port 0) is believed.
    if received.address.is_some_and(|sender| sender.pid() != 0) {
        decoder.malformed += 1;
        return Ok(());
    }
    if received
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
    {
        decoder.malformed += 1;
        decoder.overrun();
        return Ok(());
    }
    // The own namespace's messages carry no id, not even when it has given itself one.
    let mut nsid = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::Unknown(message) = message
            && message.cmsg_header.cmsg_level == libc::SOL_NETLINK
            && message.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID
        {
            nsid = message
                .data_bytes
                .first_chunk()
                .copied()
                .map(i32::from_ne_bytes);
        }
    }
    let length = received.bytes;
    if let Some(datagram) = buffer.get(..length) {
        decoder.decode(datagram, nsid);
    }
    Ok(())
}
