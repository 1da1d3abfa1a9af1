//! ns per packet of each path, by BPF_PROG_TEST_RUN beside a program that does nothing.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Result, ensure};
use aya::maps::{Array, HashMap, LpmTrie, lpm_trie::Key};
use dataplane_ebpf::abi::UplinkConfig;
use sluice_tests::harness::{ENDPOINT, Programs, UPLINK};

use crate::{
    frames::{self, opcode},
    interrupt,
    row::{Bar, Row},
    sys::{self, Kind, TC_NEXT},
};

/// Runs of one sample; some 30 ms of a path.
const REPEAT: u32 = 300_000;
const SAMPLES: usize = 25;
/// Prefixes on the block list of that case.
const PREFIXES: u32 = 10_000;

/// `TC_ACT_REDIRECT` (uapi `linux/pkt_cls.h`), `XDP_PASS` (uapi `linux/bpf.h`).
const TC_REDIRECT: i32 = 7;
const XDP_PASS: i32 = 2;

const PLAIN: Bar = Bar::AboveBaseline(40.0);
const ROCE: Bar = Bar::AboveBaseline(110.0);

struct Case<'a> {
    name: &'static str,
    program: BorrowedFd<'a>,
    kind: Kind,
    frame: Vec<u8>,
    verdict: i32,
    bar: Bar,
    samples: Vec<f64>,
    baseline: Vec<f64>,
}

pub(crate) fn measure() -> Result<Vec<Row>> {
    sys::pin_to_cpu(0)?;
    let mut endpoint = Programs::load()?;
    let mut uplink = Programs::load()?;
    let mut blocking = Programs::load()?;
    prepare(&mut endpoint, 0)?;
    prepare(&mut uplink, UplinkConfig::HOST_REACH)?;
    prepare(&mut blocking, UplinkConfig::BLOCK_LIST)?;

    let empty_tc = sys::empty_program(Kind::Tc, TC_NEXT)?;
    let empty_xdp = sys::empty_program(Kind::Xdp, XDP_PASS)?;
    let mut cases = cases(&endpoint, &uplink, &blocking)?;
    for _ in 0..SAMPLES {
        interrupt::check()?;
        for case in &mut cases {
            let empty = match case.kind {
                Kind::Tc => empty_tc.as_fd(),
                Kind::Xdp => empty_xdp.as_fd(),
            };
            let (_, nothing) = sys::run(empty, &case.frame, REPEAT)?;
            let (verdict, ours) = sys::run(case.program, &case.frame, REPEAT)?;
            ensure!(
                verdict == case.verdict,
                "{}: verdict {verdict}, not {}",
                case.name,
                case.verdict
            );
            case.baseline.push(nothing.into());
            case.samples.push(ours.into());
        }
    }
    Ok(cases
        .iter()
        .map(|case| Row::beside(case.name, "ns", &case.samples, &case.baseline, case.bar))
        .collect())
}

fn cases<'a>(
    endpoint: &'a Programs,
    uplink: &'a Programs,
    blocking: &'a Programs,
) -> Result<Vec<Case<'a>>> {
    let mut cases = Vec::new();
    let mut add = |name, programs: &'a Programs, program, frame, verdict, bar| -> Result<()> {
        cases.push(Case {
            name,
            program: programs.program(program)?.as_fd(),
            kind: match program {
                "uplink_xdp" => Kind::Xdp,
                _ => Kind::Tc,
            },
            frame,
            verdict,
            bar,
            samples: Vec::new(),
            baseline: Vec::new(),
        });
        Ok(())
    };

    for (name, frame, bar) in [
        ("packet/tcp4", frames::tcp_ipv4(), PLAIN),
        ("packet/udp4", frames::udp_ipv4(), PLAIN),
        ("packet/udp6", frames::udp_ipv6(), PLAIN),
        ("packet/udp6-extension", frames::udp_ipv6_extension(), PLAIN),
        ("packet/tcp4-vlan", frames::tcp_vlan(), PLAIN),
        ("packet/arp", frames::arp(), PLAIN),
        (
            "packet/roce-ack",
            frames::roce_ipv4(opcode::ACKNOWLEDGE),
            ROCE,
        ),
        (
            "packet/roce-read-response",
            frames::roce_ipv4(opcode::READ_RESPONSE_MIDDLE),
            ROCE,
        ),
        // Takes an unknown number of PSNs, so each is placed anew, as a request in order is.
        (
            "packet/roce-read-request",
            frames::roce_ipv4(opcode::READ_REQUEST),
            ROCE,
        ),
        (
            "packet/roce-ud-send",
            frames::roce_ipv4(opcode::UD_SEND_ONLY),
            ROCE,
        ),
        (
            "packet/roce6-ack",
            frames::roce_ipv6(opcode::ACKNOWLEDGE),
            ROCE,
        ),
        // The same PSN again and again: counted once more, as a retransmission.
        (
            "packet/roce-send-duplicate",
            frames::roce_ipv4(opcode::SEND_ONLY),
            ROCE,
        ),
    ] {
        add(name, endpoint, "entry_ingress", frame, TC_NEXT, bar)?;
    }
    // One packet in 32 is like these: an answer looks for its request, a request leaves its time.
    for (name, opcode) in [
        ("packet/roce-ack-timed", opcode::ACKNOWLEDGE),
        ("packet/roce-read-request-timed", opcode::READ_REQUEST),
    ] {
        let frame = frames::roce_ipv4_timed(opcode);
        add(name, endpoint, "entry_ingress", frame, TC_NEXT, Bar::None)?;
    }
    let tcp = frames::tcp_ipv4;
    add(
        "packet/egress-tcp4",
        endpoint,
        "entry_egress",
        tcp(),
        TC_NEXT,
        PLAIN,
    )?;
    let ack = || frames::roce_ipv4(opcode::ACKNOWLEDGE);
    for (name, programs, program, frame, verdict) in [
        ("packet/xdp-tcp4", uplink, "uplink_xdp", tcp(), XDP_PASS),
        ("packet/xdp-roce-ack", uplink, "uplink_xdp", ack(), XDP_PASS),
        (
            "packet/xdp-block-list-10000",
            blocking,
            "uplink_xdp",
            tcp(),
            XDP_PASS,
        ),
        (
            "packet/uplink-egress-off",
            endpoint,
            "uplink_egress",
            tcp(),
            TC_NEXT,
        ),
        (
            "packet/uplink-egress-pass",
            blocking,
            "uplink_egress",
            tcp(),
            TC_NEXT,
        ),
        (
            "packet/uplink-egress-turn",
            uplink,
            "uplink_egress",
            tcp(),
            TC_REDIRECT,
        ),
    ] {
        add(name, programs, program, frame, verdict, Bar::None)?;
    }
    Ok(cases)
}

/// Fills the maps as the agent would: an uplink with `flags`, whose address is that of the frames'
/// sender, and one pod behind it, the frames' receiver.
fn prepare(programs: &mut Programs, flags: u32) -> Result<()> {
    let [a, b, c, d, e, f] = frames::FROM;
    let words = [
        1,
        flags
            | if flags == UplinkConfig::BLOCK_LIST {
                UplinkConfig::HOST_REACH
            } else {
                0
            },
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, 0, 0]),
    ];
    Array::<_, [u32; 4]>::try_from(programs.map("uplinks")?)?.set(UPLINK, words, 0)?;
    if flags == UplinkConfig::HOST_REACH {
        let mut key = [0_u8; 12];
        key[..4].copy_from_slice(&UPLINK.to_ne_bytes());
        key[4..10].copy_from_slice(&frames::TO);
        HashMap::<_, [u8; 12], u32>::try_from(programs.map("local_macs")?)?
            .insert(key, ENDPOINT, 0)?;
    }
    if flags == UplinkConfig::BLOCK_LIST {
        let mut list = LpmTrie::<_, [u8; 16], [u64; 2]>::try_from(programs.map("block_list")?)?;
        for prefix in 0..PREFIXES {
            // 11.0.0.0/24 and upwards, none of which holds the frames' source.
            let network = ((11 << 24) + (prefix << 8)).to_be_bytes();
            let mut address = [0; 16];
            address[10..12].fill(0xff);
            address[12..].copy_from_slice(&network);
            list.insert(&Key::new(96 + 24, address), [0, 0], 0)?;
        }
    }
    Ok(())
}
