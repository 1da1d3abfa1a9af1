//! The tables of connections.

use core::ptr;

use aya_ebpf::bindings::BPF_ANY;
use dataplane_ebpf::{
    abi::{
        EndpointConfig, Fault, Flow, FlowCounter, FlowKey, FlowState, FragmentKey, FragmentPass,
    },
    flow::{self, Role},
    parse::tcp,
};

use super::{
    clock::now_ns,
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

/// Looks a connection up, where a packet of that role most likely finds it. One
/// lookup finds an established one. Those that nobody has answered need not be
/// looked for by a packet that opens one: it is judged in either case, and takes
/// the place of what is there.
#[inline(always)]
pub fn find(key: &FlowKey, role: Role) -> Found {
    let look = |answered| Found {
        flow: if answered {
            FLOWS.get_ptr_mut(key)
        } else {
            FLOWS_NEW.get_ptr_mut(key)
        }
        .unwrap_or(ptr::null_mut()),
        answered,
    };
    let first = look(!matches!(role, Role::Answers));
    if !first.flow.is_null() || matches!(role, Role::Opens) {
        return first;
    }
    look(!first.answered)
}

/// Counts a packet of the usual kind in its connection, where both sides have
/// spoken and the policy in force allows it. Else, and where the packet may
/// open another connection, `false`: policy has to judge.
#[inline(always)]
pub fn follow_established(subject: &Subject<'_>, config: &EndpointConfig) -> bool {
    let headers = subject.headers;
    if headers.tcp_flags & tcp::SYN != 0 {
        return false;
    }
    let key = flow::key(headers, subject.direction, subject.port, 0, false);
    let Some(flow) = FLOWS.get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: from a map lookup. Packets of the other direction may be handled
    // by another processor at the same time: what is lost then is a count, or
    // the step of a state that the next packet takes again.
    let flow = unsafe { &mut *flow };
    let now = now_ns();
    if flow.policy_epoch != config.policy_epoch
        || flow.flags & Flow::REFUSED != 0
        || !flow.is_live(flow.state, key.protocol, config.first_epoch, now)
    {
        return false;
    }
    step(flow, subject, key.protocol, now);
    true
}

/// Counts a packet in its connection and brings the state up to date.
#[inline(always)]
pub fn step(flow: &mut Flow, subject: &Subject<'_>, protocol: u8, now_ns: u64) -> FlowState {
    let from_initiator = flow.initiator == subject.direction;
    let (state, flags) = flow.after(
        flow.state,
        protocol,
        subject.headers.tcp_flags,
        from_initiator,
    );
    flow.packets += subject.packets;
    flow.bytes += subject.bytes;
    flow.last_seen_ns = now_ns;
    flow.state = state.code();
    flow.flags = flags;
    state
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
