//! What is remembered of connections and of packets in pieces.

use super::{Address, Code, Direction, coded_enum};

/// Key of `flows` and `flows_new`: one connection of one endpoint, the same for
/// both directions. [`crate::flow::key`] makes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The pod's address.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// Endpoint id: two pods of one node never share a flow.
    pub endpoint: u32,
    /// The pod's port, network byte order; of an ICMP request, its identifier.
    pub local_port: u16,
    /// The peer's port, network byte order; of an ICMP request, who asked.
    pub remote_port: u16,
    /// IP protocol (IANA).
    pub protocol: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

impl FlowKey {
    /// A key with these fields; `ports` are the pod's and the peer's.
    ///
    /// Written by whole words, as the kernel reads them to find the entry: a
    /// processor that reads a word just written in pieces has to wait for them.
    #[inline(always)]
    pub fn from_words(
        local: Address,
        remote: Address,
        endpoint: u32,
        ports: [u16; 2],
        protocol: u8,
    ) -> Self {
        #[repr(C)]
        struct Words(Address, Address, u32, u32, u32);
        let [[a, b], [c, d]] = ports.map(u16::to_ne_bytes);
        let words = Words(
            local,
            remote,
            endpoint,
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([protocol, 0, 0, 0]),
        );
        // SAFETY: both types are integers alone, without padding, and of one
        // size; every bit pattern is valid.
        unsafe { core::mem::transmute(words) }
    }
}

coded_enum! {
    /// How far a connection got.
    pub enum FlowState {
        /// No packet of the answering side was seen.
        New = 0 => "new",
        /// Both sides spoke.
        Established = 1 => "established",
        /// One side has ended it (TCP FIN).
        Closing = 2 => "closing",
        /// Both sides have ended it, or one has reset it.
        Closed = 3 => "closed",
    }
}

/// Value of `flows` and `flows_new`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Packets of both directions; where these run on two processors at once,
    /// one may now and then be missed.
    pub packets: u64,
    /// Bytes of both directions, as exact as `packets`.
    pub bytes: u64,
    /// When the last packet was seen, ns since boot by the kernel's ticks.
    pub last_seen_ns: u64,
    /// Epoch of the policy that judged it.
    pub policy_epoch: u32,
    /// How far the connection got.
    pub state: Code<FlowState>,
    /// The direction of its first packet.
    pub initiator: Code<Direction>,
    /// [`Flow::FIN_INITIATOR`] and others.
    pub flags: u8,
    /// Always zero.
    pub pad: u8,
}

impl Flow {
    /// The initiator has sent a FIN.
    pub const FIN_INITIATOR: u8 = 1;
    /// The answering side has sent a FIN.
    pub const FIN_RESPONDER: u8 = 2;
    /// The policy refuses the connection: it was judged again after a change,
    /// or the endpoint is in audit mode.
    pub const REFUSED: u8 = 4;
}

/// Key of `fragments`: an IP packet that arrives in pieces (RFC 791, RFC 8200:
/// the pieces of one packet agree in these).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Endpoint id.
    pub endpoint: u32,
    /// Identification, network byte order.
    pub identification: u32,
    /// IPv4's protocol; 0 for IPv6, whose later pieces may name another header.
    pub protocol: u8,
    /// Seen from the pod.
    pub direction: Code<Direction>,
    /// Always zero.
    pub pad: u16,
}

/// Value of `fragments`: the packet's first piece passed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentPass {
    /// When, ns since boot by the kernel's ticks.
    pub time_ns: u64,
    /// Under which epoch of the endpoint's policy.
    pub policy_epoch: u32,
    /// Always zero.
    pub pad: u32,
}

coded_enum! {
    /// What happened to flows, all endpoints together. Index of `flow_stats`.
    pub enum FlowCounter {
        /// A flow was remembered.
        Created = 0 => "created",
        /// A flow was answered and moved to `flows`.
        Established = 1 => "established",
        /// A flow was judged again because the policy had changed.
        Rejudged = 2 => "rejudged",
        /// A flow was judged again and refused.
        Refused = 3 => "refused",
    }
}
