//! How long a change of policy takes until packets go by it. What comes before, the compiling of
//! manifests, is not in it.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Instant};

use anyhow::{Result, ensure};
use dataplane::kernel::{IdentityPrefix, Sizes};
use dataplane_ebpf::abi::{Direction, DropReason, EndpointConfig, PolicyKey, PolicyRule, identity};
use sluice_tests::{
    judge::{Judge, Verdict},
    packets::{Frame, tcp_flags},
};

use super::prefix;
use crate::{
    interrupt,
    row::{Bar, Row},
    sys,
};

const PREFIXES: u32 = 10_000;
const ENDPOINTS: u32 = 500;
const SAMPLES: u32 = 15;
const TCP: u8 = 6;
const SYN: u8 = 2;

pub(crate) fn measure() -> Result<Vec<Row>> {
    sys::pin_to_cpu(0)?;
    Ok(vec![one_endpoint()?, many_endpoints()?])
}

/// One endpoint whose policy gets 10,000 prefixes that nothing has named before: from the first
/// system call to the verdict on a packet that only the new policy allows.
fn one_endpoint() -> Result<Row> {
    let judge = Judge::new(1)?;
    let maps = judge.kernel().maps();
    let pod = Ipv4Addr::new(192, 168, 0, 1);
    let mut samples = Vec::new();
    for sample in 0..SAMPLES {
        interrupt::check()?;
        judge.isolate(1, Direction::Ingress, &[])?;
        let class = identity::FIRST + sample;
        let mut identities = Vec::new();
        for number in 0..PREFIXES {
            let cidr = IdentityPrefix::Cidr(prefix(number)?.into());
            identities.push((cidr, Some(class)));
        }
        let last = prefix(PREFIXES - 1)?.addr();
        let segment = tcp_flags(1000 + sample as u16, 80, SYN);
        let frame = Frame::between(last.into(), pod.into()).carry(TCP, &segment);
        let before = judge.run(1, Direction::Ingress, &frame)?;
        ensure!(
            before == Verdict::Drop(DropReason::PolicyDenied),
            "{before:?}"
        );

        let start = Instant::now();
        maps.policy().set_identities(&identities)?;
        let entry = (PolicyKey::port(class, TCP, 80), PolicyRule::default());
        judge.isolate(1, Direction::Ingress, &[entry])?;
        let after = judge.run(1, Direction::Ingress, &frame)?;
        let taken = start.elapsed();
        ensure!(after == Verdict::Pass, "{after:?}");
        samples.push(taken.as_secs_f64() * 1000.0);

        let gone: Vec<_> = identities.iter().map(|(cidr, _)| (*cidr, None)).collect();
        maps.policy().set_identities(&gone)?;
    }
    let name = "policy-change/10000-cidrs-until-first-packet";
    Ok(Row::alone(name, "ms", &samples, Bar::AtMost(50.0)))
}

/// 500 endpoints that all change to the same policy: one map for all.
fn many_endpoints() -> Result<Row> {
    // No packets here, so no entry programs either.
    let judge = Judge::without_entries(Sizes::DEFAULT)?;
    let maps = judge.kernel().maps();
    let entries: Vec<_> = (0..100)
        .map(|number| {
            let key = PolicyKey::port(identity::FIRST + number, TCP, 80);
            (key, PolicyRule::default())
        })
        .collect();
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        interrupt::check()?;
        let start = Instant::now();
        let policy = maps.policy().create_policy(&entries, 0)?;
        let slots: Vec<_> = (1..=ENDPOINTS)
            .map(|endpoint| (endpoint, Direction::Ingress, &policy))
            .collect();
        maps.policy().set_policy_slots(&slots)?;
        for endpoint in 1..=ENDPOINTS {
            maps.change_endpoint(endpoint, |config| {
                config.flags |= EndpointConfig::ENFORCE_INGRESS;
                config.policy_epoch += 1;
            })?;
        }
        samples.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let mut used = BTreeSet::new();
    for endpoint in 1..=ENDPOINTS {
        let slot = maps
            .policy()
            .open_policy_slot(endpoint, Direction::Ingress)?;
        used.extend(slot.map(|policy| policy.id()));
    }
    ensure!(used.len() == 1, "{} inner maps for one policy", used.len());
    let name = "policy-change/500-endpoints-one-policy";
    Ok(Row::alone(name, "ms", &samples, Bar::None))
}
