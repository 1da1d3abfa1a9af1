//! Keys and values of the maps, as programs, agent and bpftool see them.
//!
//! Every type here is `repr(C)` with its padding spelled out, because the
//! kernel compares map keys byte by byte and because bpftool prints each field
//! by its name from BTF. Integers are in the node's byte order unless a field
//! says otherwise.
//!
//! [`LAYOUT`] must be raised when any of these types, or any map's type or
//! key, changes. The agent takes maps over whose kind and sizes are as before;
//! where their meaning is not, [`OLDEST_LAYOUT`] must be raised too.

mod flow;
mod policy;

pub use flow::{
    Flow, FlowCounter, FlowKey, FlowState, FragmentJudged, FragmentKey, FragmentPass, Standing,
};
pub use policy::{
    MAX_RULES, PolicyData, PolicyKey, PolicyRule, PrefixKey, has_ports, identity, policy_index,
};

/// Version of the map layout; part of every pin's path
/// (`/sys/fs/bpf/sluice/v<LAYOUT>/`).
pub const LAYOUT: u32 = 3;

/// The oldest layout whose maps mean what today's do where kind and sizes are
/// the same; an agent takes them over when it is upgraded.
pub const OLDEST_LAYOUT: u32 = 1;

/// Largest number of endpoints on one node, by configuration.
pub const MAX_ENDPOINTS: u32 = 4096;

/// Largest number of uplinks on one node.
pub const MAX_UPLINKS: u32 = 32;

/// Marks a port id as an uplink's: endpoint ids stay below this bit, uplink
/// `n` is `UPLINK_BIT | n`. Maps keyed by port id thus hold both.
pub const UPLINK_BIT: u32 = 1 << 31;

/// Slots of the `pipeline` program array.
pub mod stage {
    /// Packets to a pod.
    pub const INGRESS: u32 = 0;
    /// Packets from a pod.
    pub const EGRESS: u32 = 1;
    /// Policy for packets to a pod.
    pub const POLICY_INGRESS: u32 = 2;
    /// Policy for packets from a pod.
    pub const POLICY_EGRESS: u32 = 3;
    /// Number of slots, with room for stages to come.
    pub const SLOTS: u32 = 8;
}

/// Word of the packet's scratch space (`__sk_buff.cb`, uapi `linux/bpf.h`) in
/// which an entry program leaves the endpoint id for the pipeline.
pub const CB_ENDPOINT: usize = 0;
/// Word of the same space in which an entry program leaves its [`seen`] mark
/// for a stand-in behind it. No protocol's own scratch data reaches this far
/// (`struct inet_skb_parm`, `struct inet6_skb_parm`).
pub const CB_SEEN: usize = 4;

/// What an endpoint's entry program leaves in a packet. The upper half tells it
/// from anything that was there before; a packet that has it from another
/// endpoint, or from the other direction, was not seen here.
pub const fn seen(endpoint: u32, direction: Direction) -> u32 {
    0x51ce_0000 | endpoint << 1 | direction as u32
}
const _: () = assert!(MAX_ENDPOINTS <= 0x7fff);

/// Types whose every bit pattern is valid and that have no hidden padding, so
/// that they may be copied to and from a map as plain bytes.
///
/// # Safety
/// Implement only for `repr(C)` types made of integers and arrays of integers
/// whose fields fill the whole size.
pub unsafe trait Plain: Copy + 'static {}

/// How an enumeration stands in a map: the programs and bpftool see the enum
/// (BTF then gives its names), user space reads the number and converts it,
/// since a foreign byte need not be a valid variant.
pub trait Coded {
    /// The field's type on this side.
    type Repr: Copy;
}

/// A field that holds the enumeration `E`; see [`Coded`].
pub type Code<E> = <E as Coded>::Repr;

/// Declares a `repr(u8)` enumeration with stable numbers, its names for
/// people, and conversions that refuse unknown numbers.
macro_rules! coded_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// Every variant, in the order of the numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the CLI, in metrics and in events.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// How this side stores the variant in a map.
            #[cfg(feature = "kernel")]
            #[inline(always)]
            pub const fn code(self) -> $crate::abi::Code<Self> { self }

            /// How this side stores the variant in a map.
            #[cfg(not(feature = "kernel"))]
            pub const fn code(self) -> $crate::abi::Code<Self> { self as u8 }
        }

        impl $crate::abi::Coded for $name {
            #[cfg(feature = "kernel")]
            type Repr = Self;
            #[cfg(not(feature = "kernel"))]
            type Repr = u8;
        }

        impl TryFrom<u8> for $name {
            /// The number that no variant has.
            type Error = u8;
            fn try_from(number: u8) -> Result<Self, u8> {
                match number { $($value => Ok(Self::$variant),)+ other => Err(other) }
            }
        }
    };
}
pub(crate) use coded_enum;

coded_enum! {
    /// A packet's direction, always seen from the pod.
    pub enum Direction {
        /// To the pod.
        Ingress = 0 => "ingress",
        /// From the pod.
        Egress = 1 => "egress",
    }
}

coded_enum! {
    /// Why a packet was dropped. The numbers are stable and never reused;
    /// programs, CLI, metrics and events share this list.
    pub enum DropReason {
        /// Shorter than an Ethernet header.
        EthernetTruncated = 1 => "ethernet_truncated",
        /// Ends inside a VLAN tag.
        VlanTruncated = 2 => "vlan_truncated",
        /// More VLAN tags than the two of QinQ (IEEE 802.1ad).
        VlanTooDeep = 3 => "vlan_too_deep",
        /// Ends inside the IPv4 header, or before its total length.
        Ipv4Truncated = 4 => "ipv4_truncated",
        /// IPv4 with a version other than 4, a header length below 20 bytes
        /// or a total length below the header's.
        Ipv4Malformed = 5 => "ipv4_malformed",
        /// Ends inside the IPv6 header, or before its payload length.
        Ipv6Truncated = 6 => "ipv6_truncated",
        /// IPv6 with a version other than 6.
        Ipv6Malformed = 7 => "ipv6_malformed",
        /// Ends inside an IPv6 extension header.
        Ipv6ExtensionTruncated = 8 => "ipv6_extension_truncated",
        /// More IPv6 extension headers than the parser follows.
        Ipv6ExtensionsTooMany = 9 => "ipv6_extensions_too_many",
        /// Ends inside the TCP, UDP, SCTP, ICMP or ICMPv6 header.
        TransportTruncated = 10 => "transport_truncated",
        /// A TCP data offset or UDP length that cannot be.
        TransportMalformed = 11 => "transport_malformed",
        /// A first fragment too short for its transport header, or a fragment
        /// that would overwrite one (RFC 1858, RFC 5722).
        FragmentTiny = 12 => "fragment_tiny",
        /// The pipeline's program is missing; nothing can judge the packet.
        PipelineMissing = 13 => "pipeline_missing",
        /// On the uplink's block list.
        BlockList = 14 => "block_list",
        /// No rule of the endpoint's policy allows the packet.
        PolicyDenied = 15 => "policy_denied",
        /// The endpoint is isolated and its policy is not there: nothing says
        /// what may pass.
        PolicyMissing = 16 => "policy_missing",
        /// The endpoint is isolated and the frame has no address that policy
        /// could judge.
        NonIp = 17 => "non_ip",
        /// A later piece of an IP packet whose first piece did not pass, or was
        /// not seen before.
        FragmentUntracked = 18 => "fragment_untracked",
        /// The link header was lost on the way up (generic XDP below), and there
        /// was no memory to bring it back: what the frame is cannot be told.
        LinkHeaderLost = 19 => "link_header_lost",
    }
}

coded_enum! {
    /// What happened inside the dataplane that a reader of its counters must
    /// know: each makes some other number incomplete. Index of `faults`.
    pub enum Fault {
        /// A drop could not be entered in `drops`: the map is full.
        DropsFull = 0 => "drops_full",
        /// A RoCE packet could not be entered in `roce_stats`: the map is full.
        RoceStatsFull = 1 => "roce_stats_full",
        /// A RoCE flow could not be entered in `roce_flows`.
        RoceFlowsFull = 2 => "roce_flows_full",
        /// An event was lost: the ring buffer is full.
        EventsFull = 3 => "events_full",
        /// An event was held back by its endpoint's token bucket.
        EventsThrottled = 4 => "events_throttled",
        /// A frame for the node or a pod could not be turned around.
        RedirectFailed = 5 => "redirect_failed",
        /// A new flow was judged but not remembered: its endpoint opens more
        /// than its token bucket grants. Its replies are judged by themselves.
        FlowsThrottled = 6 => "flows_throttled",
        /// A new flow was judged but could not be entered in a table.
        FlowsFull = 7 => "flows_full",
        /// A packet of an endpoint in audit mode could not be entered in
        /// `would_drop`: the map is full.
        WouldDropFull = 8 => "would_drop_full",
    }
}

/// Packets and bytes. Packets are as on the wire (a segmentation-offloaded
/// buffer counts its segments); bytes are the frame's, Ethernet header
/// included, offloaded VLAN tag excluded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Value of `endpoints`, indexed by endpoint id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointConfig {
    /// [`EndpointConfig::IN_USE`] and others.
    pub flags: u32,
    /// Raised by one with each change of the endpoint's policy; flows of
    /// another epoch are judged again.
    pub policy_epoch: u32,
    /// Flows of an earlier epoch are those of another pod, which had the
    /// endpoint id before: they count for nothing.
    pub first_epoch: u32,
    /// The uplink's port id, or 0 when the endpoint hangs off none.
    pub uplink: u32,
    /// Events a second that the endpoint may cause; 0 silences it.
    pub event_rate: u32,
    /// New flows a second that are remembered; further ones are judged packet
    /// by packet.
    pub flow_rate: u32,
}

impl EndpointConfig {
    /// The id belongs to an endpoint.
    pub const IN_USE: u32 = 1;
    /// What policy does not allow to the pod is dropped.
    pub const ENFORCE_INGRESS: u32 = 2;
    /// What policy does not allow from the pod is dropped.
    pub const ENFORCE_EGRESS: u32 = 4;
    /// What would be dropped by policy is counted and reported, and passes.
    pub const AUDIT: u32 = 8;
    /// What the node itself sends to the pod passes.
    pub const ALLOW_NODE: u32 = 16;

    /// The flag that isolates a direction.
    pub const fn enforce(direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => Self::ENFORCE_INGRESS,
            Direction::Egress => Self::ENFORCE_EGRESS,
        }
    }

    /// Whether policy has a say in what the endpoint sends or gets.
    #[inline(always)]
    pub const fn is_enforced(&self) -> bool {
        self.flags & (Self::ENFORCE_INGRESS | Self::ENFORCE_EGRESS) != 0
    }
}

/// Index into `ep_stats` of an endpoint's counter for one direction.
pub const fn ep_stats_index(endpoint: u32, direction: Direction) -> u32 {
    endpoint * 2 + direction as u32
}

/// Key of `drops`, and of `would_drop`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropKey {
    /// Endpoint id, or an uplink's port id.
    pub port: u32,
    /// Seen from the pod; an uplink's drops are ingress.
    pub direction: Code<Direction>,
    /// Why.
    pub reason: Code<DropReason>,
    /// Always zero.
    pub pad: u16,
}

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

/// An IPv6 address, or an IPv4 address mapped into IPv6 (`::ffff:a.b.c.d`,
/// RFC 4291 section 2.5.5.2), in network byte order.
///
/// Kept as words because 32-bit accesses are what packet memory and verifier
/// like best.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Four words, each in network byte order.
    pub words: [u32; 4],
}

impl Address {
    /// An IPv4 address; `word` is in network byte order.
    #[inline(always)]
    pub const fn from_ipv4_word(word: u32) -> Self {
        Self {
            words: [0, 0, 0xffff_u32.to_be(), word],
        }
    }

    /// From the 16 bytes of an IPv6 address.
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let o = octets;
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The 16 bytes of the IPv6 address.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = self.words;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    /// A mapped address becomes the IPv4 address that it stands for.
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

coded_enum! {
    /// What an [`Event`] tells.
    pub enum EventKind {
        /// A packet was dropped; `code` is a [`DropReason`].
        Drop = 1 => "drop",
        /// A RoCE packet told of trouble; `code` is a [`crate::roce::Kind`].
        Roce = 2 => "roce",
        /// A packet would have been dropped but for audit mode; `code` is a
        /// [`DropReason`].
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
    /// [`Direction`].
    pub direction: u8,
    /// Always zero.
    pub pad: [u8; 6],
}

/// Value of `event_tokens` and `flow_tokens`, indexed by endpoint id: how many
/// events the endpoint may still cause, how many flows it may still open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenBucket {
    /// When `nano_tokens` was last brought up to date, ns since boot.
    pub updated_ns: u64,
    /// Events left, in billionths of one, so that a refill loses nothing.
    pub nano_tokens: u64,
}

impl TokenBucket {
    /// Takes one token if there is one, after a refill at `rate` tokens a
    /// second up to a burst of one second's worth.
    ///
    /// ```
    /// # use dataplane_ebpf::abi::TokenBucket;
    /// let mut bucket = TokenBucket::default();
    /// assert!(bucket.take(5_000_000_000, 1));
    /// assert!(!bucket.take(5_000_000_000, 1));
    /// ```
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, rate: u32) -> bool {
        const TOKEN: u64 = 1_000_000_000;
        let rate = rate as u64;
        let burst = rate * TOKEN;
        let elapsed = now_ns.saturating_sub(self.updated_ns);
        self.updated_ns = now_ns;
        // Beyond a second the bucket is full; the bound also rules out overflow.
        let level = if elapsed >= TOKEN {
            burst
        } else {
            let level = self.nano_tokens.saturating_add(elapsed * rate);
            if level > burst { burst } else { level }
        };
        let granted = level >= TOKEN;
        self.nano_tokens = if granted { level - TOKEN } else { level };
        granted
    }
}

/// Value of `uplinks`, indexed by uplink number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Interface index in the agent's namespace; 0 when the slot is free.
    pub ifindex: u32,
    /// [`UplinkConfig::HOST_REACH`] and others.
    pub flags: u32,
    /// The uplink's own MAC address.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

impl UplinkConfig {
    /// Frames between the node and its pods are turned around here.
    pub const HOST_REACH: u32 = 1;
    /// The block list has entries, so packets must be looked up in it.
    pub const BLOCK_LIST: u32 = 2;
}

coded_enum! {
    /// What an uplink counts; index `uplink * UPLINK_COUNTERS + counter` of
    /// `uplink_stats`.
    pub enum UplinkCounter {
        /// Frames seen by the uplink's XDP program.
        Received = 0 => "received",
        /// Frames that XDP could not parse; they are passed on.
        Malformed = 1 => "malformed",
        /// Frames of the node turned around to a local pod.
        NodeToPod = 2 => "node_to_pod",
        /// Frames of a local pod turned around to the node.
        PodToNode = 3 => "pod_to_node",
        /// ARP and neighbour discovery frames copied to the other side.
        NeighborCopied = 4 => "neighbor_copied",
    }
}

/// Counters kept for one uplink.
pub const UPLINK_COUNTERS: u32 = UplinkCounter::ALL.len() as u32;

/// Index into `uplink_stats`; `uplink` is the number without [`UPLINK_BIT`].
pub const fn uplink_stats_index(uplink: u32, counter: UplinkCounter) -> u32 {
    uplink * UPLINK_COUNTERS + counter as u32
}

/// Key of `local_macs`: MAC addresses behind an uplink that belong to pods of
/// this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalMacKey {
    /// Uplink number.
    pub uplink: u32,
    /// MAC address of the pod's interface.
    pub mac: [u8; 6],
    /// Always zero.
    pub pad: [u8; 2],
}

/// Key of `local_addrs`: addresses behind an uplink that are this node's own
/// or belong to its pods. The value is a port id: the endpoint, or the uplink
/// for the node's own addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalAddrKey {
    /// The address.
    pub address: Address,
    /// Uplink number.
    pub uplink: u32,
}

coded_enum! {
    /// Where a [`Carry`] is added.
    pub enum CarryTo {
        /// `ep_stats`, by index.
        EndpointStats = 0 => "ep_stats",
        /// `drops`.
        Drops = 1 => "drops",
        /// `roce_stats`.
        RoceStats = 2 => "roce_stats",
        /// `faults`, by index; bytes are nothing.
        Faults = 3 => "faults",
        /// `uplink_stats`, by index.
        UplinkStats = 4 => "uplink_stats",
        /// `flow_stats`, by index; bytes are nothing.
        FlowStats = 5 => "flow_stats",
        /// `would_drop`.
        WouldDrop = 6 => "would_drop",
    }
}

/// What an older map had counted under one key: the packet that the agent runs
/// the program `carry` on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carry {
    /// Its place among all that is carried over, from 0. Each is added once,
    /// however often it is offered.
    pub number: u64,
    /// [`CarryTo`].
    pub to: u32,
    /// Always zero: where a frame has its ethertype, by which the kernel would
    /// look for more in it.
    pub pad: u32,
    /// Packets, or whatever the map counts.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// The key, as bytes; of an index, the first word.
    pub key: [u32; 2],
}

impl Carry {
    /// What `carry` returns when it has added the record.
    pub const ADDED: i32 = 0;
    /// The record's turn is over already, or has not come.
    pub const OUT_OF_TURN: i32 = 1;
    /// The map has no room for it, or it is no record.
    pub const LOST: i32 = 2;

    /// The record as a packet.
    #[cfg(not(feature = "kernel"))]
    pub fn octets(&self) -> [u8; 40] {
        let [first, second] = self.key;
        let fields = [
            &self.number.to_ne_bytes()[..],
            &self.to.to_ne_bytes(),
            &self.pad.to_ne_bytes(),
            &self.packets.to_ne_bytes(),
            &self.bytes.to_ne_bytes(),
            &first.to_ne_bytes(),
            &second.to_ne_bytes(),
        ];
        let mut octets = [0; 40];
        let bytes = fields.into_iter().flatten();
        for (octet, byte) in octets.iter_mut().zip(bytes) {
            *octet = *byte;
        }
        octets
    }
}

// SAFETY: repr(C) integers without padding.
unsafe impl crate::parse::Wire for Carry {}

macro_rules! plain {
    ($($t:ty = $size:literal),+ $(,)?) => {$(
        // SAFETY: repr(C), integers only, no hidden padding (the size below is
        // the sum of the fields' sizes).
        #[cfg(not(feature = "kernel"))]
        unsafe impl Plain for $t {}
        const _: () = assert!(size_of::<$t>() == $size);
    )+};
}

plain!(
    Address = 16,
    Counter = 16,
    Carry = 40,
    EndpointConfig = 24,
    DropKey = 8,
    RoceKey = 8,
    RoceFlowKey = 40,
    RoceFlow = 200,
    RoceRequest = 16,
    Event = 72,
    TokenBucket = 16,
    UplinkConfig = 16,
    LocalMacKey = 12,
    LocalAddrKey = 20,
    FlowKey = 44,
    Flow = 32,
    FragmentKey = 44,
    FragmentPass = 16,
    PolicyData = 8,
    PolicyKey = 12,
    PolicyRule = 8,
    PrefixKey = 20,
);

// SAFETY: an integer.
unsafe impl Plain for u32 {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_convert_back() {
        let mut names = std::collections::HashSet::new();
        for reason in DropReason::ALL {
            assert_eq!(DropReason::try_from(*reason as u8), Ok(*reason));
            assert!(names.insert(reason.name()));
        }
        assert_eq!(DropReason::try_from(0), Err(0));
        assert_eq!(DropReason::try_from(255), Err(255));
    }

    #[test]
    fn addresses_convert_both_ways() {
        for text in ["10.1.2.3", "fd00::1:2"] {
            let ip: std::net::IpAddr = text.parse().unwrap();
            assert_eq!(std::net::IpAddr::from(Address::from(ip)), ip);
        }
        let word = u32::from_ne_bytes([10, 1, 2, 3]);
        let ip = std::net::IpAddr::from([10, 1, 2, 3]);
        assert_eq!(Address::from_ipv4_word(word), Address::from(ip));
    }

    #[test]
    fn a_bucket_grants_its_rate_and_no_more() {
        let mut bucket = TokenBucket::default();
        let start = 77_000_000_000;
        let burst = (0..100).filter(|_| bucket.take(start, 10)).count();
        assert_eq!(burst, 10);
        // Asked every millisecond for two seconds, ten a second are granted.
        let granted = (1..=2000)
            .filter(|ms| bucket.take(start + ms * 1_000_000, 10))
            .count();
        assert_eq!(granted, 20);
        assert!(!TokenBucket::default().take(start, 0));
    }

    #[test]
    fn a_bucket_survives_a_clock_that_steps_back() {
        let mut bucket = TokenBucket::default();
        assert!(bucket.take(2_000_000_000, 1));
        assert!(!bucket.take(1_000_000_000, 1));
        assert!(bucket.take(u64::MAX, u32::MAX));
    }
}
