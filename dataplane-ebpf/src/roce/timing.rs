//! How long requests wait for their answers.
//!
//! A request and its answer carry the same PSN, in opposite directions between
//! the same addresses. One PSN in [`ONE_IN`] is timed: when a request with such
//! a PSN passes, the time goes into a slot of `roce_requests`; when its answer
//! passes, the difference goes to the answer's flow, with the queue pair that
//! the request was for, which no answer names. Which PSNs are timed follows from
//! the PSN alone, so that both sides agree without a word.
//!
//! - A retransmitted request is not timed: which of the two was answered cannot
//!   be told (Karn and Partridge, 1987).
//! - One acknowledgement may be for several requests; it carries the PSN of the
//!   last, so only that one counts. A READ is answered by the first packet of
//!   its response.
//! - A slot that another request needs is given to it; the former is not timed.

use super::{Kind, Order, RocePacket, Transport};
use crate::abi::{Address, ROCE_REQUESTS, RoceFlow, RoceRequest};

/// So many PSNs are there for each that is timed. An exact clock costs as much
/// as half of all else that is done for a packet.
pub const ONE_IN: u32 = 32;

/// Longer ago than any request waits: the time was left by another.
const FORGOTTEN_NS: u64 = 10_000_000_000;

/// Multiplying by it spreads numbers that follow each other evenly (2^32 over
/// the golden ratio, made odd).
const SPREAD: u32 = 0x9e37_79b1;

/// Whether requests with this PSN, and their answers, are timed. By chance, so
/// to speak, so that no distance between the PSNs that an application's messages
/// end with escapes.
#[inline(always)]
pub const fn is_timed(psn: u32) -> bool {
    let mixed = psn.wrapping_mul(SPREAD);
    (mixed ^ mixed >> 15).wrapping_mul(SPREAD) < u32::MAX / ONE_IN
}

/// What a packet is in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Neither.
    None,
    /// It will be answered.
    Request,
    /// It answers, and not with a refusal.
    Answer,
}

/// A packet's role. Unreliable connections answer nothing; of others nothing
/// tells which request an answer is for.
#[inline(always)]
pub const fn role(packet: &RocePacket) -> Role {
    match packet.transport {
        Transport::Rc | Transport::Xrc => {}
        _ => return Role::None,
    }
    if packet.sequenced {
        return Role::Request;
    }
    match packet.kind {
        Kind::ReadResponse | Kind::Ack | Kind::AtomicAck if packet.mark.is_none() => Role::Answer,
        _ => Role::None,
    }
}

/// A number that request and answer share and hardly any other.
#[inline(always)]
pub fn exchange(port: u32, requester: &Address, responder: &Address, psn: u32) -> u32 {
    let mut hash = psn ^ port.rotate_left(8);
    let mut i = 0;
    while i < 4 {
        hash = (hash ^ requester.words[i]).wrapping_mul(SPREAD);
        hash = (hash.rotate_left(15) ^ responder.words[i]).wrapping_mul(SPREAD);
        i += 1;
    }
    hash ^ hash >> 15
}

/// The exchange's place in `roce_requests`.
#[inline(always)]
pub const fn slot(exchange: u32) -> u32 {
    exchange % ROCE_REQUESTS
}

/// A request to `destination_qp` passes.
#[inline(always)]
pub fn request(
    slot: &mut RoceRequest,
    exchange: u32,
    destination_qp: u32,
    order: Order,
    now_ns: u64,
) {
    let again = matches!(order, Order::Duplicate);
    if again && slot.exchange != exchange {
        return;
    }
    *slot = RoceRequest {
        time_ns: if again { 0 } else { now_ns },
        exchange,
        destination_qp,
    };
}

/// An answer passes, in the flow `flow`.
#[inline(always)]
pub fn answer(slot: &mut RoceRequest, exchange: u32, flow: &mut RoceFlow, now_ns: u64) {
    let waited = now_ns.wrapping_sub(slot.time_ns);
    if slot.exchange != exchange || slot.time_ns == 0 || waited > FORGOTTEN_NS {
        return;
    }
    slot.time_ns = 0;
    flow.answers_timed += 1;
    flow.answer_time_ns += waited;
    if waited > flow.answer_time_longest_ns {
        flow.answer_time_longest_ns = waited;
    }
    flow.answering_qp = slot.destination_qp;
}
