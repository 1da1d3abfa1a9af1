//! Frames that no sound sender makes, put on an interface as they are.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use crate::demo::netns::Namespace;

/// A broken frame.
#[derive(Clone, Copy)]
pub(in crate::demo) enum Frame {
    /// IPv4 whose header is shorter than a header can be.
    Ipv4Header,
    /// IPv6 that ends before its payload does.
    Ipv6Cut,
    /// TCP whose header is shorter than a header can be.
    TcpOffset,
    /// Three VLAN tags; two is what standards have.
    ThreeTags,
}

impl Frame {
    /// Each of them.
    pub(in crate::demo) const ALL: [Self; 4] = [
        Self::Ipv4Header,
        Self::Ipv6Cut,
        Self::TcpOffset,
        Self::ThreeTags,
    ];

    /// The reason under which Sluice drops it.
    pub(in crate::demo) fn reason(self) -> &'static str {
        match self {
            Self::Ipv4Header => "ipv4_malformed",
            Self::Ipv6Cut => "ipv6_truncated",
            Self::TcpOffset => "transport_malformed",
            Self::ThreeTags => "vlan_too_deep",
        }
    }

    /// All that follows the Ethernet addresses.
    fn body(self) -> Vec<u8> {
        const IPV4: [u8; 2] = [0x08, 0x00];
        const IPV6: [u8; 2] = [0x86, 0xdd];
        const TAG: [u8; 4] = [0x81, 0x00, 0x00, 0x05];
        // Version and header length, total length 40, TTL 64, TCP, 192.0.2.1 to 192.0.2.2 (RFC 5737).
        let ipv4 = |first: u8| {
            [
                first, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
            ]
        };
        let mut tcp = [0; 20];
        tcp[12] = 2 << 4;
        match self {
            Self::Ipv4Header => [&IPV4[..], &ipv4(0x43), &tcp].concat(),
            Self::TcpOffset => [&IPV4[..], &ipv4(0x45), &tcp].concat(),
            Self::ThreeTags => [&TAG[..], &TAG, &TAG, &IPV4, &ipv4(0x45), &tcp].concat(),
            Self::Ipv6Cut => {
                let mut header = [0; 40];
                header[0] = 0x60;
                // Says 200 bytes of UDP, has 20 bytes.
                header[5] = 200;
                header[6] = 17;
                [&IPV6[..], &header, &tcp].concat()
            }
        }
    }
}

/// An interface to put frames on.
pub(in crate::demo) struct Wire {
    socket: OwnedFd,
    link: LinkAddr,
    mac: [u8; 6],
}

impl Wire {
    /// Opens an interface.
    ///
    /// # Errors
    /// It is not there, or packet sockets are not allowed.
    pub(in crate::demo) fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.enter(|| {
            let link = getifaddrs()
                .context("cannot list the interfaces")?
                .filter(|found| found.interface_name == interface)
                .find_map(|found| found.address?.as_link_addr().copied())
                .with_context(|| format!("no interface {interface} in {}", namespace.name()))?;
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                None,
            )
            .context("cannot open a packet socket")?;
            let mac = link
                .addr()
                .with_context(|| format!("{interface} has no MAC address"))?;
            Ok(Self { socket, link, mac })
        })
    }

    /// Its MAC address.
    pub(in crate::demo) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends a frame. Whether the dataplane dropped it on its way out: the kernel tells the sender.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub(in crate::demo) fn send(&self, to: [u8; 6], frame: Frame) -> Result<bool> {
        let bytes = [&to[..], &self.mac, &frame.body()].concat();
        let sent = sendto(
            self.socket.as_raw_fd(),
            &bytes,
            &self.link,
            MsgFlags::empty(),
        );
        match sent {
            Ok(_) => Ok(false),
            Err(Errno::ENOBUFS) => Ok(true),
            Err(error) => bail!("cannot send a frame: {error}"),
        }
    }
}
