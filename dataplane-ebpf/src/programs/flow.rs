//! The tables of connections.

use core::{mem, ptr};

use aya_ebpf::bindings::BPF_ANY;
use dataplane_ebpf::{
    abi::{
        Direction, EndpointConfig, FLOW_CREDIT, Fault, Flow, FlowCounter, FlowKey, FlowState,
        FragmentJudged, FragmentKey, FragmentPass, Standing,
    },
    flow::{self, Role},
    parse::tcp,
};

use super::{
    clock::now_ns,
    count,
    event::Subject,
    maps::{FLOW_CREDITS, FLOW_STATS, FLOW_TOKENS, FLOWS, FLOWS_NEW, FRAGMENTS},
};

/// Where a connection stands. Not an `Option`: its unset half would be read.
pub struct Found {
    /// Null where it is not known.
    pub flow: *mut Flow,
    /// In `flows`; else in `flows_new`.
    pub kept: bool,
}

/// The entry may be another connection's by now: the kernel gives entries of a
/// full table away while programs look at them. So what verdicts depend on is
/// read and written as one word that says whose it is. Who overwrites the word
/// of another connection makes that one unknown, and its next packet is judged.
impl Found {
    /// What verdicts depend on, and when the last packet was seen.
    #[inline(always)]
    fn read(&self) -> (Standing, u64) {
        // SAFETY: from a map lookup, aligned, or null.
        match unsafe { self.flow.as_ref() } {
            Some(flow) => {
                let last_seen_ns = flow.last_seen_ns;
                (load(&raw const flow.standing), last_seen_ns)
            }
            None => (Standing::open(0, Direction::Ingress, 0), 0),
        }
    }

    /// What is known of a connection, and whether anything is.
    #[inline(always)]
    pub fn standing(
        &self,
        key: &FlowKey,
        config: &EndpointConfig,
        now_ns: u64,
    ) -> (Standing, bool) {
        let (standing, last_seen_ns) = self.read();
        let first = config.first_epoch;
        let known = !self.flow.is_null()
            && standing.check == key.check()
            && standing.is_live(standing.state, key.protocol, first, last_seen_ns, now_ns);
        (standing, known)
    }

    /// Counts a packet of a connection that stands so, and takes the state on;
    /// gives the entry as it is then.
    ///
    /// Packets of the other direction may be handled by another processor at the
    /// same time: what is lost then is a count, or the step of a state that the
    /// next packet takes again.
    #[inline(always)]
    pub fn follow(
        &self,
        key: &FlowKey,
        subject: &Subject<'_>,
        mut standing: Standing,
        now_ns: u64,
    ) -> Flow {
        let from_initiator = standing.initiator() == subject.direction;
        let before = standing.state;
        (standing.state, standing.flags) = standing.after(
            before,
            key.protocol,
            subject.headers.tcp_flags,
            from_initiator,
        );
        let flow = self.note(subject, standing, now_ns);
        let answered = matches!(standing.state, FlowState::Established);
        // Where there was no room for it when it was answered, it is tried again.
        if answered && (!self.kept || matches!(before, FlowState::New)) {
            self.keep(key, &flow);
        }
        flow
    }

    /// Puts a connection that was just answered where a flood cannot reach it, or
    /// lets its endpoint open another one there.
    #[inline(always)]
    fn keep(&self, key: &FlowKey, flow: &Flow) {
        if self.kept {
            tell(FlowCounter::Established);
            if let Some(credit) = FLOW_CREDITS.get_ptr_mut(key.endpoint) {
                // SAFETY: as in `enter`.
                unsafe { (*credit).give_back(FLOW_CREDIT) };
            }
            return;
        }
        if FLOWS.insert(key, flow, BPF_ANY.into()).is_err() {
            return count::fault(Fault::FlowsFull);
        }
        let _ = FLOWS_NEW.remove(key);
        tell(FlowCounter::Established);
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
    fn note(&self, subject: &Subject<'_>, standing: Standing, now_ns: u64) -> Flow {
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

/// Looks a connection up. One lookup finds an established one. Those in
/// `flows_new` need not be looked for by a packet that opens one: it is judged in
/// either case, and takes the place of what is there.
#[inline(always)]
pub fn find(key: &FlowKey, role: Role) -> Found {
    let look = |kept| Found {
        flow: if kept {
            FLOWS.get_ptr_mut(key)
        } else {
            FLOWS_NEW.get_ptr_mut(key)
        }
        .unwrap_or(ptr::null_mut()),
        kept,
    };
    let first = look(true);
    if !first.flow.is_null() || matches!(role, Role::Opens) {
        return first;
    }
    look(false)
}

/// Counts a packet of the usual kind in its connection, where that is in `flows`
/// and the policy in force allows it. Else, and where the packet may open
/// another connection, `false`: policy has to judge.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key is too large to be moved about on the stack"
)]
pub fn follow_established(subject: &Subject<'_>, config: &EndpointConfig) -> bool {
    let headers = subject.headers;
    // A SYN that acknowledges opens nothing.
    if headers.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN {
        return false;
    }
    let key = flow::key(headers, subject.direction, subject.port, 0, false);
    let found = Found {
        flow: FLOWS.get_ptr_mut(&key).unwrap_or(ptr::null_mut()),
        kept: true,
    };
    if found.flow.is_null() {
        return false;
    }
    let now = now_ns();
    let (standing, known) = found.standing(&key, config, now);
    let allowed = known && standing.policy_epoch == config.policy_epoch && !standing.is_refused();
    if allowed {
        found.follow(&key, subject, standing, now);
    }
    allowed
}

/// Enters a new connection, if its endpoint may open one more: in `flows` at once
/// as long as the endpoint's connections are answered, so that it need not move
/// there when this one is.
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
    let entered = if !flow.standing.is_refused() && is_trusted(key.endpoint, now_ns) {
        FLOWS.insert(key, flow, BPF_ANY.into())
    } else {
        FLOWS_NEW.insert(key, flow, BPF_ANY.into())
    };
    match entered {
        Ok(()) => tell(FlowCounter::Created),
        Err(_) => count::fault(Fault::FlowsFull),
    }
}

/// Whether one more connection of the endpoint may wait in `flows` for its first
/// answer.
#[inline(always)]
fn is_trusted(endpoint: u32, now_ns: u64) -> bool {
    let Some(credit) = FLOW_CREDITS.get_ptr_mut(endpoint) else {
        return false;
    };
    // A clock that many times slower refills the bucket by one token a second.
    // SAFETY: as in `enter`.
    unsafe { (*credit).take(now_ns / u64::from(FLOW_CREDIT), FLOW_CREDIT) }
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
