//! RoCE: the base transport header (BTH), the extended headers that counting
//! needs, and the following of packet sequence numbers (PSN).
//!
//! Sources: InfiniBand Architecture Specification volume 1 (IBTA), chapter 9
//! (opcodes: table 38; AETH syndromes: table 45) and annexes A16 (RoCE) and
//! A17 (RoCEv2, congestion notification packets); CM messages: chapter 12.

pub mod timing;

use crate::{
    abi::{RoceFlow, coded_enum},
    parse::{Fragment, Headers, Packet, UDP_LEN, Wire, masked, protocol},
};

/// UDP destination port of RoCEv2 (IANA, annex A17).
pub const UDP_PORT: u16 = 4791;
/// Ethertype of RoCEv1 (annex A16).
pub const ETHER_TYPE: u16 = 0x8915;
/// Bytes of a global route header, which RoCEv1 has in the place of IP.
pub const GRH_LEN: usize = 40;
/// Bytes of a base transport header.
pub const BTH_LEN: usize = 12;
/// Bytes of the invariant CRC that ends every packet.
pub const ICRC_LEN: u32 = 4;
/// PSNs are numbers modulo 2^24.
const PSN_MASK: u32 = 0x00ff_ffff;
/// Queue pair of the general services interface, which carries connection
/// management.
const GSI_QP: u32 = 1;

/// Bytes of a management datagram (section 13.4.2).
const MAD_LEN: u32 = 256;

/// A request whose PSN is further than this from the expected one is taken for
/// a new connection that reuses the queue pair's number, not for loss.
const PSN_WINDOW: u32 = 1 << 16;
/// A flow silent for longer starts anew, since its queue pair's number may
/// have been given to another connection meanwhile.
const IDLE_NS: u64 = 10_000_000_000;
/// The smallest path MTU there is, in bytes; a READ that fits in it takes
/// exactly one PSN whatever the path MTU.
const MIN_PATH_MTU: u32 = 256;

coded_enum! {
    /// Transport service, the opcode's upper three bits.
    pub enum Transport {
        /// Reliable connection.
        Rc = 0 => "rc",
        /// Unreliable connection.
        Uc = 1 => "uc",
        /// Reliable datagram.
        Rd = 2 => "rd",
        /// Unreliable datagram.
        Ud = 3 => "ud",
        /// Congestion notification.
        Cnp = 4 => "cnp",
        /// Extended reliable connection.
        Xrc = 5 => "xrc",
        /// Left to manufacturers.
        Manufacturer = 6 => "manufacturer",
        /// The packet did not get as far as an opcode.
        Unknown = 7 => "unknown",
    }
}

coded_enum! {
    /// What `roce_stats` counts. Numbers below 32 are operations: each packet
    /// counts under exactly one. The others are marks that a packet may carry
    /// besides.
    pub enum Kind {
        /// SEND, with or without immediate data or invalidation.
        Send = 0 => "send",
        /// RDMA WRITE, with or without immediate data.
        Write = 1 => "write",
        /// RDMA READ request.
        ReadRequest = 2 => "read_request",
        /// RDMA READ response.
        ReadResponse = 3 => "read_response",
        /// Compare-and-swap or fetch-and-add.
        Atomic = 4 => "atomic",
        /// Answer to an atomic operation.
        AtomicAck = 5 => "atomic_ack",
        /// Acknowledgement, positive or negative.
        Ack = 6 => "ack",
        /// Congestion notification packet.
        Cnp = 7 => "cnp",
        /// FLUSH (memory placement extensions).
        Flush = 8 => "flush",
        /// ATOMIC WRITE (memory placement extensions).
        AtomicWrite = 9 => "atomic_write",
        /// An opcode that is reserved or a manufacturer's own.
        Other = 10 => "other",
        /// On RoCE's port or ethertype, but not a packet that can be RoCE.
        Malformed = 11 => "malformed",

        /// Mark: congestion experienced, set by a switch (RFC 3168).
        CeMarked = 32 => "ce_marked",
        /// Mark: receiver not ready.
        RnrNak = 33 => "rnr_nak",
        /// Mark: NAK, PSN sequence error.
        NakSequence = 34 => "nak_sequence",
        /// Mark: NAK, invalid request.
        NakInvalidRequest = 35 => "nak_invalid_request",
        /// Mark: NAK, remote access error.
        NakRemoteAccess = 36 => "nak_remote_access",
        /// Mark: NAK, remote operational error.
        NakRemoteOperational = 37 => "nak_remote_operational",
        /// Mark: NAK, invalid reliable-datagram request.
        NakInvalidRd = 38 => "nak_invalid_rd",
        /// Mark: a syndrome that is reserved.
        NakReserved = 39 => "nak_reserved",
        /// Mark: a request behind the expected PSN, so a retransmission.
        Duplicate = 40 => "duplicate",
        /// Mark: a request ahead of the expected PSN.
        Gap = 41 => "gap",
        /// PSNs that gaps skipped; counted in `packets`, bytes stay zero.
        Missing = 42 => "missing",
    }
}

impl Kind {
    /// Whether it is an operation (a packet has exactly one), not a mark.
    pub const fn is_operation(self) -> bool {
        (self as u8) < 32
    }

    /// The mark of an AETH syndrome; `None` for a plain acknowledgement.
    #[inline(always)]
    pub const fn of_syndrome(syndrome: u8) -> Option<Self> {
        match syndrome >> 5 {
            0b000 => None,
            0b001 => Some(Self::RnrNak),
            0b011 => Some(match syndrome & 0x1f {
                0 => Self::NakSequence,
                1 => Self::NakInvalidRequest,
                2 => Self::NakRemoteAccess,
                3 => Self::NakRemoteOperational,
                4 => Self::NakInvalidRd,
                _ => Self::NakReserved,
            }),
            _ => Some(Self::NakReserved),
        }
    }
}

/// What an opcode implies.
#[derive(Clone, Copy)]
struct Opcode {
    transport: Transport,
    kind: Kind,
    /// Bytes of extended headers between BTH and payload.
    headers: u8,
    /// Bytes between BTH and AETH or RETH.
    skip: u8,
    flags: u8,
}

impl Opcode {
    /// Numbered in the PSN space of its destination queue pair.
    const SEQUENCED: u8 = 1;
    /// Carries exactly one path MTU of payload (first and middle packets).
    const FULL: u8 = 2;
    /// Has an AETH.
    const AETH: u8 = 4;
    /// Is an RDMA READ request, whose RETH tells how many PSNs it takes.
    const READ: u8 = 8;

    /// Reads table 38 of the specification.
    const fn new(opcode: u8) -> Self {
        // Lengths of the extended headers, table 35 ff.
        const RDETH: u8 = 4;
        const DETH: u8 = 8;
        const XRCETH: u8 = 4;
        const RETH: u8 = 16;
        const AETH_LEN: u8 = 4;
        const IMMDT: u8 = 4;
        const IETH: u8 = 4;
        const ATOMIC: u8 = 28;
        const ATOMIC_ACK: u8 = 8;
        const FETH: u8 = 4;
        // Zeros behind the BTH of a congestion notification (annex A17).
        const CNP_RESERVED: u8 = 16;

        let transport = match opcode >> 5 {
            0 => Transport::Rc,
            1 => Transport::Uc,
            2 => Transport::Rd,
            3 => Transport::Ud,
            4 => Transport::Cnp,
            5 => Transport::Xrc,
            _ => Transport::Manufacturer,
        };
        let operation = opcode & 0x1f;
        let other = Self {
            transport,
            kind: Kind::Other,
            headers: 0,
            skip: 0,
            flags: 0,
        };
        // Which operations each transport has.
        let known = match transport {
            Transport::Rc => matches!(operation, 0x00..=0x14 | 0x16 | 0x17 | 0x1c | 0x1d),
            Transport::Xrc => matches!(operation, 0x00..=0x14 | 0x16 | 0x17),
            Transport::Rd => matches!(operation, 0x00..=0x14),
            Transport::Uc => matches!(operation, 0x00..=0x0b),
            Transport::Ud => matches!(operation, 0x04 | 0x05),
            Transport::Cnp => operation == 1,
            Transport::Manufacturer | Transport::Unknown => false,
        };
        if !known {
            return other;
        }
        if let Transport::Cnp = transport {
            return Self {
                kind: Kind::Cnp,
                headers: CNP_RESERVED,
                ..other
            };
        }
        let (kind, own, mut flags) = match operation {
            0x00 | 0x01 => (Kind::Send, 0, Self::FULL),
            0x02 | 0x04 => (Kind::Send, 0, 0),
            0x03 | 0x05 => (Kind::Send, IMMDT, 0),
            0x16 | 0x17 => (Kind::Send, IETH, 0),
            0x06 => (Kind::Write, RETH, Self::FULL),
            0x07 => (Kind::Write, 0, Self::FULL),
            0x08 => (Kind::Write, 0, 0),
            0x09 => (Kind::Write, IMMDT, 0),
            0x0a => (Kind::Write, RETH, 0),
            0x0b => (Kind::Write, RETH + IMMDT, 0),
            0x0c => (Kind::ReadRequest, RETH, Self::READ),
            0x0d => (Kind::ReadResponse, AETH_LEN, Self::AETH | Self::FULL),
            0x0e => (Kind::ReadResponse, 0, Self::FULL),
            0x0f | 0x10 => (Kind::ReadResponse, AETH_LEN, Self::AETH),
            0x11 => (Kind::Ack, AETH_LEN, Self::AETH),
            0x12 => (Kind::AtomicAck, AETH_LEN + ATOMIC_ACK, Self::AETH),
            0x13 | 0x14 => (Kind::Atomic, ATOMIC, 0),
            0x1c => (Kind::Flush, FETH + RETH, 0),
            _ => (Kind::AtomicWrite, RETH, 0),
        };
        let response = matches!(kind, Kind::ReadResponse | Kind::Ack | Kind::AtomicAck);
        let skip = match transport {
            Transport::Rd if response => RDETH,
            Transport::Rd => RDETH + DETH,
            Transport::Xrc if !response => XRCETH,
            Transport::Ud => DETH,
            _ => 0,
        };
        // UD is unsequenced; RD numbers by end-to-end context, not by queue
        // pair; responses use the requester's space in the other direction.
        if matches!(transport, Transport::Rc | Transport::Uc | Transport::Xrc) && !response {
            flags |= Self::SEQUENCED;
        }
        Self {
            transport,
            kind,
            headers: skip + own,
            skip,
            flags,
        }
    }

    const fn table() -> [Self; 256] {
        let mut table = [Self::new(0); 256];
        let mut opcode = 1;
        while opcode < 256 {
            table[opcode] = Self::new(opcode as u8);
            opcode += 1;
        }
        table
    }
}

static OPCODES: [Opcode; 256] = Opcode::table();

/// The base transport header's three words, as on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bth {
    /// Opcode; solicited event, migration, pad count, version.
    opcode: u8,
    flags: u8,
    /// Partition key, network byte order.
    partition: u16,
    /// FECN, BECN, six reserved bits, destination queue pair; network order.
    destination: u32,
    /// Acknowledge request, seven reserved bits, PSN; network order.
    sequence: u32,
}
// SAFETY: repr(C) integers without padding.
unsafe impl Wire for Bth {}

/// Transport header version, the low bits of the BTH's second byte; only 0 is
/// defined.
const VERSION_MASK: u8 = 0x0f;

/// Whether a packet is RoCE.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Found {
    /// It is not.
    #[default]
    No,
    /// It says that it is and cannot be: too short for its headers, of another
    /// version, with an impossible UDP length, a fragment, or behind a broken
    /// GRH.
    Malformed,
    /// It is.
    Yes,
}

/// What the counters need of one packet. Without options that carry values:
/// the verifier would take their unset halves for reads of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocePacket {
    /// The other fields have a meaning only with [`Found::Yes`].
    pub found: Found,
    /// Transport service.
    pub transport: Transport,
    /// Operation.
    pub kind: Kind,
    /// What the AETH's syndrome says, unless it is a plain acknowledgement.
    pub mark: Option<Kind>,
    /// Numbered in the PSN space of its destination queue pair.
    pub sequenced: bool,
    /// Path MTU in bytes as this packet's payload shows it, or 0.
    pub path_mtu: u16,
    /// Destination queue pair, 24 bits.
    pub destination_qp: u32,
    /// Packet sequence number, 24 bits.
    pub psn: u32,
    /// Bytes that an RDMA READ asks for; 0 for every other operation.
    pub read_length: u32,
    /// The queue pair on which the sender is about to receive over a new
    /// connection, told in a connection management REQ or REP: what is known
    /// of requests to it ends. 0 in every other packet.
    pub new_qp: u32,
}

impl Default for RocePacket {
    fn default() -> Self {
        Self {
            found: Found::No,
            transport: Transport::Unknown,
            kind: Kind::Malformed,
            mark: None,
            sequenced: false,
            path_mtu: 0,
            destination_qp: 0,
            psn: 0,
            read_length: 0,
            new_qp: 0,
        }
    }
}

/// Reads the RoCE packet of a parsed frame into `roce`, which must be fresh.
#[inline(always)]
pub fn read<P: Packet + ?Sized>(packet: &P, headers: &Headers, roce: &mut RocePacket) {
    let location = if headers.protocol == protocol::UDP && headers.destination_port == UDP_PORT {
        locate_v2(packet, headers)
    } else if headers.ether_type == ETHER_TYPE {
        locate_v1(headers)
    } else {
        return;
    };
    roce.found = Found::Malformed;
    if let Some(location) = location
        && read_at(packet, location, roce).is_some()
    {
        roce.found = Found::Yes;
    }
}

/// Where a RoCE packet's base transport header is.
#[derive(Clone, Copy)]
struct Location {
    /// Offset in the frame.
    offset: u16,
    /// Bytes from there to the end of the ICRC, as the header before tells.
    length: u32,
}

#[inline(always)]
fn locate_v1(headers: &Headers) -> Option<Location> {
    (headers.protocol == protocol::IB_BTH).then_some(Location {
        offset: headers.transport,
        length: headers.transport_length,
    })
}

#[inline(always)]
fn locate_v2<P: Packet + ?Sized>(packet: &P, headers: &Headers) -> Option<Location> {
    let length: u16 = packet.read(headers.transport as usize + 4)?;
    let length = u32::from(u16::from_be(length));
    if !matches!(headers.fragment, Fragment::No)
        || length < UDP_LEN
        || length > headers.transport_length
    {
        return None;
    }
    Some(Location {
        offset: headers.transport + UDP_LEN as u16,
        length: length - UDP_LEN,
    })
}

/// `None` where the bytes cannot be a RoCE packet.
#[inline(always)]
fn read_at<P: Packet + ?Sized>(
    packet: &P,
    location: Location,
    roce: &mut RocePacket,
) -> Option<()> {
    let Location { offset, length } = location;
    let offset = offset as usize;
    let bth: Bth = packet.read(offset)?;
    let opcode = &OPCODES[bth.opcode as usize];
    let padding = (bth.flags >> 4 & 3) as u32;
    let overhead = BTH_LEN as u32 + opcode.headers as u32 + padding + ICRC_LEN;
    if bth.flags & VERSION_MASK != 0 || length < overhead {
        return None;
    }
    roce.transport = opcode.transport;
    roce.kind = opcode.kind;
    roce.sequenced = opcode.flags & Opcode::SEQUENCED != 0;
    roce.destination_qp = u32::from_be(bth.destination) & PSN_MASK;
    roce.psn = u32::from_be(bth.sequence) & PSN_MASK;
    let extended = offset + BTH_LEN + opcode.skip as usize;
    if opcode.flags & Opcode::AETH != 0 {
        // AETH: syndrome 1, message sequence number 3.
        let [syndrome, ..]: [u8; 4] = packet.read(extended)?;
        roce.mark = Kind::of_syndrome(syndrome);
    }
    if opcode.flags & Opcode::READ != 0 {
        // RETH: virtual address 8, R_Key 4, DMA length 4.
        let length: u32 = packet.read(extended + 12)?;
        roce.read_length = u32::from_be(length);
    }
    if opcode.flags & Opcode::FULL != 0
        && let payload @ (256 | 512 | 1024 | 2048 | 4096) = length - overhead
    {
        roce.path_mtu = payload as u16;
    }
    if roce.destination_qp == GSI_QP
        && matches!(roce.kind, Kind::Send)
        && matches!(opcode.transport, Transport::Ud)
        && length - overhead >= MAD_LEN
    {
        let mad = offset + BTH_LEN + opcode.headers as usize;
        roce.new_qp = read_new_qp(packet, mad)?;
    }
    Some(())
}

/// Reads the local queue pair of a connection management REQ or REP (sections
/// 12.6.5 and 12.6.8), 24 bits; 0 for every other datagram. `mad` is the offset
/// of the management datagram; `None` where its bytes are not at hand.
#[inline(always)]
fn read_new_qp<P: Packet + ?Sized>(packet: &P, mad: usize) -> Option<u32> {
    /// Management class of communication management (table 111).
    const CLASS_CM: u8 = 0x07;
    /// Attribute ids (table 106).
    const REQ: u16 = 0x0010;
    const REP: u16 = 0x0013;
    const MAD_HEADER_LEN: usize = 24;
    let [_version, class]: [u8; 2] = packet.read(mad)?;
    if class != CLASS_CM {
        return Some(0);
    }
    let message = mad + MAD_HEADER_LEN;
    let qp: u32 = match u16::from_be(packet.read(mad + 16)?) {
        REQ => packet.read(message + 32)?,
        REP => packet.read(message + 12)?,
        _ => return Some(0),
    };
    Some(u32::from_be(qp) >> 8)
}

/// Counts a packet in its flow, but for its place in the sequence. `ce`: it is
/// marked as having met congestion. A segmentation-offloaded buffer is several
/// `packets`. The kind is the packet's operation, so below 16.
#[inline(always)]
pub fn tally(flow: &mut RoceFlow, packet: &RocePacket, ce: bool, packets: u64, bytes: u64) {
    flow.packets += packets;
    flow.bytes += bytes;
    let kind = masked::<0xf>(packet.kind as usize);
    if let Some(operation) = flow.operations.get_mut(kind) {
        *operation += packets;
    }
    if ce {
        flow.ce_marked += packets;
    }
    match packet.mark {
        None => {}
        Some(Kind::RnrNak) => flow.rnr_naks += packets,
        Some(_) => flow.naks += packets,
    }
}

/// Where a request stands in its queue pair's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As expected, or nothing was expected yet.
    Expected,
    /// Behind: a retransmission.
    Duplicate,
    /// Ahead by so many PSNs.
    Gap(u32),
}

/// Places a request in `flow`'s sequence and moves the expectation on.
///
/// `flow.last_seen_ns` must still hold the time of the packet before.
#[inline(always)]
pub fn track(flow: &mut RoceFlow, request: &RocePacket, now_ns: u64) -> Order {
    let psn = request.psn;
    let idle = now_ns.saturating_sub(flow.last_seen_ns) > IDLE_NS;
    // Distance modulo 2^24, brought into the range -2^23 .. 2^23.
    let distance = (psn.wrapping_sub(flow.expected_psn) << 8) as i32 >> 8;
    let known = flow.flags & RoceFlow::SYNCED != 0 && !idle && distance.unsigned_abs() < PSN_WINDOW;
    if known && distance < 0 {
        flow.duplicates += 1;
        return Order::Duplicate;
    }
    let taken = if request.read_length <= MIN_PATH_MTU {
        1
    } else if flow.path_mtu != 0 {
        request.read_length.div_ceil(flow.path_mtu.into())
    } else {
        // How many PSNs a long READ takes cannot be told before the path MTU
        // has been seen: begin anew with the next request.
        0
    };
    flow.expected_psn = psn.wrapping_add(taken) & PSN_MASK;
    flow.flags = if taken == 0 { 0 } else { RoceFlow::SYNCED };
    if known && distance > 0 {
        flow.gaps += 1;
        flow.missing += distance as u64;
        return Order::Gap(distance as u32);
    }
    Order::Expected
}

#[cfg(test)]
mod tests;
