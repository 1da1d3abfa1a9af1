//! What is remembered of connections and of packets in pieces.

use super::{Address, Code, Direction, coded_enum};

/// New flows of one endpoint that may wait in `flows` for their first answer;
/// one more each second that none comes. What it opens beyond them waits in
/// `flows_new`.
pub const FLOW_CREDIT: u32 = 16;

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
    /// All that verdicts depend on.
    pub standing: Standing,
}

/// What a verdict on a connection depends on, in one word: read and written
/// whole, so that nobody mixes the halves of two.
///
/// The kernel gives an entry of a full table to another connection at once,
/// even while a program still looks at it. `check` tells.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Epoch of the policy that judged it.
    pub policy_epoch: u32,
    /// [`FlowKey::check`] of the connection that this is about.
    pub check: u16,
    /// How far the connection got.
    pub state: Code<FlowState>,
    /// [`Standing::FIN_INITIATOR`] and others.
    pub flags: u8,
}

impl Standing {
    /// The initiator has sent a FIN.
    pub const FIN_INITIATOR: u8 = 1;
    /// The answering side has sent a FIN.
    pub const FIN_RESPONDER: u8 = 2;
    /// The policy refuses the connection: it was judged again after a change,
    /// or the endpoint is in audit mode.
    pub const REFUSED: u8 = 4;
    /// The pod has sent the first packet; else its peer has.
    pub const OPENED_BY_POD: u8 = 8;

    /// The direction of the connection's first packet.
    #[inline(always)]
    pub const fn initiator(&self) -> Direction {
        if self.flags & Self::OPENED_BY_POD == 0 {
            Direction::Ingress
        } else {
            Direction::Egress
        }
    }

    /// Whether the policy that judged it refuses it.
    #[inline(always)]
    pub const fn is_refused(&self) -> bool {
        self.flags & Self::REFUSED != 0
    }
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
    /// Whose, and under which policy.
    pub judged: FragmentJudged,
}

/// One word, for the reason that [`Standing`] is one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentJudged {
    /// Epoch of the endpoint's policy.
    pub policy_epoch: u32,
    /// [`FragmentKey::check`] of the packet that this is about.
    pub check: u32,
}

impl FlowKey {
    /// Tells connections apart, but for one pair in 65,536.
    #[inline(always)]
    pub fn check(&self) -> u16 {
        let ports = self.local_port as u32 | (self.remote_port as u32) << 16;
        let mixed = mix(
            &self.local,
            &self.remote,
            [self.endpoint, ports, self.protocol.into()],
        );
        (mixed ^ mixed >> 16) as u16
    }
}

impl FragmentKey {
    /// Tells packets in pieces apart, but for one pair in some four thousand
    /// million.
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let rest = self.protocol as u32 | (self.direction as u32) << 8;
        mix(
            &self.source,
            &self.destination,
            [self.endpoint, self.identification, rest],
        )
    }
}

/// Mixes the words of a key: each times an odd number of its own, for which
/// one instruction suffices.
#[inline(always)]
fn mix(one: &Address, other: &Address, rest: [u32; 3]) -> u32 {
    let [a, b, c, d] = one.words;
    let [e, f, g, h] = other.words;
    let [i, j, k] = rest;
    let times = |word: u32, factor: u32| word as u64 * factor as u64;
    let sum = times(a, 0x5bd1_e995)
        .wrapping_add(times(b, 0x2c1b_3c6d))
        .wrapping_add(times(c, 0x297a_2d39))
        .wrapping_add(times(d, 0x7feb_352d))
        .wrapping_add(times(e, 0x68e3_1da5))
        .wrapping_add(times(f, 0x5356_97e5))
        .wrapping_add(times(g, 0x4ba3_74a3))
        .wrapping_add(times(h, 0x1b87_3593))
        .wrapping_add(times(i, 0x6d2b_79f5))
        .wrapping_add(times(j, 0x3243_f6a9))
        .wrapping_add(times(k, 0x7ed5_5d17));
    (sum ^ sum >> 32) as u32
}

coded_enum! {
    /// What happened to flows, all endpoints together. Index of `flow_stats`.
    pub enum FlowCounter {
        /// A flow was remembered.
        Created = 0 => "created",
        /// A flow was answered.
        Established = 1 => "established",
        /// A flow was judged again because the policy had changed.
        Rejudged = 2 => "rejudged",
        /// A flow was judged again and refused.
        Refused = 3 => "refused",
    }
}
