//! What is counted of RoCE, and what is remembered of its flows and requests.

use super::{Address, Code, Direction};

/// Key of `roce_stats`. A packet counts once, under its operation with the marks
/// that it carries, so that one lookup does whatever they are; how often a mark
/// was seen is the sum over the keys that bear it ([`RoceKey::kinds`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoceKey {
    /// Endpoint id, or an uplink's port id.
    pub port: u32,
    /// Seen from the pod; what an uplink receives is ingress.
    pub direction: Code<Direction>,
    /// Transport service of the opcode.
    pub transport: Code<crate::roce::Transport>,
    /// What is counted: an operation, or what a response says besides.
    pub kind: Code<crate::roce::Kind>,
    /// [`RoceKey::CE`] and others, or none.
    pub marks: u8,
}

impl RoceKey {
    /// The packet is also a [`Kind::CeMarked`](crate::roce::Kind::CeMarked).
    pub const CE: u8 = 1;
    /// It is also a [`Kind::Duplicate`](crate::roce::Kind::Duplicate).
    pub const DUPLICATE: u8 = 2;
    /// It is also a [`Kind::Gap`](crate::roce::Kind::Gap).
    pub const GAP: u8 = 4;

    /// The keys, each of one kind without marks, that this key's packets count
    /// under when they are told one by one.
    ///
    /// ```
    /// # use dataplane_ebpf::{abi::RoceKey, roce::Kind};
    /// let key = RoceKey { port: 1, direction: 0, transport: 0, kind: Kind::Send as u8, marks: RoceKey::CE };
    /// let kinds: Vec<_> = key.kinds().map(|key| key.kind).collect();
    /// assert_eq!(kinds, [Kind::Send as u8, Kind::CeMarked as u8]);
    /// ```
    #[cfg(not(feature = "kernel"))]
    pub fn kinds(self) -> impl Iterator<Item = Self> {
        use crate::roce::Kind;
        let marked = [
            (Self::CE, Kind::CeMarked),
            (Self::DUPLICATE, Kind::Duplicate),
            (Self::GAP, Kind::Gap),
        ];
        let Self { kind, marks, .. } = self;
        let marked = marked.into_iter().filter(move |(bit, _)| marks & bit != 0);
        core::iter::once(kind)
            .chain(marked.map(|(_, kind)| kind.code()))
            .map(move |kind| self.unmarked(kind))
    }

    #[cfg(not(feature = "kernel"))]
    const fn unmarked(mut self, kind: Code<crate::roce::Kind>) -> Self {
        self.kind = kind;
        self.marks = 0;
        self
    }
}

/// Key of `roce_flows`: one direction of one queue pair's traffic.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoceFlowKey {
    /// Endpoint id, or an uplink's port id.
    pub port: u32,
    /// Destination queue pair, 24 bits.
    pub destination_qp: u32,
    /// Source address or GID.
    pub source: Address,
    /// Destination address or GID.
    pub destination: Address,
}

/// Value of `roce_flows`. What every packet touches comes first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoceFlow {
    /// Packets of every operation.
    pub packets: u64,
    /// Bytes of every operation, whole frames.
    pub bytes: u64,
    /// When the last packet was seen, ns since boot by the kernel's ticks.
    pub last_seen_ns: u64,
    /// Next request's PSN, 24 bits; meaningful with [`RoceFlow::SYNCED`].
    pub expected_psn: u32,
    /// Path MTU in bytes, learned from a first or middle packet; 0 before.
    pub path_mtu: u16,
    /// [`RoceFlow::SYNCED`].
    pub flags: u8,
    /// [`Direction`].
    pub direction: u8,
    /// Packets by operation, at the number of its [`Kind`](crate::roce::Kind).
    pub operations: [u64; ROCE_OPERATIONS],
    /// Packets that a switch marked as having met congestion.
    pub ce_marked: u64,
    /// Negative acknowledgements of every code.
    pub naks: u64,
    /// Negative acknowledgements of a receiver that was not ready.
    pub rnr_naks: u64,
    /// Requests whose PSN lay behind the expected one: retransmissions.
    pub duplicates: u64,
    /// Times that a request's PSN lay ahead of the expected one.
    pub gaps: u64,
    /// PSNs that those gaps skipped.
    pub missing: u64,
    /// Answers whose request's time was known.
    pub answers_timed: u64,
    /// How long all of them took together, ns.
    pub answer_time_ns: u64,
    /// How long the slowest took, ns.
    pub answer_time_longest_ns: u64,
    /// The queue pair that the last request answered here was for, 24 bits.
    pub answering_qp: u32,
    /// Always zero.
    pub pad: u32,
}

impl RoceFlow {
    /// `expected_psn` is known.
    pub const SYNCED: u8 = 1;

    /// Before its first packet.
    pub const NEW: Self = Self {
        packets: 0,
        bytes: 0,
        last_seen_ns: 0,
        expected_psn: 0,
        path_mtu: 0,
        flags: 0,
        direction: 0,
        operations: [0; ROCE_OPERATIONS],
        ce_marked: 0,
        naks: 0,
        rnr_naks: 0,
        duplicates: 0,
        gaps: 0,
        missing: 0,
        answers_timed: 0,
        answer_time_ns: 0,
        answer_time_longest_ns: 0,
        answering_qp: 0,
        pad: 0,
    };
}

impl Default for RoceFlow {
    fn default() -> Self {
        Self::NEW
    }
}

/// Operations that a flow counts: every [`Kind`](crate::roce::Kind) below this.
pub const ROCE_OPERATIONS: usize = crate::roce::Kind::Malformed as usize;

/// Slots of `roce_requests`; a power of two.
pub const ROCE_REQUESTS: u32 = 4096;

/// Value of `roce_requests`: when a request passed that is waiting for its
/// answer. See [`crate::roce::timing`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoceRequest {
    /// When, ns of the monotonic clock (exact); 0 in an empty slot.
    pub time_ns: u64,
    /// What the request shares with its answer.
    pub exchange: u32,
    /// The queue pair that it was for, 24 bits.
    pub destination_qp: u32,
}
