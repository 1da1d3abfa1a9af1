//! A packet socket on one interface, bound to the interface's namespace.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{LinkAddr, MsgFlags, recvfrom, send},
};

use crate::link::{LinkError, Netns};

/// Longer than any frame that is looked at here.
const FRAME_BYTES: usize = 1514;

/// Sends and receives whole Ethernet frames of one type.
#[derive(Debug)]
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket for frames of a type (`ETH_P_*`) on an interface of a namespace. It also
    /// receives frames for these groups.
    pub(super) fn open(
        netns: &Netns,
        ifindex: u32,
        ethertype: i32,
        groups: &[[u8; 6]],
    ) -> Result<Self, LinkError> {
        netns
            .run(|| Self::open_here(ifindex, ethertype, groups))?
            .map_err(|(step, source)| LinkError::PacketSocket {
                ifindex,
                netns: netns.to_string(),
                step,
                source,
            })
    }

    fn open_here(
        ifindex: u32,
        ethertype: i32,
        groups: &[[u8; 6]],
    ) -> Result<Self, (&'static str, io::Error)> {
        let ifindex = ifindex.cast_signed();
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: nothing is received before the socket is bound to its interface.
        // SAFETY: no pointers.
        let fd = Errno::result(unsafe { libc::socket(libc::AF_PACKET, flags, 0) })
            .map_err(|errno| ("open, which needs CAP_NET_RAW", errno.into()))?;
        // SAFETY: the descriptor was just opened and is nobody else's.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self { fd: owned };
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (ethertype as u16).to_be();
        address.sll_ifindex = ifindex;
        // SAFETY: the address lives through the call, and its length is that of its type.
        let bound = unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        Errno::result(bound).map_err(|errno| ("bind", errno.into()))?;
        for group in groups {
            // SAFETY: all zeros is a valid packet_mreq.
            let mut request: libc::packet_mreq = unsafe { std::mem::zeroed() };
            request.mr_ifindex = ifindex;
            request.mr_type = libc::PACKET_MR_MULTICAST as u16;
            request.mr_alen = group.len() as u16;
            request.mr_address[..group.len()].copy_from_slice(group);
            // SAFETY: the request lives through the call, and its length is that of its type.
            let joined = unsafe {
                libc::setsockopt(
                    fd,
                    libc::SOL_PACKET,
                    libc::PACKET_ADD_MEMBERSHIP,
                    (&raw const request).cast(),
                    size_of::<libc::packet_mreq>() as libc::socklen_t,
                )
            };
            Errno::result(joined).map_err(|errno| ("join a group", errno.into()))?;
        }
        Ok(socket)
    }

    /// Sends a frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Hands each frame that has arrived to `take`, and returns when there are no more.
    pub(super) fn receive(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = [0; FRAME_BYTES];
        loop {
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                // Not for us: the interface is promiscuous, or the frame has a VLAN tag that the
                // kernel took off.
                Ok((_, Some(sender))) if sender.pkttype() == libc::PACKET_OTHERHOST => {}
                Ok((length, _)) => take(buffer.get(..length).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
