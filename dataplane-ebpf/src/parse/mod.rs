//! One pass over a packet's headers: Ethernet, VLAN tags, IPv4 or IPv6 with
//! its extension headers, and the transport header.
//!
//! The parser never guesses: a packet either yields [`Headers`] that describe
//! it fully, or the [`DropReason`] that names what is wrong with it. Lengths
//! that the headers claim are held against the frame's, so padding behind an
//! IP packet is never taken for a header.

mod grh;
pub(crate) mod ip;
pub mod neighbor;
mod transport;
mod usual;

pub use transport::UDP_LEN;
pub use usual::usual;

use crate::abi::{Address, DropReason};

/// Plain header data that may be read from any position of a packet.
///
/// # Safety
/// Implement only for integers and `repr(C)` types made of integers without
/// padding: every bit pattern must be valid.
pub unsafe trait Wire: Copy {}

// SAFETY: integers and arrays of integers.
unsafe impl Wire for u16 {}
// SAFETY: as above.
unsafe impl Wire for u32 {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u16; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u32; N] {}

/// A packet that can be read at any offset.
pub trait Packet {
    /// The whole frame's length in bytes.
    fn length(&self) -> u32;
    /// The `T` at `offset`, or `None` where the packet ends before.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
}

impl Packet for [u8] {
    fn length(&self) -> u32 {
        self.len() as u32
    }

    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        let bytes = self.get(offset..end)?;
        // SAFETY: `bytes` has exactly the size of `T`, and every bit pattern
        // is a valid `T` (contract of `Wire`).
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// Ethertypes (IEEE registration authority).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address resolution protocol.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag, the outer one of QinQ.
    pub const QINQ: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// InfiniBand base transport header, the "next header" of a RoCEv1 GRH
    /// (IBTA, 8.3; not an IANA number).
    pub const IB_BTH: u8 = 0x1b;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPsec authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 "no next header".
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp {
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement is significant.
    pub const ACK: u8 = 0x10;
}

/// Bytes of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of one VLAN tag.
const VLAN_LEN: usize = 4;
/// VLAN tags followed in the packet, beside one that the NIC may have moved
/// into the packet's metadata.
const MAX_TAGS: usize = 2;

/// Whether the packet is a piece of a larger IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    #[default]
    No,
    /// The first piece, which has the transport header.
    First,
    /// A later piece, which has none.
    Later,
}

/// What the headers say. Fields of layers that the packet does not have are
/// zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Ethertype behind the VLAN tags, host byte order; below 0x600 it is an
    /// 802.3 length.
    pub ether_type: u16,
    /// Offset of what follows the Ethernet header and the tags.
    pub network: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// IPv4 type of service or IPv6 traffic class.
    pub traffic_class: u8,
    /// IP protocol of the transport header.
    pub protocol: u8,
    /// Whether this is a fragment.
    pub fragment: Fragment,
    /// TCP's flags ([`tcp`]).
    pub tcp_flags: u8,
    /// What a fragment has in common with the other pieces of its packet;
    /// network byte order.
    pub identification: u32,
    /// Offset of the transport header; of the payload in a later fragment.
    pub transport: u16,
    /// Bytes from the transport header to the end of the IP packet.
    pub transport_length: u32,
    /// TCP, UDP or SCTP source port; ICMP type. Host byte order.
    pub source_port: u16,
    /// TCP, UDP or SCTP destination port; ICMP code. Host byte order.
    pub destination_port: u16,
}

impl Headers {
    /// Explicit congestion notification, the low two bits of the traffic class
    /// (RFC 3168).
    #[inline(always)]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 0b11
    }
}

/// "Congestion experienced" (RFC 3168 section 5).
pub const ECN_CE: u8 = 0b11;

/// Parses the headers of an Ethernet frame.
///
/// # Errors
/// The reason for which the packet must not pass.
#[inline(always)]
pub fn parse<P: Packet + ?Sized>(packet: &P) -> Result<Headers, DropReason> {
    let mut headers = Headers::default();
    parse_into(packet, &mut headers).map(|()| headers)
}

/// Like [`parse`], keeping in `headers` what was read before an error, so that
/// a drop can still be reported with the addresses it got to.
///
/// # Errors
/// The reason for which the packet must not pass.
#[inline(always)]
pub fn parse_into<P: Packet + ?Sized>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    // The ethertype's offset; advances by one tag at a time.
    let mut at = 12;
    let mut ether_type: u16 = packet.read(at).ok_or(DropReason::EthernetTruncated)?;
    ether_type = u16::from_be(ether_type);
    for _ in 0..MAX_TAGS {
        if !is_vlan(ether_type) {
            break;
        }
        at += VLAN_LEN;
        let inner: u16 = packet.read(at).ok_or(DropReason::VlanTruncated)?;
        ether_type = u16::from_be(inner);
    }
    if is_vlan(ether_type) {
        return Err(DropReason::VlanTooDeep);
    }
    headers.ether_type = ether_type;
    headers.network = at as u16 + 2;
    match ether_type {
        ether_type::IPV4 => ip::parse_v4(packet, headers)?,
        ether_type::IPV6 => ip::parse_v6(packet, headers)?,
        crate::roce::ETHER_TYPE => {
            grh::parse(packet, headers);
            return Ok(());
        }
        _ => return Ok(()),
    }
    join();
    transport::parse(packet, headers)
}

/// Marks a point where many ways through the parser meet. In the programs the
/// compiler then reads `headers` from memory again, where the kernel's
/// verifier has kept nothing of how it came about: what follows is verified
/// once and not once for each way. Elsewhere it does nothing.
#[inline(always)]
pub fn join() {
    // SAFETY: no instruction.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("", options(nostack, preserves_flags));
    }
}

/// The bits of `number` that `MASK` has: for one that is known to have no others,
/// in a register of which the verifier then knows it. Verifiers up to Linux 6.1
/// forget a comparison when the compiler has stored the number on the stack
/// before and takes it from there after.
#[inline(always)]
pub fn masked<const MASK: usize>(number: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // SAFETY: changes nothing but the register.
        unsafe {
            core::arch::asm!(
                "{0} &= {1}",
                inout(reg) number,
                const MASK,
                options(pure, nomem, nostack),
            );
        }
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        number & MASK
    }
}

#[inline(always)]
const fn is_vlan(ether_type: u16) -> bool {
    matches!(ether_type, ether_type::VLAN | ether_type::QINQ)
}

#[cfg(test)]
mod tests;
