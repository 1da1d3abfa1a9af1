//! Frames on real interfaces, one by one: those that BPF_PROG_TEST_RUN does not take among them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use dataplane::api::types::EndpointStats;
use sluice_tests::{
    agent::TestAgent,
    node::{POD_INTERFACE, TestNode},
    packets::{Frame, QINQ, Roce, VLAN, refused},
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

/// The kernel moves the outermost tag of what arrives into the packet's metadata.
#[test]
fn tagged_frames_to_a_pod_are_read_behind_their_tags() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    let wire = Wire::open(&setup.machine, "eth0")?;
    let pod_mac = Wire::open(pod, POD_INTERFACE)?.mac();
    let mut sent = (0, 0);
    for frame in [Frame::v4(), Frame::v6().extension(60, 3)] {
        for tags in [
            &[VLAN][..],
            &[QINQ],
            &[QINQ, VLAN],
            &[VLAN, VLAN],
            &[QINQ, VLAN, VLAN],
        ] {
            let frame = frame.clone().macs(wire.mac(), pod_mac).tags(tags);
            let frame = Roce::write(sent.0, 64).v2(&frame);
            ensure!(wire.send(&frame)?);
            sent.0 += 1;
            sent.1 += frame.len() as u64 - 4;
        }
    }
    let counted = || -> Result<_> {
        let stats: EndpointStats = serde_json::from_value(agent.stats(id)?)?;
        let writes = stats.roce.iter().find(|count| count.kind == "write");
        Ok(writes.map_or((0, 0), |write| (write.count.packets, write.count.bytes)))
    };
    let sent = (u64::from(sent.0), sent.1);
    wait_until("the frames to be counted", || Ok(counted()?.0 >= sent.0))?;
    ensure!(counted()? == sent, "{:?}, sent {sent:?}", counted()?);
    ensure!(dropped(&agent, id, "ingress")?.is_empty());
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
