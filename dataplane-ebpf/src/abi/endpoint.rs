//! What the programs go by for an endpoint.

use super::Direction;

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
