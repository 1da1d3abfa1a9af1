//! Events for the agent, as many as the endpoint's token bucket allows.

use dataplane_ebpf::{
    abi::{Direction, Event, EventKind, Fault, UPLINK_BIT},
    parse::Headers,
    roce::RocePacket,
};

use super::{
    clock::monotonic_ns,
    count::fault,
    maps::{ENDPOINT_CONFIGS, EVENT_TOKENS, EVENTS},
};

/// A packet under judgement: what counters and events say of it.
pub struct Subject<'a> {
    /// Endpoint id, or an uplink's port id.
    pub port: u32,
    pub direction: Direction,
    pub headers: &'a Headers,
    pub packets: u64,
    pub bytes: u64,
}

/// Reports what happened to a packet.
#[inline(always)]
pub fn report(subject: &Subject<'_>, kind: EventKind, code: u8, roce: &RocePacket) {
    // Uplinks have no bucket: their drops are counted, not told one by one.
    if subject.port & UPLINK_BIT != 0 {
        return;
    }
    let now = monotonic_ns();
    if !granted(subject.port, now) {
        return fault(Fault::EventsThrottled);
    }
    let Some(mut record) = EVENTS.reserve_untyped::<Event>(0) else {
        return fault(Fault::EventsFull);
    };
    let headers = subject.headers;
    record.write(Event {
        time_ns: now,
        source: headers.source,
        destination: headers.destination,
        port: subject.port,
        length: subject.bytes as u32,
        destination_qp: roce.destination_qp,
        psn: roce.psn,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        ether_type: headers.ether_type,
        protocol: headers.protocol,
        kind: kind as u8,
        code,
        direction: subject.direction as u8,
        pad: [0; 6],
    });
    record.submit(0);
}

/// Takes a token of the endpoint's bucket. Two processors may race for the
/// last one; an event more or less does no harm.
#[inline(always)]
fn granted(endpoint: u32, now_ns: u64) -> bool {
    let Some(config) = ENDPOINT_CONFIGS.get(endpoint) else {
        return false;
    };
    let Some(bucket) = EVENT_TOKENS.get_ptr_mut(endpoint) else {
        return false;
    };
    // SAFETY: the bucket comes from a map lookup.
    unsafe { (*bucket).take(now_ns, config.event_rate) }
}
