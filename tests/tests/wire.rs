//! Frames on real interfaces, one by one: those that BPF_PROG_TEST_RUN does not take among them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use dataplane::api::types::EndpointStats;
use sluice_tests::{
    agent::TestAgent,
    node::{POD_INTERFACE, TestNode},
    packets::refused,
    poll::wait_until,
    wire::Wire,
};

/// Packets and bytes by reason.
type Drops = BTreeMap<String, (u64, u64)>;

fn dropped(agent: &TestAgent, endpoint: u64, direction: &str) -> Result<Drops> {
    let stats: EndpointStats = serde_json::from_value(agent.stats(endpoint)?)?;
    let drops = stats.drops.into_iter();
    Ok(drops
        .filter(|drop| drop.direction == direction)
        .map(|drop| (drop.reason, (drop.count.packets, drop.count.bytes)))
        .collect())
}

/// Sends what is refused from one interface towards the endpoint or from it, and compares.
fn refuse(machine: bool, options: &[&str]) -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let agent = TestAgent::start(&setup.node, options)?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    let pod_mac = Wire::open(pod, POD_INTERFACE)?.mac();
    let (wire, direction) = if machine {
        (Wire::open(&setup.machine, "eth0")?, "ingress")
    } else {
        (Wire::open(pod, POD_INTERFACE)?, "egress")
    };
    let mut expected = Drops::new();
    let mut sent = 0;
    for (what, mut frame, reason) in refused() {
        // Less than an Ethernet header no interface sends; a tag on its way in the kernel takes
        // out and judges itself.
        if frame.len() < 14 || machine && matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]) {
            continue;
        }
        if machine {
            frame[..6].copy_from_slice(&pod_mac);
        }
        let passed = wire.send(&frame)?;
        ensure!(passed == machine, "{what}: passed: {passed}");
        let (packets, bytes) = expected.entry(reason.to_owned()).or_default();
        *packets += 1;
        *bytes += frame.len() as u64;
        sent += 1;
    }
    ensure!(sent > 50, "only {sent} frames");
    wait_until("all to be counted", || {
        let counted = dropped(&agent, id, direction)?;
        Ok(counted.values().map(|(packets, _)| packets).sum::<u64>() >= sent)
    })?;
    let counted = dropped(&agent, id, direction)?;
    ensure!(counted == expected, "{counted:#?}, sent {expected:#?}");
    Ok(())
}

#[test]
fn what_a_pod_must_not_send_is_dropped_by_reason() -> Result<()> {
    refuse(false, &["--metrics-address", "off"])
}

#[test]
fn what_a_pod_must_not_get_is_dropped_by_reason() -> Result<()> {
    refuse(true, &["--metrics-address", "off"])
}

#[test]
fn what_a_pod_must_not_send_or_get_is_dropped_on_clsact() -> Result<()> {
    refuse(false, &["--metrics-address", "off", "--tc", "clsact"])?;
    refuse(true, &["--metrics-address", "off", "--tc", "clsact"])
}
