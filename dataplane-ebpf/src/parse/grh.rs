//! The global route header, RoCEv1's network header (IBTA, 8.3).

use super::{Headers, Packet, Wire, protocol};
use crate::{abi::Address, roce::GRH_LEN};

/// As on the wire (network byte order).
#[repr(C)]
#[derive(Clone, Copy)]
struct Grh {
    /// Version 4 bits (6), traffic class 8, flow label 20.
    first_word: u32,
    /// Bytes from the end of this header to the end of the ICRC.
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}
// SAFETY: repr(C) integers without padding.
unsafe impl Wire for Grh {}
const _: () = assert!(size_of::<Grh>() == GRH_LEN);

/// Fills in the addresses and the place of the BTH. A broken header leaves
/// `protocol` at zero: such a frame is nobody's to drop, only not RoCE.
#[inline(always)]
pub(super) fn parse<P: Packet + ?Sized>(packet: &P, headers: &mut Headers) {
    let Some(grh) = packet.read::<Grh>(headers.network.into()) else {
        return;
    };
    headers.source = Address { words: grh.source };
    headers.destination = Address {
        words: grh.destination,
    };
    let transport = headers.network + GRH_LEN as u16;
    let length = u32::from(u16::from_be(grh.payload_length));
    let fits = length <= packet.length() - u32::from(transport);
    if u32::from_be(grh.first_word) >> 28 == 6 && grh.next_header == protocol::IB_BTH && fits {
        headers.protocol = protocol::IB_BTH;
        headers.transport = transport;
        headers.transport_length = length;
    }
}
