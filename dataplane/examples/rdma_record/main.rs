//! Records the kernel's answers to RDMA netlink requests, for `dataplane/src/rdma/recorded`: asks
//! about the first device and its first port, and writes each answer as it came to a file of the
//! folder that is given. The requests are put together here byte by byte, so that the recording
//! owes nothing to the client that is tested with it.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_RDMA};

/// `NLM_F_REQUEST | NLM_F_ACK`, and `NLM_F_REQUEST | NLM_F_DUMP`.
const ONE: u16 = 0x005;
const ALL: u16 = 0x301;

fn main() -> Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).context("give a folder")?);
    fs::create_dir_all(&folder)?;
    let device = env::args().nth(2).unwrap_or_else(|| "0".to_owned());
    let device: u32 = device.parse()?;
    let index = attribute(1, &device.to_ne_bytes());
    let port = [index.clone(), attribute(3, &1_u32.to_ne_bytes())].concat();
    let queue_pairs = [port.clone(), attribute(75, &19_u32.to_ne_bytes())].concat();
    let mode = [queue_pairs.clone(), attribute(74, &0_u32.to_ne_bytes())].concat();
    let kind = |kind: &[u8]| attribute(69, kind);
    for (name, command, flags, body) in [
        ("devices", 1, ALL, vec![]),
        ("ports", 5, ALL, index.clone()),
        ("mode", 6, ONE, vec![]),
        ("resources", 9, ONE, index.clone()),
        ("queue_pairs", 10, ALL, index.clone()),
        ("cm_ids", 11, ALL, index.clone()),
        ("completion_queues", 12, ALL, index.clone()),
        ("memory_regions", 13, ALL, index.clone()),
        ("protection_domains", 14, ALL, index.clone()),
        ("uverbs", 15, ONE, [kind(b"uverbs\0"), index].concat()),
        ("umad", 15, ONE, [kind(b"umad\0"), port.clone()].concat()),
        ("rdma_cm", 15, ONE, kind(b"rdma_cm\0")),
        ("port_counters", 17, ONE, port.clone()),
        ("counter_mode", 17, ONE, mode),
        ("counter_sets", 17, ALL, queue_pairs),
        ("optional_counters", 24, ONE, port),
    ] {
        let answer = ask(command, flags, &body).with_context(|| name.to_owned())?;
        println!("{name}: {} bytes", answer.len());
        fs::write(folder.join(name), answer)?;
    }
    Ok(())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends one request and returns all messages up to the last one, that included.
fn ask(command: u16, flags: u16, body: &[u8]) -> Result<Vec<u8>> {
    let mut socket = Socket::new(NETLINK_RDMA)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = (16 + body.len() as u32).to_ne_bytes().to_vec();
    request.extend_from_slice(&(5 << 10 | command).to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    request.extend_from_slice(body);
    socket.send(&request, 0)?;
    let mut answer = Vec::new();
    for _ in 0..1000 {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        let mut last = false;
        while let Some(header) = rest.first_chunk::<16>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            // NLMSG_ERROR and NLMSG_DONE.
            last |= matches!(u16::from_ne_bytes([header[4], header[5]]), 2 | 3);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        answer.extend_from_slice(&datagram);
        if last {
            return Ok(answer);
        }
    }
    bail!("the answer does not end")
}
