//! What is told of single packets.

use super::{Address, coded_enum};

coded_enum! {
    /// What an [`Event`] tells.
    pub enum EventKind {
        /// A packet was dropped; `code` is a [`DropReason`](super::DropReason).
        Drop = 1 => "drop",
        /// A RoCE packet told of trouble; `code` is a [`crate::roce::Kind`].
        Roce = 2 => "roce",
        /// A packet would have been dropped but for audit mode; `code` is a
        /// [`DropReason`](super::DropReason).
        WouldDrop = 3 => "would_drop",
    }
}

/// One record of the `events` ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When, ns of the monotonic clock (coarse).
    pub time_ns: u64,
    /// Source address; zero where the packet has none or it was not reached.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Endpoint id, or an uplink's port id.
    pub port: u32,
    /// Frame length in bytes.
    pub length: u32,
    /// RoCE: destination queue pair, 24 bits.
    pub destination_qp: u32,
    /// RoCE: packet sequence number, 24 bits.
    pub psn: u32,
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// Ethertype behind the VLAN tags, host byte order.
    pub ether_type: u16,
    /// IP protocol (IANA).
    pub protocol: u8,
    /// [`EventKind`].
    pub kind: u8,
    /// What `kind` says it is.
    pub code: u8,
    /// [`Direction`](super::Direction).
    pub direction: u8,
    /// Always zero.
    pub pad: [u8; 6],
}
