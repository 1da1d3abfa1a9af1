//! What the programs should count, by the library that they are made of: the same parsers on this
//! machine, and counting as simple as can be.

use std::{collections::HashMap, net::IpAddr};

use dataplane_ebpf::{
    abi::{Address, Direction, DropReason, RoceFlow, RoceFlowKey, UPLINK_BIT, UplinkCounter},
    parse::{ECN_CE, Headers, parse},
    roce::{self, Found, Kind, Order, RocePacket, Transport},
};
use ipnet::IpNet;

use crate::{
    counters::{Count, Counters},
    harness::{ENDPOINT, UPLINK},
};

/// `TC_ACT_UNSPEC` (uapi `linux/pkt_cls.h`): on to the next program.
pub const TC_NEXT: i32 = -1;
/// `TC_ACT_SHOT`: dropped.
pub const TC_SHOT: i32 = 2;
/// `TC_ACT_REDIRECT`: off to another interface.
pub const TC_REDIRECT: i32 = 7;
/// `XDP_DROP` (uapi `linux/bpf.h`).
pub const XDP_DROP: i32 = 1;
/// `XDP_PASS`.
pub const XDP_PASS: i32 = 2;

/// The counters of one endpoint and one uplink after the frames so far.
#[derive(Debug, Default)]
pub struct Model {
    /// What they stand at.
    pub counters: Counters,
    /// Source prefixes that the uplink stops.
    pub blocked: Vec<IpNet>,
    /// RoCE flows; of [`RoceFlow`] all but times.
    pub flows: HashMap<RoceFlowKey, RoceFlow>,
}

impl Model {
    /// A frame to or from the endpoint; its verdict.
    pub fn endpoint(&mut self, direction: Direction, frame: &[u8]) -> i32 {
        let count = Count::one(frame.len() as u64);
        match parse(frame) {
            Err(reason) => {
                self.drop(ENDPOINT, direction, reason, count);
                TC_SHOT
            }
            Ok(headers) => {
                self.roce(ENDPOINT, direction, frame, &headers);
                *self.counters.passed.entry(direction).or_default() += count;
                TC_NEXT
            }
        }
    }

    /// A frame that arrives at the uplink; its verdict.
    pub fn uplink(&mut self, frame: &[u8]) -> i32 {
        let count = Count::one(frame.len() as u64);
        let port = UPLINK_BIT | UPLINK;
        let uplink = &mut self.counters.uplink;
        *uplink.entry(UplinkCounter::Received).or_default() += count;
        let Ok(headers) = parse(frame) else {
            *uplink.entry(UplinkCounter::Malformed).or_default() += count;
            return XDP_PASS;
        };
        if self.is_blocked(&headers) {
            self.drop(port, Direction::Ingress, DropReason::BlockList, count);
            return XDP_DROP;
        }
        self.roce(port, Direction::Ingress, frame, &headers);
        XDP_PASS
    }

    fn is_blocked(&self, headers: &Headers) -> bool {
        // What is no IP has no source to be blocked for.
        let is_ip = matches!(headers.ether_type, 0x0800 | 0x86dd);
        let source = IpAddr::from(headers.source);
        is_ip && self.blocked.iter().any(|prefix| prefix.contains(&source))
    }

    fn drop(&mut self, port: u32, direction: Direction, reason: DropReason, count: Count) {
        let key = (port, direction, reason);
        *self.counters.drops.entry(key).or_default() += count;
    }

    fn roce(&mut self, port: u32, direction: Direction, frame: &[u8], headers: &Headers) {
        let mut packet = RocePacket::default();
        roce::read(frame, headers, &mut packet);
        let whole = Count::one(frame.len() as u64);
        let mut add = |transport: Transport, kind: Kind, count: Count| {
            let key = (port, direction, transport, kind);
            *self.counters.roce.entry(key).or_default() += count;
        };
        match packet.found {
            Found::No => return,
            Found::Malformed => return add(Transport::Unknown, Kind::Malformed, whole),
            Found::Yes => add(packet.transport, packet.kind, whole),
        }
        if headers.ecn() == ECN_CE {
            add(packet.transport, Kind::CeMarked, whole);
        }
        if let Some(mark) = packet.mark {
            add(packet.transport, mark, whole);
        }
        let key = |qp: u32, source: Address, destination: Address| RoceFlowKey {
            port,
            destination_qp: qp,
            source,
            destination,
        };
        if packet.new_qp != 0 {
            let key = key(packet.new_qp, headers.destination, headers.source);
            self.flows.remove(&key);
        }
        let key = key(packet.destination_qp, headers.source, headers.destination);
        let flow = self.flows.entry(key).or_default();
        flow.direction = direction as u8;
        flow.packets += 1;
        flow.bytes += frame.len() as u64;
        flow.operations[packet.kind as usize] += 1;
        flow.ce_marked += u64::from(headers.ecn() == ECN_CE);
        flow.rnr_naks += u64::from(packet.mark == Some(Kind::RnrNak));
        flow.naks += u64::from(packet.mark.is_some_and(|mark| mark != Kind::RnrNak));
        if packet.path_mtu != 0 {
            flow.path_mtu = packet.path_mtu;
        }
        if !packet.sequenced {
            return;
        }
        // All within one moment: no flow is ever idle.
        match roce::track(flow, &packet, 0) {
            Order::Expected => {}
            Order::Duplicate => add(packet.transport, Kind::Duplicate, whole),
            Order::Gap(missing) => {
                add(packet.transport, Kind::Gap, whole);
                let missing = Count {
                    packets: missing.into(),
                    bytes: 0,
                };
                add(packet.transport, Kind::Missing, missing);
            }
        }
    }
}
