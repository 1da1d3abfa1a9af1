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

mod address;
mod carry;
mod code;
mod count;
mod endpoint;
mod event;
mod flow;
mod policy;
mod roce;
mod tokens;
mod uplink;

pub use address::Address;
pub use carry::{Carry, CarryTo};
pub(crate) use code::coded_enum;
pub use code::{Code, Coded, Plain};
pub use count::{Counter, DropKey, DropReason, Fault, ep_stats_index};
pub use endpoint::EndpointConfig;
pub use event::{Event, EventKind};
pub use flow::{
    FLOW_CREDIT, Flow, FlowCounter, FlowKey, FlowState, FragmentJudged, FragmentKey, FragmentPass,
    Standing,
};
pub use policy::{
    MAX_RULES, PolicyData, PolicyKey, PolicyRule, PrefixKey, has_ports, identity, policy_index,
};
pub use roce::{ROCE_OPERATIONS, ROCE_REQUESTS, RoceFlow, RoceFlowKey, RoceKey, RoceRequest};
pub use tokens::TokenBucket;
pub use uplink::{
    LocalAddrKey, LocalMacKey, UPLINK_COUNTERS, UplinkConfig, UplinkCounter, uplink_stats_index,
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

coded_enum! {
    /// A packet's direction, always seen from the pod.
    pub enum Direction {
        /// To the pod.
        Ingress = 0 => "ingress",
        /// From the pod.
        Egress = 1 => "egress",
    }
}

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
