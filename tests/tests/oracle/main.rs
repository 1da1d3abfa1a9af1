//! RoCE packets made with scapy, counted by the programs in the kernel, and read by tshark: what
//! tshark sees and what was counted must agree packet for packet.
//!
//! Neither scapy nor tshark knows every opcode. Where tshark has no name for one, scapy's counts;
//! where neither has (extended reliable connections, FLUSH, ATOMIC WRITE), the fields are compared
//! and the operation is not. tshark takes the opcodes of reliable datagrams for those of a
//! manufacturer's transport with other headers: of them, only complete packets are compared.

mod tshark;

use std::{collections::BTreeMap, env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use dataplane_ebpf::{
    abi::{Direction, DropReason, RoceFlow, UPLINK_BIT, UplinkCounter},
    roce::{Kind, Transport},
};
use sluice_tests::{
    counters::{Counters, roce_flows},
    harness::{ENDPOINT, Programs, UPLINK, runs_at_tc},
    netns::output,
};
use tshark::{Bth, Reading};

/// Frames made with scapy.
struct Made {
    /// scapy's names of the opcodes, where it has one.
    names: Vec<Option<String>>,
    frames: Vec<Vec<u8>>,
}

/// Frames made with scapy, so many at least.
fn made(what: &str, least: usize) -> Result<Made> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/roce.py");
    let python = env::var_os("SLUICE_PYTHON").unwrap_or_else(|| "python3".into());
    let text = output(Command::new(python).arg(script).arg(what))?;
    let mut names = Vec::new();
    let mut frames = Vec::new();
    for line in text.lines() {
        let (name, frame) = line.split_once(' ').context("a line without a frame")?;
        names.push((name != "-").then(|| name.to_owned()));
        let octets = frame.as_bytes().chunks(2).map(|pair| {
            let digits = std::str::from_utf8(pair)?;
            Ok(u8::from_str_radix(digits, 16)?)
        });
        frames.push(octets.collect::<Result<Vec<_>>>()?);
    }
    ensure!(frames.len() >= least, "scapy made {} frames", frames.len());
    Ok(Made { names, frames })
}

/// What a frame must count as.
#[derive(Debug)]
enum Expected {
    Dropped(DropReason),
    /// On RoCE's port or ethertype, and not all of a RoCE packet.
    Malformed,
    Roce(Bth),
}

fn expected(reading: &Reading, has_crc: bool) -> Result<Expected> {
    let complains = |words: &[&str]| {
        let mut words = words.iter();
        words.any(|words| reading.complaints.contains(words))
    };
    if complains(&["Malformed Packet: VLAN", "Malformed Packet: IEEE 802.1AD"]) {
        return Ok(Expected::Dropped(DropReason::VlanTruncated));
    }
    if complains(&["Malformed Packet: IPv4", "IPv4 total length exceeds"]) {
        return Ok(Expected::Dropped(DropReason::Ipv4Truncated));
    }
    if complains(&[
        "Malformed Packet: IPv6",
        "IPv6 header must be exactly 40 bytes",
        "IPv6 payload length exceeds",
    ]) {
        return Ok(Expected::Dropped(DropReason::Ipv6Truncated));
    }
    let is_v1 = reading.protocols.contains("ethertype:infiniband");
    ensure!(is_v1 || reading.port == Some(4791), "no RoCE: {reading:?}");
    match reading.bth {
        // Complete, as they are made here; tshark cannot tell.
        Some(bth) if !knows_headers(reading, bth) => Ok(Expected::Roce(bth)),
        Some(bth) if has_crc && has_headers(reading) => Ok(Expected::Roce(bth)),
        _ => Ok(Expected::Malformed),
    }
}

/// Whether all headers of the RoCE packet are there.
fn has_headers(reading: &Reading) -> bool {
    reading.bth.is_some() && !reading.complaints.contains("Malformed Packet: IB")
}

/// Whether tshark knows what comes behind the BTH of this opcode.
fn knows_headers(reading: &Reading, bth: Bth) -> bool {
    transport(bth.opcode) != Transport::Rd && !reading.info.contains("Unknown OpCode")
}

fn transport(opcode: u8) -> Transport {
    match opcode >> 5 {
        0 => Transport::Rc,
        1 => Transport::Uc,
        2 => Transport::Rd,
        3 => Transport::Ud,
        4 => Transport::Cnp,
        5 => Transport::Xrc,
        _ => Transport::Manufacturer,
    }
}

/// The operation that the words of tshark or scapy mean.
fn operation(words: &str) -> Result<Kind> {
    let words = words.to_uppercase().replace('_', " ");
    let table = [
        ("READ REQUEST", Kind::ReadRequest),
        ("READ RESPONSE", Kind::ReadResponse),
        ("WRITE", Kind::Write),
        ("SEND", Kind::Send),
        ("ATOMIC ACKNOWLEDGE", Kind::AtomicAck),
        ("ACKNOWLEDGE", Kind::Ack),
        ("COMPARE SWAP", Kind::Atomic),
        ("FETCH ADD", Kind::Atomic),
        ("CNP", Kind::Cnp),
    ];
    let found = table.iter().find(|(name, _)| words.contains(name));
    found
        .map(|(_, kind)| *kind)
        .with_context(|| format!("no operation is called {words:?}"))
}

/// IBTA volume 1, table 45.
fn mark(syndrome: u8) -> Option<Kind> {
    match syndrome {
        0x00..=0x1f => None,
        0x20..=0x3f => Some(Kind::RnrNak),
        0x60 => Some(Kind::NakSequence),
        0x61 => Some(Kind::NakInvalidRequest),
        0x62 => Some(Kind::NakRemoteAccess),
        0x63 => Some(Kind::NakRemoteOperational),
        0x64 => Some(Kind::NakInvalidRd),
        _ => Some(Kind::NakReserved),
    }
}

/// What one packet was counted as on one port.
struct Counted {
    at_uplink: bool,
    drops: Vec<DropReason>,
    malformed: bool,
    /// By kind, with its transport.
    roce: BTreeMap<Kind, Transport>,
    /// Destination queue pair, and the next PSN where it is followed.
    flow: Option<(u32, Option<u32>)>,
}

fn count(programs: &mut Programs, program: &str, frame: &[u8]) -> Result<Counted> {
    Counters::clear(programs)?;
    programs.run(program, frame)?;
    let counters = Counters::read(programs)?;
    let at_uplink = program == "uplink_xdp";
    let port = if at_uplink {
        UPLINK_BIT | UPLINK
    } else {
        ENDPOINT
    };
    let mut roce = BTreeMap::new();
    for ((found, direction, transport, kind), count) in counters.roce {
        ensure!(found == port && direction == Direction::Ingress);
        ensure!(count.packets == 1 && count.bytes == frame.len() as u64);
        ensure!(roce.insert(kind, transport).is_none(), "{kind:?} twice");
    }
    let flows = roce_flows(programs)?;
    ensure!(flows.len() < 2, "{flows:?}");
    let flow = flows.first().map(|(key, flow)| {
        let synced = flow.flags & RoceFlow::SYNCED != 0;
        (key.destination_qp, synced.then_some(flow.expected_psn))
    });
    Ok(Counted {
        at_uplink,
        drops: counters
            .drops
            .into_keys()
            .map(|(_, _, reason)| reason)
            .collect(),
        malformed: counters.uplink.contains_key(&UplinkCounter::Malformed),
        roce,
        flow,
    })
}

/// Holds what was counted against what tshark read and what scapy calls it.
fn check(
    expected: Expected,
    reading: &Reading,
    name: Option<&str>,
    counted: &Counted,
) -> Result<()> {
    match expected {
        Expected::Dropped(_) if counted.at_uplink => {
            ensure!(counted.malformed && counted.roce.is_empty());
        }
        Expected::Dropped(reason) => ensure!(counted.drops == [reason], "{:?}", counted.drops),
        Expected::Malformed => {
            let only = BTreeMap::from([(Kind::Malformed, Transport::Unknown)]);
            ensure!(counted.roce == only && counted.flow.is_none());
        }
        Expected::Roce(bth) => check_roce(reading, bth, name, counted)?,
    }
    Ok(())
}

fn check_roce(reading: &Reading, bth: Bth, name: Option<&str>, counted: &Counted) -> Result<()> {
    let transport = transport(bth.opcode);
    let mut roce = counted.roce.clone();
    for (kind, found) in &roce {
        ensure!(*found == transport, "{kind:?} of {found:?}");
    }
    let ce = reading.ecn == Some(3);
    ensure!(roce.remove(&Kind::CeMarked).is_some() == ce, "ECN");
    if knows_headers(reading, bth) {
        let mark = reading.syndrome.and_then(mark);
        if let Some(mark) = mark {
            ensure!(roce.remove(&mark).is_some(), "no {mark:?}");
        }
        ensure!(roce.len() == 1, "{roce:?}");
    }
    let mut operations = roce.keys().filter(|kind| kind.is_operation());
    let operation_found = *operations.next().context("no operation")?;
    let known_to_tshark = ["RC ", "UC ", "UD "]
        .iter()
        .any(|transport| reading.info.starts_with(transport));
    for words in [known_to_tshark.then_some(reading.info.as_str()), name]
        .into_iter()
        .flatten()
    {
        let operation = operation(words)?;
        ensure!(
            operation_found == operation,
            "{words:?} counted as {operation_found:?}"
        );
    }
    let Some((qp, next)) = counted.flow else {
        bail!("no flow");
    };
    ensure!(qp == bth.qp, "queue pair {qp:#x}");
    let following = (bth.psn + 1) % (1 << 24);
    ensure!(
        next.is_none_or(|next| next == following),
        "next PSN {next:?}"
    );
    Ok(())
}

/// Each packet by itself, to a pod and at the uplink. `has_crc` tells whether the packet of this
/// place ends with a CRC.
fn agree(Made { names, frames }: Made, has_crc: impl Fn(&[Reading], usize) -> bool) -> Result<()> {
    let readings = tshark::read(&frames)?;
    let mut programs = Programs::load()?;
    for (place, (frame, name)) in frames.iter().zip(&names).enumerate() {
        let reading = &readings[place];
        for program in ["uplink_xdp", "entry_ingress"] {
            if program == "entry_ingress" && !runs_at_tc(frame) {
                continue;
            }
            let counted = count(&mut programs, program, frame)?;
            let expected = expected(reading, has_crc(&readings, place))?;
            check(expected, reading, name.as_deref(), &counted).with_context(|| {
                let roce = &counted.roce;
                format!("{program}, {name:?}, {reading:?}, {roce:?}: {frame:02x?}")
            })?;
        }
    }
    Ok(())
}

#[test]
fn on_every_opcode_in_every_envelope() -> Result<()> {
    let made = made("opcodes", 256 * 12)?;
    agree(made, |readings, place| readings[place].crc)
}

#[test]
fn on_every_acknowledgement_code() -> Result<()> {
    let made = made("acknowledgements", 256 * 8)?;
    agree(made, |readings, place| readings[place].crc)
}

/// In flight: the headers still tell the length that was.
#[test]
fn on_packets_cut_at_every_length() -> Result<()> {
    let made = made("cut", 300)?;
    agree(made, |readings, place| readings[place].crc)
}

/// At the sender: the lengths tell the truth, and the RoCE packet ends early.
#[test]
fn on_packets_that_end_early() -> Result<()> {
    let made = made("short", 650)?;
    let lengths: Vec<_> = made.frames.iter().map(Vec::len).collect();
    // Each comes in every length. It has a CRC if the one without its last four bytes has all
    // headers.
    agree(made, |readings, place| {
        place >= 4 && lengths[place - 4] + 4 == lengths[place] && has_headers(&readings[place - 4])
    })
}

/// Where each request stands in the sequence of its queue pair, told from the PSNs that tshark
/// reads.
#[test]
fn on_sequences() -> Result<()> {
    let Made { frames, .. } = made("sequence", 200)?;
    let readings = tshark::read(&frames)?;
    let mut programs = Programs::load()?;
    let mut next = BTreeMap::<(Transport, u32), i64>::new();
    let mut marks = BTreeMap::<(Transport, Kind), u64>::new();
    for (frame, reading) in frames.iter().zip(&readings) {
        programs.run("entry_ingress", frame)?;
        let bth = reading.bth.context("no BTH")?;
        // The only request among the opcodes made.
        if bth.opcode & 0x1f != 0x04 || bth.opcode == 0x64 {
            continue;
        }
        let transport = transport(bth.opcode);
        let next = next.entry((transport, bth.qp)).or_insert(bth.psn.into());
        let mut ahead = i64::from(bth.psn) - *next;
        // The numbers of these sequences are close to each other, or over the wrap.
        if ahead < -(1 << 23) {
            ahead += 1 << 24;
        }
        let mut add = |kind, amount| *marks.entry((transport, kind)).or_default() += amount;
        if ahead < 0 {
            add(Kind::Duplicate, 1);
            continue;
        }
        if ahead > 0 {
            add(Kind::Gap, 1);
            add(Kind::Missing, ahead.unsigned_abs());
        }
        *next = (i64::from(bth.psn) + 1) % (1 << 24);
    }
    let counted: BTreeMap<_, _> = Counters::read(&mut programs)?
        .roce
        .into_iter()
        .filter(|((_, _, _, kind), _)| matches!(kind, Kind::Duplicate | Kind::Gap | Kind::Missing))
        .map(|((_, _, transport, kind), count)| ((transport, kind), count.packets))
        .collect();
    ensure!(counted == marks, "counted {counted:?}, read {marks:?}");
    ensure!(marks.len() == 9, "{marks:?}");
    Ok(())
}

/// What a flow must have counted, from what tshark reads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flow {
    operations: BTreeMap<Kind, u64>,
    ce_marked: u64,
    rnr_naks: u64,
    naks: u64,
    gaps: u64,
    missing: u64,
    duplicates: u64,
}

/// The operation of an opcode that tshark has no words for in every transport (IBTA, table 38).
fn operation_of(opcode: u8) -> Result<Kind> {
    Ok(match opcode & 0x1f {
        _ if opcode == 0x81 => Kind::Cnp,
        0x06..=0x0b => Kind::Write,
        0x0d..=0x10 => Kind::ReadResponse,
        0x11 => Kind::Ack,
        0x12 => Kind::AtomicAck,
        0x13 | 0x14 => Kind::Atomic,
        _ => bail!("opcode {opcode:#x} is not made"),
    })
}

/// What soft-RoCE does not send, flow by flow. Each has a queue pair of its own.
#[test]
fn on_conversations_of_every_kind() -> Result<()> {
    let Made { frames, .. } = made("conversations", 300)?;
    let readings = tshark::read(&frames)?;
    let mut programs = Programs::load()?;
    let mut next = BTreeMap::<u32, u32>::new();
    let mut expected = BTreeMap::<u32, Flow>::new();
    for (frame, reading) in frames.iter().zip(&readings) {
        programs.run("entry_ingress", frame)?;
        let bth = reading.bth.context("no BTH")?;
        let flow = expected.entry(bth.qp).or_default();
        let operation = operation_of(bth.opcode)?;
        *flow.operations.entry(operation).or_default() += 1;
        flow.ce_marked += u64::from(reading.ecn == Some(3));
        // tshark reads no AETH of extended reliable connections: it is behind the BTH's 12 bytes,
        // before the CRC.
        let syndrome = match operation {
            Kind::Ack => Some(frame[frame.len() - 8]),
            _ => None,
        };
        ensure!(
            reading.syndrome.is_none() || reading.syndrome == syndrome || operation != Kind::Ack
        );
        match syndrome.and_then(mark) {
            None => {}
            Some(Kind::RnrNak) => flow.rnr_naks += 1,
            Some(_) => flow.naks += 1,
        }
        if !matches!(operation, Kind::Write | Kind::Atomic) {
            continue;
        }
        let next = next.entry(bth.qp).or_insert(bth.psn);
        if bth.psn < *next {
            flow.duplicates += 1;
            continue;
        }
        if bth.psn > *next {
            flow.gaps += 1;
            flow.missing += u64::from(bth.psn - *next);
        }
        *next = bth.psn + 1;
    }
    ensure!(expected.len() == 18, "{} flows", expected.len());
    let counted = roce_flows(&mut programs)?.into_iter().map(|(key, flow)| {
        let numbers = (0_u8..)
            .zip(flow.operations)
            .filter(|(_, packets)| *packets > 0);
        let operations = numbers
            .map(|(number, packets)| {
                Ok((Kind::try_from(number).map_err(anyhow::Error::msg)?, packets))
            })
            .collect::<Result<_>>()?;
        let flow = Flow {
            operations,
            ce_marked: flow.ce_marked,
            rnr_naks: flow.rnr_naks,
            naks: flow.naks,
            gaps: flow.gaps,
            missing: flow.missing,
            duplicates: flow.duplicates,
        };
        Ok((key.destination_qp, flow))
    });
    let counted: BTreeMap<_, _> = counted.collect::<Result<_>>()?;
    ensure!(
        counted == expected,
        "counted {counted:#?}, read {expected:#?}"
    );
    Ok(())
}
