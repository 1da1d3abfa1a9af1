//! The tables of connections.

use core::ptr;

use aya_ebpf::bindings::BPF_ANY;
use dataplane_ebpf::abi::{
    EndpointConfig, Fault, Flow, FlowCounter, FlowKey, FlowState, FragmentKey, FragmentPass,
};

use super::{
    count,
    event::Subject,
    maps::{FLOW_STATS, FLOW_TOKENS, FLOWS, FLOWS_NEW, FRAGMENTS},
};

/// Where a connection stands. Not an `Option`: its unset half would be read.
pub struct Found {
    /// Null where it is not known.
    pub flow: *mut Flow,
    /// In `flows`; else in `flows_new`.
    pub answered: bool,
}

/// Looks a connection up. One lookup finds an established one. Those that
/// nobody has answered need not be looked for by a packet that opens one: it
/// is judged in either case, and takes the place of what is there.
#[inline(always)]
pub fn find(key: &FlowKey, among_new: bool) -> Found {
    let mut flow = FLOWS.get_ptr_mut(key).unwrap_or(ptr::null_mut());
    let answered = !flow.is_null();
    if !answered && among_new {
        flow = FLOWS_NEW.get_ptr_mut(key).unwrap_or(ptr::null_mut());
    }
    Found { flow, answered }
}

/// Enters a new connection, if its endpoint may open one more.
#[inline(always)]
pub fn enter(key: &FlowKey, flow: &Flow, config: &EndpointConfig, now_ns: u64) {
    let Some(bucket) = FLOW_TOKENS.get_ptr_mut(key.endpoint) else {
        return;
    };
    // SAFETY: from a map lookup. Two processors may race for a token; one more
    // or less does no harm.
    if !unsafe { (*bucket).take(now_ns, config.flow_rate) } {
        return count::fault(Fault::FlowsThrottled);
    }
    match FLOWS_NEW.insert(key, flow, BPF_ANY.into()) {
        Ok(()) => tell(FlowCounter::Created),
        Err(_) => count::fault(Fault::FlowsFull),
    }
}

/// Moves a connection that was answered to those that a flood cannot reach.
#[inline(always)]
pub fn promote(key: &FlowKey, flow: &Flow) {
    if FLOWS.insert(key, flow, BPF_ANY.into()).is_err() {
        return count::fault(Fault::FlowsFull);
    }
    let _ = FLOWS_NEW.remove(key);
    tell(FlowCounter::Established);
}

/// Counts a packet in its connection and brings the state up to date.
#[inline(always)]
pub fn note(flow: &mut Flow, subject: &Subject<'_>, state: FlowState, flags: u8, now_ns: u64) {
    flow.packets += subject.packets;
    flow.bytes += subject.bytes;
    flow.last_seen_ns = now_ns;
    flow.state = state.code();
    flow.flags = flags;
}

/// Counts what happened to a connection.
#[inline(always)]
pub fn tell(counter: FlowCounter) {
    if let Some(count) = FLOW_STATS.get_ptr_mut(counter as u32) {
        // SAFETY: from a map lookup, this processor's own.
        unsafe { *count += 1 };
    }
}

/// How long pieces may trail the first one: as long as a receiver waits for
/// them (RFC 8200 section 4.5).
const REASSEMBLY_NS: u64 = 60_000_000_000;

/// Remembers that a packet's first piece passed.
#[inline(always)]
pub fn admit_pieces(key: &FragmentKey, config: &EndpointConfig, now_ns: u64) {
    let pass = FragmentPass {
        time_ns: now_ns,
        policy_epoch: config.policy_epoch,
        pad: 0,
    };
    if FRAGMENTS.insert(key, pass, BPF_ANY.into()).is_err() {
        count::fault(Fault::FlowsFull);
    }
}

/// Whether the first piece passed, under the policy that is in force.
#[inline(always)]
pub fn first_piece_passed(key: &FragmentKey, config: &EndpointConfig, now_ns: u64) -> bool {
    // SAFETY: copied at once; an entry is only ever replaced whole.
    unsafe { FRAGMENTS.get(key) }.copied().is_some_and(|pass| {
        pass.policy_epoch == config.policy_epoch
            && now_ns.saturating_sub(pass.time_ns) <= REASSEMBLY_NS
    })
}
