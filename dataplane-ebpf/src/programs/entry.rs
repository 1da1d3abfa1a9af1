//! The entry programs, one pair an endpoint. They hold what belongs to one
//! endpoint, its id, and nothing that an upgrade would change.

use aya_ebpf::{
    Global,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use dataplane_ebpf::{
    abi::{CB_ENDPOINT, CB_SEEN, Direction, DropReason, seen, stage},
    parse::Headers,
};

use super::{count, event::Subject, maps::PIPELINE};

/// The endpoint's id, written by the agent before it loads the program.
#[unsafe(no_mangle)]
static ENDPOINT_ID: Global<u32> = Global::new(0);

/// To the pod.
#[classifier]
pub fn entry_ingress(context: TcContext) -> i32 {
    enter(&context, Direction::Ingress)
}

/// From the pod.
#[classifier]
pub fn entry_egress(context: TcContext) -> i32 {
    enter(&context, Direction::Egress)
}

/// Stands in for [`entry_ingress`] on clsact, which runs after TCX, until that
/// one is in place. The same program serves every endpoint: the kernel passes
/// on the class that the filter was given, the endpoint's id.
#[classifier]
pub fn standin_ingress(context: TcContext) -> i32 {
    stand_in(&context, Direction::Ingress)
}

/// As [`standin_ingress`], for packets from the pod.
#[classifier]
pub fn standin_egress(context: TcContext) -> i32 {
    stand_in(&context, Direction::Egress)
}

/// A packet that the entry program on TCX has seen is judged and counted: while
/// both are there, each packet is still seen exactly once.
#[inline(always)]
fn stand_in(context: &TcContext, direction: Direction) -> i32 {
    // SAFETY: the context is the kernel's.
    let (endpoint, mark) = unsafe {
        let skb = context.skb.skb;
        ((*skb).tc_classid, (*skb).cb[CB_SEEN])
    };
    if mark == seen(endpoint, direction) {
        return TC_ACT_UNSPEC;
    }
    enter_as(endpoint, context, direction)
}

#[inline(always)]
fn enter(context: &TcContext, direction: Direction) -> i32 {
    enter_as(ENDPOINT_ID.load(), context, direction)
}

#[inline(always)]
fn enter_as(endpoint: u32, context: &TcContext, direction: Direction) -> i32 {
    // SAFETY: the context is the kernel's and `cb` is the program's to write;
    // the tail call does not return when it succeeds.
    unsafe {
        (*context.skb.skb).cb[CB_ENDPOINT] = endpoint;
        (*context.skb.skb).cb[CB_SEEN] = seen(endpoint, direction);
        PIPELINE.tail_call(context, stage_of(direction));
    }
    // Nothing is there to judge the packet: it does not pass.
    let subject = Subject {
        port: endpoint,
        direction,
        headers: &Headers::default(),
        packets: 1,
        bytes: context.len().into(),
    };
    count::drop(&subject, DropReason::PipelineMissing);
    TC_ACT_SHOT
}

/// The slot of `pipeline` for a direction.
#[inline(always)]
pub const fn stage_of(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => stage::INGRESS,
        Direction::Egress => stage::EGRESS,
    }
}
