//! What tshark, a reader that shares nothing with the programs, sees in frames.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::netns::output;

/// The fields asked for, in the order of [`Reading`]'s.
const FIELDS: [&str; 12] = [
    "frame.protocols",
    "udp.dstport",
    "ip.dsfield.ecn",
    "ipv6.tclass.ecn",
    "infiniband.bth.opcode",
    "infiniband.bth.psn",
    "infiniband.bth.destqp",
    "infiniband.aeth.syndrome",
    "infiniband.invariant.crc",
    "_ws.malformed",
    "_ws.expert.message",
    "_ws.col.Info",
];

/// One frame as tshark reads it.
#[derive(Debug)]
pub struct Reading {
    /// The dissectors that ran, outermost first.
    pub protocols: String,
    /// UDP destination port.
    pub port: Option<u32>,
    /// Explicit congestion notification of the IP header.
    pub ecn: Option<u32>,
    /// Fields of the BTH.
    pub bth: Option<Bth>,
    /// The AETH's syndrome.
    pub syndrome: Option<u8>,
    /// Whether tshark found an invariant CRC. Where only the headers are there, it takes their last
    /// bytes for one.
    pub crc: bool,
    /// Complaints about lengths and cut headers.
    pub complaints: String,
    /// The summary line.
    pub info: String,
}

/// Fields of a base transport header.
#[derive(Clone, Copy, Debug)]
pub struct Bth {
    /// Opcode.
    pub opcode: u8,
    /// Packet sequence number.
    pub psn: u32,
    /// Destination queue pair.
    pub qp: u32,
}

/// Has tshark read frames, by way of a file.
///
/// # Errors
/// tshark fails, or prints what is no number.
pub fn read(frames: &[Vec<u8>]) -> Result<Vec<Reading>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("frames.pcap");
    write_pcap(&file, frames)?;
    let mut command = Command::new("tshark");
    command.arg("-r").arg(&file).args(["-T", "fields"]);
    // Guesses at the payload.
    for guess in ["rpcordma", "smb_direct", "nvme-rdma", "iser", "lnet", "smc"] {
        command.args(["--disable-protocol", guess]);
    }
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let text = output(&mut command)?;
    let readings: Vec<_> = text.lines().map(reading).collect::<Result<_>>()?;
    ensure!(
        readings.len() == frames.len(),
        "tshark read {} of {} frames",
        readings.len(),
        frames.len()
    );
    Ok(readings)
}

/// The classic format of libpcap, microseconds, link type Ethernet.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 0xffff, 1_u32] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let length = frame.len() as u32;
        for word in [0, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    Ok(fs::write(path, bytes)?)
}

fn reading(line: &str) -> Result<Reading> {
    let fields: Vec<_> = line.split('\t').collect();
    let fields: [&str; FIELDS.len()] = fields
        .try_into()
        .ok()
        .with_context(|| format!("not {} fields: {line}", FIELDS.len()))?;
    let [
        protocols,
        port,
        v4_ecn,
        v6_ecn,
        opcode,
        psn,
        qp,
        syndrome,
        crc,
        malformed,
        expert,
        info,
    ] = fields;
    let bth = match (number(opcode)?, number(psn)?, number(qp)?) {
        (Some(opcode), Some(psn), Some(qp)) => Some(Bth {
            opcode: opcode.try_into()?,
            psn,
            qp,
        }),
        _ => None,
    };
    Ok(Reading {
        protocols: protocols.to_owned(),
        port: number(port)?,
        ecn: number(v4_ecn)?.or(number(v6_ecn)?),
        bth,
        syndrome: number(syndrome)?.map(u8::try_from).transpose()?,
        crc: !crc.is_empty(),
        complaints: format!("{malformed},{expert}"),
        info: info.to_owned(),
    })
}

/// A decimal or hexadecimal number, or nothing.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed
        .map(Some)
        .with_context(|| format!("tshark: {text:?} is no number"))
}
