//! Frames put on an interface as they are.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use crate::netns::TestNetns;

/// An interface to send from, by a packet socket.
#[derive(Debug)]
pub struct Wire {
    pub(crate) socket: OwnedFd,
    pub(crate) link: LinkAddr,
    mac: [u8; 6],
}

impl Wire {
    /// Opens an interface of a namespace.
    ///
    /// # Errors
    /// It is not there, is no Ethernet interface, or this process is not root.
    pub fn open(netns: &TestNetns, interface: &str) -> Result<Self> {
        netns.enter(|| {
            let link = getifaddrs()?
                .filter(|found| found.interface_name == interface)
                .find_map(|found| found.address?.as_link_addr().copied())
                .with_context(|| format!("no interface {interface}"))?;
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            let mac = link
                .addr()
                .with_context(|| format!("{interface} has no MAC address"))?;
            Ok(Self { socket, link, mac })
        })?
    }

    /// The interface's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends a frame. False when a program on the interface dropped it, as the kernel tells the
    /// sender.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn send(&self, frame: &[u8]) -> Result<bool> {
        match sendto(
            self.socket.as_raw_fd(),
            frame,
            &self.link,
            MsgFlags::empty(),
        ) {
            Ok(_) => Ok(true),
            Err(Errno::ENOBUFS) => Ok(false),
            Err(error) => Err(error).context("cannot send a frame"),
        }
    }
}
