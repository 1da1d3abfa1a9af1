//! What every packet of every endpoint runs through.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use dataplane_ebpf::{
    abi::{CB_ENDPOINT, Direction, DropReason, EndpointConfig, EventKind, ep_stats_index, stage},
    parse::{Headers, join, usual},
    roce::{Found, RocePacket},
};

use super::{
    count,
    entry::stage_of,
    event::{self, Subject},
    flow, log,
    maps::{ENDPOINT_CONFIGS, EP_STATS, PIPELINE},
    packet::{InPlace, LinkHeader, parse_to_scratch, restore_link_header, to_scratch},
    roce,
};

/// Headers are looked for in so many bytes of a packet.
const HEADERS_MAX: u32 = 1024;

/// Packets to pods.
#[classifier]
pub fn pipeline_ingress(context: TcContext) -> i32 {
    run(&context, Direction::Ingress)
}

/// Packets from pods.
#[classifier]
pub fn pipeline_egress(context: TcContext) -> i32 {
    run(&context, Direction::Egress)
}

#[inline(always)]
fn run(context: &TcContext, direction: Direction) -> i32 {
    if let Direction::Ingress = direction {
        match restore_link_header(context) {
            LinkHeader::InPlace => {}
            LinkHeader::Restored => restart(context, direction),
            LinkHeader::Lost => {
                let unread = Headers::default();
                let subject = subject(context, direction, &unread);
                let reason = DropReason::LinkHeaderLost;
                return refuse(context, &subject, reason, &RocePacket::default());
            }
        }
    }
    if let Some(verdict) = usual_way(context, direction) {
        return verdict;
    }
    // What was learned on the way here is nothing to verify the parser for.
    join();
    let Some(parsed) = parse_to_scratch(&InPlace::skb(context)) else {
        return TC_ACT_SHOT;
    };
    if parsed.refusal.is_some() || matches!(parsed.roce.found, Found::Malformed) {
        pull_and_restart(context, direction);
    }

    let subject = subject(context, direction, &parsed.headers);
    if let Some(reason) = parsed.refusal {
        return refuse(context, &subject, reason, &parsed.roce);
    }
    let isolated = ENDPOINT_CONFIGS
        .get(subject.port)
        .is_none_or(EndpointConfig::is_enforced);
    if isolated {
        return to_policy(context, &subject, &parsed.roce);
    }
    pass(&subject, &parsed.roce)
}

/// The way of nearly all packets: of the usual kind, to or from an endpoint
/// that no policy selects, or in a connection that policy has allowed. It
/// touches little memory, the scratch space not at all. `None` for others.
#[inline(always)]
fn usual_way(context: &TcContext, direction: Direction) -> Option<i32> {
    let config = ENDPOINT_CONFIGS.get(endpoint(context))?;
    let packet = InPlace::skb(context);
    // Parsed in each case by itself: here nothing of the headers is kept.
    if !config.is_enforced() {
        let headers = usual(&packet)?;
        let subject = subject(context, direction, &headers);
        return Some(count_passed(&subject));
    }
    let headers = usual(&packet)?;
    let subject = subject(context, direction, &headers);
    if flow::follow_established(&subject, config) {
        return Some(count_passed(&subject));
    }
    let parsed = to_scratch(headers)?;
    let subject = Subject {
        headers: &parsed.headers,
        ..subject
    };
    Some(to_policy(context, &subject, &parsed.roce))
}

/// Has policy judge the packet that `scratch` describes.
#[inline(always)]
fn to_policy(context: &TcContext, subject: &Subject<'_>, roce: &RocePacket) -> i32 {
    // SAFETY: the context is the kernel's; what is in the slot ends the
    // packet's way as this program would.
    unsafe { PIPELINE.tail_call(context, policy_stage(subject.direction)) };
    refuse(context, subject, DropReason::PipelineMissing, roce)
}

/// The slot of `pipeline` that judges a direction by policy.
#[inline(always)]
const fn policy_stage(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => stage::POLICY_INGRESS,
        Direction::Egress => stage::POLICY_EGRESS,
    }
}

/// The endpoint id that the entry program has left.
#[inline(always)]
fn endpoint(context: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's.
    unsafe { (*context.skb.skb).cb[CB_ENDPOINT] }
}

/// The packet in hand, as counters and events name it.
#[inline(always)]
pub fn subject<'a>(context: &TcContext, direction: Direction, headers: &'a Headers) -> Subject<'a> {
    // SAFETY: the context is the kernel's.
    let segments = unsafe { (*context.skb.skb).gso_segs };
    Subject {
        port: endpoint(context),
        direction,
        headers,
        packets: if segments > 1 { segments.into() } else { 1 },
        bytes: context.len().into(),
    }
}

/// Drops the packet: counts and reports it.
#[inline(always)]
pub fn refuse(
    context: &TcContext,
    subject: &Subject<'_>,
    reason: DropReason,
    roce: &RocePacket,
) -> i32 {
    count::drop(subject, reason);
    event::report(subject, EventKind::Drop, reason as u8, roce);
    log::dropped(context, subject, reason as u8);
    TC_ACT_SHOT
}

/// Lets the packet pass: counts it.
#[inline(always)]
pub fn pass(subject: &Subject<'_>, roce: &RocePacket) -> i32 {
    roce::count(subject, roce);
    count_passed(subject)
}

#[inline(always)]
fn count_passed(subject: &Subject<'_>) -> i32 {
    if let Some(counter) = EP_STATS.get_ptr_mut(ep_stats_index(subject.port, subject.direction)) {
        count::add(counter, subject.packets, subject.bytes);
    }
    // Not TC_ACT_OK: programs of others behind this one still get the packet.
    TC_ACT_UNSPEC
}

/// Where headers may lie behind the packet's linear part: brings them into it,
/// then runs the pipeline again from its start. Returns where that was done
/// already, or cannot be.
#[inline(always)]
pub fn pull_and_restart(context: &TcContext, direction: Direction) {
    let length = context.len().min(HEADERS_MAX);
    let linear = (context.data_end() - context.data()) as u32;
    if linear < length && context.skb.pull_data(length).is_ok() {
        restart(context, direction);
    }
}

/// Runs the pipeline again from its start; does not return unless its slot is
/// empty.
#[inline(always)]
fn restart(context: &TcContext, direction: Direction) {
    // SAFETY: the slot holds this very program, or its successor.
    unsafe { PIPELINE.tail_call(context, stage_of(direction)) };
}
