//! RoCE counters, of endpoints and uplinks alike.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns};
use dataplane_ebpf::{
    abi::{EventKind, Fault, RoceFlow, RoceFlowKey, RoceKey, UPLINK_BIT},
    parse::{ECN_CE, join},
    roce::{
        self, Found, Kind, Order, RocePacket, Transport,
        timing::{self, Role},
    },
};

use super::{
    clock::now_ns,
    count,
    event::{self, Subject},
    maps::{ROCE_FLOWS, ROCE_REQUESTS, ROCE_STATS},
};

/// A flow before its first packet, where it takes no room on the stack.
static NEW_FLOW: RoceFlow = RoceFlow::NEW;

/// Counts the packet if it is RoCE.
#[inline(always)]
pub fn count(subject: &Subject<'_>, roce: &RocePacket) {
    match roce.found {
        Found::No => return,
        Found::Malformed => return add(subject, Transport::Unknown, Kind::Malformed, 0),
        Found::Yes => {}
    }
    if roce.new_qp != 0 {
        let _ = ROCE_FLOWS.remove(RoceFlowKey {
            port: subject.port,
            destination_qp: roce.new_qp,
            source: subject.headers.destination,
            destination: subject.headers.source,
        });
    }
    join();
    let ce = subject.headers.ecn() == ECN_CE;
    let order = follow(subject, roce, ce);
    let mut marks = match order {
        Order::Expected => 0,
        Order::Duplicate => RoceKey::DUPLICATE,
        Order::Gap(_) => RoceKey::GAP,
    };
    if ce {
        marks |= RoceKey::CE;
    }
    add(subject, roce.transport, roce.kind, marks);
    if let Order::Gap(missing) = order {
        add_counts(subject, roce.transport, Kind::Missing, 0, missing.into(), 0);
        event::report(subject, EventKind::Roce, Kind::Gap as u8, roce);
    }
    join();
    if let Some(mark) = roce.mark {
        add(subject, roce.transport, mark, 0);
        event::report(subject, EventKind::Roce, mark as u8, roce);
    }
}

#[inline(always)]
fn add(subject: &Subject<'_>, transport: Transport, kind: Kind, marks: u8) {
    let Subject { packets, bytes, .. } = *subject;
    add_counts(subject, transport, kind, marks, packets, bytes);
}

#[inline(always)]
fn add_counts(
    subject: &Subject<'_>,
    transport: Transport,
    kind: Kind,
    marks: u8,
    packets: u64,
    bytes: u64,
) {
    let key = RoceKey {
        port: subject.port,
        direction: subject.direction.code(),
        transport: transport.code(),
        kind: kind.code(),
        marks,
    };
    count::add_sparse(&ROCE_STATS, &key, packets, bytes, Fault::RoceStatsFull);
}

/// Brings the packet's flow up to date and says where the packet stands in its
/// sequence.
///
/// NICs keep the packets of one flow on one processor, so the entry needs no
/// lock; where they do not, the flow's numbers are approximate, while
/// `roce_stats` stays exact.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a flow's value would take a fifth of the stack"
)]
fn follow(subject: &Subject<'_>, roce: &RocePacket, ce: bool) -> Order {
    let key = RoceFlowKey {
        port: subject.port,
        destination_qp: roce.destination_qp,
        source: subject.headers.source,
        destination: subject.headers.destination,
    };
    let found = ROCE_FLOWS.get_ptr_mut(key).or_else(|| {
        let _ = ROCE_FLOWS.insert(key, &NEW_FLOW, BPF_NOEXIST.into());
        ROCE_FLOWS.get_ptr_mut(key)
    });
    let Some(flow) = found else {
        count::fault(Fault::RoceFlowsFull);
        return Order::Expected;
    };
    // SAFETY: the entry comes from a map lookup and stays valid until the
    // program ends.
    let flow = unsafe { &mut *flow };
    let now = now_ns();
    flow.direction = subject.direction as u8;
    roce::tally(flow, roce, ce, subject.packets, subject.bytes);
    if roce.path_mtu != 0 {
        flow.path_mtu = roce.path_mtu;
    }
    let order = if roce.sequenced {
        roce::track(flow, roce, now)
    } else {
        Order::Expected
    };
    flow.last_seen_ns = now;
    // An uplink sees one side of an exchange only.
    if timing::is_timed(roce.psn) && subject.port & UPLINK_BIT == 0 {
        time(subject, roce, flow, order);
    }
    order
}

/// Notes when a request passed, or how long the packet's request has waited for
/// it. Packets that race for a slot cost a measurement, or in the worst case
/// make a wrong one among many.
#[inline(always)]
fn time(subject: &Subject<'_>, roce: &RocePacket, flow: &mut RoceFlow, order: Order) {
    let headers = subject.headers;
    let role = timing::role(roce);
    let (requester, responder) = match role {
        Role::None => return,
        Role::Request => (&headers.source, &headers.destination),
        Role::Answer => (&headers.destination, &headers.source),
    };
    let exchange = timing::exchange(subject.port, requester, responder, roce.psn);
    let Some(slot) = ROCE_REQUESTS.get_ptr_mut(timing::slot(exchange)) else {
        return;
    };
    // SAFETY: from a map lookup; the helper has no preconditions.
    let (slot, now) = unsafe { (&mut *slot, bpf_ktime_get_ns()) };
    if let Role::Request = role {
        timing::request(slot, exchange, roce.destination_qp, order, now);
    } else {
        timing::answer(slot, exchange, flow, now);
    }
}
