//! ns per packet of an isolated endpoint, by BPF_PROG_TEST_RUN.
//!
//! A known connection is one packet over and over, beside an empty program. For new ones a program
//! in front makes each packet the first of another connection; beside it the same program with
//! nothing behind.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Result, ensure};
use dataplane::kernel::IdentityPrefix;
use dataplane_ebpf::abi::{Direction, PolicyKey, PolicyRule, identity};

use sluice_tests::{
    judge::{Judge, Verdict},
    packets::{Frame, tcp_flags},
};

use super::prefix;
use crate::{
    interrupt,
    row::{Bar, Row},
    sys::{self, Kind, TC_NEXT},
};

/// Runs of one sample; some 30 ms of a path.
const REPEAT: u32 = 100_000;
const SAMPLES: usize = 25;
const KNOWN: Bar = Bar::AboveBaseline(110.0);
/// The case that has a bar for new connections.
const PREFIXES: &str = "10000-cidrs";
const NEW: Bar = Bar::AboveBaseline(700.0);

const TCP: u8 = 6;
const PORT: u16 = 80;
const SYN: u8 = 2;
const ACK: u8 = 0x10;
const POD: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// Pods with an identity of their own, besides the prefixes.
const PODS: u32 = 5000;

struct Case {
    name: String,
    judge: Judge,
    /// What makes each packet another one, with and without the endpoint's programs behind it.
    varying: OwnedFd,
    nothing: OwnedFd,
    _slot: OwnedFd,
    known: Vec<f64>,
    known_beside: Vec<f64>,
    new: Vec<f64>,
    new_beside: Vec<f64>,
}

pub(crate) fn measure() -> Result<Vec<Row>> {
    sys::pin_to_cpu(0)?;
    let empty = sys::empty_program(Kind::Tc, TC_NEXT)?;
    let mut cases = vec![
        // A rule a prefix, or one rule for all.
        case("1-rule", 1, true)?,
        case("100-rules", 100, true)?,
        case("10000-rules", 10_000, true)?,
        case(PREFIXES, 10_000, false)?,
    ];
    for _ in 0..SAMPLES {
        interrupt::check()?;
        for case in &mut cases {
            let entry = case.judge.entry(1, Direction::Ingress)?.as_fd();
            let frame = frame(ACK);
            let time = |program, frame: &[u8]| -> Result<f64> {
                let (verdict, ns) = sys::run(program, frame, REPEAT)?;
                ensure!(verdict == TC_NEXT, "{}: verdict {verdict}", case.name);
                Ok(ns.into())
            };
            let known_beside = time(empty.as_fd(), &frame)?;
            let known = time(entry, &frame)?;
            let frame = self::frame(SYN);
            let new_beside = time(case.nothing.as_fd(), &frame)?;
            let new = time(case.varying.as_fd(), &frame)?;
            case.known.push(known);
            case.known_beside.push(known_beside);
            case.new.push(new);
            case.new_beside.push(new_beside);
        }
    }
    let mut rows = Vec::new();
    for case in &cases {
        let Case { name, .. } = case;
        let known = format!("policy-packet/known-{name}");
        rows.push(Row::beside(
            known,
            "ns",
            &case.known,
            &case.known_beside,
            KNOWN,
        ));
        let new = format!("policy-packet/new-{name}");
        let bar = if name == PREFIXES { NEW } else { Bar::None };
        rows.push(Row::beside(new, "ns", &case.new, &case.new_beside, bar));
    }
    Ok(rows)
}

/// An endpoint that lets `prefixes` prefixes in by one port, each by a rule and identity of its own
/// or all by one.
fn case(name: &str, prefixes: u32, each: bool) -> Result<Case> {
    let judge = Judge::new(1)?;
    let mut identities = Vec::new();
    for pod in 0..PODS {
        let address = Ipv4Addr::from_bits((172 << 24 | 16 << 16) + pod);
        identities.push((
            IdentityPrefix::Address(address.into()),
            Some(identity::FIRST),
        ));
    }
    let mut rules = Vec::new();
    for number in 0..prefixes {
        let cidr = prefix(number)?;
        let of_prefix = identity::FIRST + 1 + if each { number } else { 0 };
        identities.push((IdentityPrefix::Cidr(cidr.into()), Some(of_prefix)));
        let rule = PolicyRule {
            rule: number + 1,
            flags: 0,
        };
        rules.push((PolicyKey::port(of_prefix, TCP, PORT), rule));
    }
    if !each {
        rules.truncate(1);
    }
    judge.kernel().maps().policy().set_identities(&identities)?;
    judge.isolate(1, Direction::Ingress, &rules)?;
    judge
        .kernel()
        .maps()
        .change_endpoint(1, |config| config.flow_rate = 1_000_000_000)?;
    // The known connection: answered, so that it is where such ones are.
    for (direction, frame) in [
        (Direction::Ingress, frame(SYN)),
        (Direction::Egress, answer()),
    ] {
        let verdict = judge.run(1, direction, &frame)?;
        ensure!(verdict == Verdict::Pass, "{name}: {verdict:?}");
    }
    let slot = sys::program_array(judge.entry(1, Direction::Ingress)?.as_fd())?;
    Ok(Case {
        name: name.to_owned(),
        varying: sys::varying_program(prefixes as u16, Some(&slot))?,
        _slot: slot,
        nothing: sys::varying_program(prefixes as u16, None)?,
        judge,
        known: Vec::new(),
        known_beside: Vec::new(),
        new: Vec::new(),
        new_beside: Vec::new(),
    })
}

fn frame(flags: u8) -> Vec<u8> {
    let mut segment = tcp_flags(40_000, PORT, flags);
    segment.extend([0; 32]);
    let peer = Ipv4Addr::new(11, 0, 0, 9);
    Frame::between(peer.into(), POD.into()).carry(TCP, &segment)
}

fn answer() -> Vec<u8> {
    let peer = Ipv4Addr::new(11, 0, 0, 9);
    Frame::between(POD.into(), peer.into()).carry(TCP, &tcp_flags(PORT, 40_000, SYN | ACK))
}
