//! The tables of connections.

use core::{mem, ptr};

use aya_ebpf::bindings::BPF_ANY;
use dataplane_ebpf::abi::{
    Direction, EndpointConfig, Fault, Flow, FlowCounter, FlowKey, FragmentJudged, FragmentKey,
    FragmentPass, Standing,
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

/// The entry may be another connection's by now: the kernel gives entries of a
/// full table away while programs look at them. So what verdicts depend on is
/// read and written as one word that says whose it is. Who overwrites the word
/// of another connection makes that one unknown, and its next packet is judged.
impl Found {
    /// What verdicts depend on, and when the last packet was seen.
    #[inline(always)]
    pub fn read(&self) -> (Standing, u64) {
        // SAFETY: from a map lookup, aligned, or null.
        match unsafe { self.flow.as_ref() } {
            Some(flow) => {
                let last_seen_ns = flow.last_seen_ns;
                (load(&raw const flow.standing), last_seen_ns)
            }
            None => (Standing::open(0, Direction::Ingress, 0), 0),
        }
    }

    /// Puts another connection in its place.
    #[inline(always)]
    pub fn replace(&self, other: &Flow) {
        // SAFETY: from a map lookup, or null.
        if let Some(flow) = unsafe { self.flow.as_mut() } {
            flow.packets = other.packets;
            flow.bytes = other.bytes;
            flow.last_seen_ns = other.last_seen_ns;
            store(&raw mut flow.standing, other.standing);
        }
    }

    /// Writes what verdicts depend on.
    #[inline(always)]
    pub fn write(&self, standing: Standing) {
        // SAFETY: from a map lookup, or null.
        if let Some(flow) = unsafe { self.flow.as_mut() } {
            store(&raw mut flow.standing, standing);
        }
    }

    /// Counts a packet and writes what verdicts depend on; gives the entry as
    /// it is then.
    #[inline(always)]
    pub fn note(&self, subject: &Subject<'_>, standing: Standing, now_ns: u64) -> Flow {
        let mut noted = Flow {
            packets: subject.packets,
            bytes: subject.bytes,
            last_seen_ns: now_ns,
            standing,
        };
        // SAFETY: from a map lookup, or null.
        if let Some(flow) = unsafe { self.flow.as_ref() } {
            noted.packets += flow.packets;
            noted.bytes += flow.bytes;
        }
        self.replace(&noted);
        noted
    }
}

/// Reads a word's worth at once.
#[inline(always)]
fn load<T: OneWord>(from: *const T) -> T {
    // SAFETY: `OneWord`; `from` is in a map's value.
    unsafe { mem::transmute_copy(&ptr::read_volatile(from.cast::<u64>())) }
}

/// Writes a word's worth at once.
#[inline(always)]
fn store<T: OneWord>(to: *mut T, value: T) {
    // SAFETY: `OneWord`; `to` is in a map's value.
    unsafe { ptr::write_volatile(to.cast::<u64>(), mem::transmute_copy(&value)) }
}

/// # Safety
/// Has size and alignment of a `u64`, no padding, and no value that programs
/// do not write.
unsafe trait OneWord: Copy {}

// SAFETY: eight bytes, aligned to eight, all of them fields.
unsafe impl OneWord for Standing {}
// SAFETY: the same.
unsafe impl OneWord for FragmentJudged {}

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
pub fn admit_pieces(key: &FragmentKey, policy_epoch: u32, now_ns: u64) {
    let pass = FragmentPass {
        time_ns: now_ns,
        judged: FragmentJudged {
            policy_epoch,
            check: key.check(),
        },
    };
    if FRAGMENTS.insert(key, pass, BPF_ANY.into()).is_err() {
        count::fault(Fault::FlowsFull);
    }
}

/// Whether the first piece passed, under the policy that is in force.
#[inline(always)]
pub fn first_piece_passed(key: &FragmentKey, policy_epoch: u32, now_ns: u64) -> bool {
    // SAFETY: read at once.
    let Some(pass) = (unsafe { FRAGMENTS.get(key) }) else {
        return false;
    };
    let age = now_ns.saturating_sub(pass.time_ns);
    // As a connection's, the entry may be another packet's by now.
    let judged = load(&raw const pass.judged);
    judged.policy_epoch == policy_epoch && judged.check == key.check() && age <= REASSEMBLY_NS
}
