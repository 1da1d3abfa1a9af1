//! What is counted of packets, what is dropped and why, and what the dataplane could not do.

use super::{Code, Direction, coded_enum};

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

/// Index into `ep_stats` of an endpoint's counter for one direction.
pub const fn ep_stats_index(endpoint: u32, direction: Direction) -> u32 {
    endpoint * 2 + direction as u32
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
}
