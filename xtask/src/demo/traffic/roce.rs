//! Packets in the shape of RoCEv2, sent through ordinary UDP sockets.
//!
//! No RDMA device takes part: this plays both ends of a reliable connection, with the headers,
//! lengths and packet sequence numbers (PSN) that devices would send. Only the invariant CRC is
//! left zero, since it covers fields that the kernel fills in.
//!
//! Source: InfiniBand Architecture Specification volume 1, chapter 9, and annex A17 (RoCEv2).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt::Ipv4Tos};

use self::opcode::Opcode;
use super::{Flow, udp::receive};
use crate::demo::topology::{self, Pod};

/// UDP destination port (IANA).
const PORT: u16 = 4791;
/// Payload of a full packet, in bytes: the connection's path MTU.
const PATH_MTU: usize = 1024;
/// "ECN capable", as senders mark their packets (RFC 3168).
const ECT: i32 = 0b10;
/// "Congestion experienced", as a switch marks them.
const CE: i32 = 0b11;

/// Opcodes of a reliable connection, with the name that Sluice counts each under.
mod opcode {
    pub(super) type Opcode = (u8, &'static str);
    /// Names that are marks of a packet besides its operation, or no packets at all.
    pub(super) const MARKS: [&str; 7] = [
        "ce_marked",
        "rnr_nak",
        "nak_sequence",
        "nak_remote_access",
        "duplicate",
        "gap",
        "missing",
    ];
    pub(super) const SEND_FIRST: Opcode = (0x00, "send");
    pub(super) const SEND_LAST: Opcode = (0x02, "send");
    pub(super) const SEND_ONLY: Opcode = (0x04, "send");
    pub(super) const WRITE_ONLY: Opcode = (0x0a, "write");
    pub(super) const READ_REQUEST: Opcode = (0x0c, "read_request");
    pub(super) const READ_RESPONSE_FIRST: Opcode = (0x0d, "read_response");
    pub(super) const READ_RESPONSE_MIDDLE: Opcode = (0x0e, "read_response");
    pub(super) const READ_RESPONSE_LAST: Opcode = (0x0f, "read_response");
    pub(super) const ACK: Opcode = (0x11, "ack");
    pub(super) const ATOMIC_ACK: Opcode = (0x12, "atomic_ack");
    pub(super) const FETCH_AND_ADD: Opcode = (0x14, "atomic");
    pub(super) const CNP: Opcode = (0x81, "cnp");
}

/// AETH syndromes.
mod syndrome {
    /// Acknowledged, no limit on further requests.
    pub(super) const ACK: u8 = 0x1f;
    /// Receiver not ready, try again after 0.64 ms.
    pub(super) const NOT_READY: u8 = 0x20 | 12;
    /// PSN sequence error.
    pub(super) const SEQUENCE: u8 = 0x60;
    /// Remote access error.
    pub(super) const ACCESS: u8 = 0x62;
}

/// What was sent, by the name under which Sluice counts it: packets of the requester and packets of
/// the responder. The truth that Sluice's counters are held against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::demo) struct Ledger(BTreeMap<&'static str, [u64; 2]>);

impl Ledger {
    fn add(&mut self, kind: &'static str, from: From, packets: u64) {
        self.0.entry(kind).or_default()[from as usize] += packets;
    }

    /// Kind, packets of the requester, packets of the responder.
    pub(in crate::demo) fn rows(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        self.0
            .iter()
            .map(|(kind, [there, back])| (*kind, *there, *back))
    }

    /// The rows that are operations: each packet is in exactly one.
    pub(in crate::demo) fn operations(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        self.rows()
            .filter(|(kind, ..)| !opcode::MARKS.contains(kind))
    }

    /// Adds another's entries.
    pub(in crate::demo) fn merge(&mut self, other: &Self) {
        for (kind, there, back) in other.rows() {
            self.add(kind, From::Requester, there);
            self.add(kind, From::Responder, back);
        }
    }
}

#[derive(Clone, Copy)]
enum From {
    Requester = 0,
    Responder = 1,
}

/// One end: packets go out from a port that tells flows apart, and come in at RoCE's own.
struct End {
    out: UdpSocket,
    inbound: UdpSocket,
    address: Ipv4Addr,
    /// Its queue pair's number.
    qp: u32,
}

impl End {
    fn open(pod: &Pod, qp: u32) -> Result<Self> {
        let end = Self {
            out: pod.namespace.udp(topology::any(IpAddr::V4(pod.v4)))?,
            inbound: pod.namespace.udp((pod.v4, PORT).into())?,
            address: pod.v4,
            qp,
        };
        end.mark(ECT)?;
        Ok(end)
    }

    /// Sets the ECN bits of what goes out from now on.
    fn mark(&self, ecn: i32) -> Result<()> {
        setsockopt(&self.out, Ipv4Tos, &ecn).context("cannot set the ECN bits of a socket")
    }
}

/// A reliable connection between two pods.
pub(in crate::demo) struct Conversation {
    requester: End,
    responder: End,
    /// The requester's next PSN; responses carry the PSN that they answer.
    psn: u32,
    ledger: Ledger,
}

impl Conversation {
    /// Connects a new pair of queue pairs, whose numbers follow from `qp`.
    ///
    /// # Errors
    /// The sockets cannot be had.
    pub(in crate::demo) fn open(requester: &Pod, responder: &Pod, qp: u32) -> Result<Self> {
        Ok(Self {
            requester: End::open(requester, qp)?,
            responder: End::open(responder, qp + 1)?,
            // Wraps around soon, as PSNs do.
            psn: 0x00ff_fff0,
            ledger: Ledger::default(),
        })
    }

    /// What was sent so far.
    pub(in crate::demo) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Has exchanges again and again, `pause` apart, with some congestion now and then.
    pub(in crate::demo) fn flow(mut self, label: &str, pause: Duration) -> Flow<Ledger> {
        Flow::start(label.to_owned(), move |stop| {
            for round in 1_u64.. {
                if stop.requested() {
                    break;
                }
                self.exchange()?;
                if round.is_multiple_of(20) {
                    self.congestion(4, 1)?;
                }
                thread::sleep(pause);
            }
            Ok(self.ledger)
        })
    }

    /// Every kind of operation once: SEND of two packets, WRITE, READ of four, an atomic.
    ///
    /// # Errors
    /// A packet is lost.
    pub(in crate::demo) fn exchange(&mut self) -> Result<()> {
        self.request(opcode::SEND_FIRST, &[], PATH_MTU)?;
        self.request(opcode::SEND_LAST, &[], 512)?;
        self.acknowledge(syndrome::ACK, 1)?;

        self.request(opcode::WRITE_ONLY, &reth(PATH_MTU), PATH_MTU)?;
        self.acknowledge(syndrome::ACK, 1)?;

        let first = self.psn;
        self.request(opcode::READ_REQUEST, &reth(4 * PATH_MTU), 0)?;
        // A READ takes as many PSNs as its response has packets.
        self.psn = next(first, 4);
        let aeth = aeth(syndrome::ACK);
        self.respond(opcode::READ_RESPONSE_FIRST, first, &aeth, PATH_MTU)?;
        self.respond(opcode::READ_RESPONSE_MIDDLE, next(first, 1), &[], PATH_MTU)?;
        self.respond(opcode::READ_RESPONSE_MIDDLE, next(first, 2), &[], PATH_MTU)?;
        self.respond(opcode::READ_RESPONSE_LAST, next(first, 3), &aeth, PATH_MTU)?;

        let psn = self.psn;
        // AtomicETH: virtual address 8, R_Key 4, operands 16.
        self.request(opcode::FETCH_AND_ADD, &[0; 28], 0)?;
        // AETH, then the old value.
        let answer = [&aeth[..], &[0; 8]].concat();
        self.respond(opcode::ATOMIC_ACK, psn, &answer, 0)
    }

    /// A switch marks some of the requester's packets; the responder notifies it.
    ///
    /// # Errors
    /// A packet is lost.
    pub(in crate::demo) fn congestion(&mut self, marked: u64, notified: u64) -> Result<()> {
        self.requester.mark(CE)?;
        for _ in 0..marked {
            self.request(opcode::SEND_ONLY, &[], PATH_MTU)?;
        }
        self.requester.mark(ECT)?;
        self.ledger.add("ce_marked", From::Requester, marked);
        for _ in 0..notified {
            // Sixteen reserved bytes follow the header.
            self.respond(opcode::CNP, 0, &[0; 16], 0)?;
        }
        Ok(())
    }

    /// `lost` packets get lost on the way. The responder notices at the next one and says so, and
    /// the requester sends all of them once more.
    ///
    /// # Errors
    /// A packet is lost that should not be.
    pub(in crate::demo) fn loss(&mut self, lost: u32) -> Result<()> {
        self.request(opcode::SEND_ONLY, &[], 256)?;
        let missing = self.psn;
        self.psn = next(missing, lost);
        self.request(opcode::SEND_ONLY, &[], 256)?;
        self.ledger.add("gap", From::Requester, 1);
        self.ledger.add("missing", From::Requester, lost.into());
        self.respond(opcode::ACK, missing, &aeth(syndrome::SEQUENCE), 0)?;
        self.ledger.add("nak_sequence", From::Responder, 1);
        self.psn = missing;
        for _ in 0..=lost {
            self.request(opcode::SEND_ONLY, &[], 256)?;
        }
        self.ledger
            .add("duplicate", From::Requester, u64::from(lost) + 1);
        self.acknowledge(syndrome::ACK, 1)
    }

    /// The responder has no buffer ready, then refuses a WRITE to memory that is not the
    /// requester's.
    ///
    /// # Errors
    /// A packet is lost.
    pub(in crate::demo) fn refusals(&mut self) -> Result<()> {
        self.request(opcode::SEND_ONLY, &[], 256)?;
        self.acknowledge(syndrome::NOT_READY, 1)?;
        self.ledger.add("rnr_nak", From::Responder, 1);
        self.request(opcode::WRITE_ONLY, &reth(256), 256)?;
        self.acknowledge(syndrome::ACCESS, 1)?;
        self.ledger.add("nak_remote_access", From::Responder, 1);
        Ok(())
    }

    /// Answers the request `back` PSNs ago.
    fn acknowledge(&mut self, syndrome: u8, back: u32) -> Result<()> {
        let psn = next(self.psn, back.wrapping_neg());
        self.respond(opcode::ACK, psn, &aeth(syndrome), 0)
    }

    /// Sends the next request; its PSN is used up.
    fn request(&mut self, opcode: Opcode, extended: &[u8], payload: usize) -> Result<()> {
        let bytes = packet(opcode, self.responder.qp, self.psn, extended, payload);
        deliver(&self.requester, &self.responder, &bytes)?;
        self.psn = next(self.psn, 1);
        self.ledger.add(opcode.1, From::Requester, 1);
        Ok(())
    }

    fn respond(&mut self, opcode: Opcode, psn: u32, extended: &[u8], payload: usize) -> Result<()> {
        let bytes = packet(opcode, self.requester.qp, psn, extended, payload);
        deliver(&self.responder, &self.requester, &bytes)?;
        self.ledger.add(opcode.1, From::Responder, 1);
        Ok(())
    }
}

fn deliver(from: &End, to: &End, bytes: &[u8]) -> Result<()> {
    from.out
        .send_to(bytes, (to.address, PORT))
        .context("cannot send a RoCE packet")?;
    receive(&to.inbound, bytes).map(drop)
}

/// PSNs count modulo 2^24.
fn next(psn: u32, by: u32) -> u32 {
    psn.wrapping_add(by) & 0x00ff_ffff
}

/// RETH: virtual address 8, R_Key 4, DMA length 4.
fn reth(length: usize) -> [u8; 16] {
    let mut header = [0; 16];
    header[12..].copy_from_slice(&(length as u32).to_be_bytes());
    header
}

/// AETH: syndrome 1, message sequence number 3.
fn aeth(syndrome: u8) -> [u8; 4] {
    [syndrome, 0, 0, 1]
}

/// BTH, extended headers, payload, and the place of the ICRC.
fn packet(
    (opcode, kind): Opcode,
    destination_qp: u32,
    psn: u32,
    extended: &[u8],
    payload: usize,
) -> Vec<u8> {
    // A notification sets BECN, the second bit of the word.
    let becn = if kind == "cnp" { 1 << 30 } else { 0 };
    let mut bytes = vec![opcode, 0, 0xff, 0xff];
    bytes.extend((becn | destination_qp).to_be_bytes());
    bytes.extend(psn.to_be_bytes());
    bytes.extend(extended);
    bytes.resize(bytes.len() + payload + 4, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_lengths_of_the_specification() {
        // UDP's 8 bytes and IPv4's 20 come on top: a notification is 60 bytes of IPv4.
        assert_eq!(packet(opcode::CNP, 5, 0, &[0; 16], 0).len() + 28, 60);
        let read = packet(opcode::READ_REQUEST, 0x0012_3456, 7, &reth(4096), 0);
        assert_eq!(read.len(), 12 + 16 + 4);
        assert_eq!(
            read[..12],
            [0x0c, 0, 0xff, 0xff, 0, 0x12, 0x34, 0x56, 0, 0, 0, 7]
        );
        assert_eq!(read[24..28], [0, 0, 0x10, 0]);
    }

    #[test]
    fn psns_wrap_both_ways() {
        assert_eq!(next(0x00ff_ffff, 1), 0);
        assert_eq!(next(0, 1_u32.wrapping_neg()), 0x00ff_ffff);
    }
}
