//! Packets whose headers are not in the linear part: counted as if they were.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use dataplane::api::types::{Count, EndpointStats};
use dataplane_ebpf::abi::Direction;
use sluice_tests::{
    agent::TestAgent,
    counters,
    model::{Model, TC_NEXT},
    netns::TestNetns,
    node::{POD_INTERFACE, TestNode, UPLINK},
    packets::{Frame, QINQ, Roce, VLAN, aeth, cm, icmp, neighbor_message, refused, sctp, tcp, udp},
    poll::wait_until,
    ring::Ring,
    wire::Wire,
};

/// Counters of one direction by name, packets and bytes.
type Named = BTreeMap<String, (u64, u64)>;

fn counted(stats: &EndpointStats, direction: Direction) -> Named {
    let direction = direction.name();
    let passed = if direction == "ingress" {
        stats.ingress
    } else {
        stats.egress
    };
    let pair = |count: Count| (count.packets, count.bytes);
    let mut named = Named::new();
    if passed.packets > 0 {
        named.insert("passed".to_owned(), pair(passed));
    }
    for drop in stats
        .drops
        .iter()
        .filter(|drop| drop.direction == direction)
    {
        named.insert(drop.reason.clone(), pair(drop.count));
    }
    for roce in stats.roce.iter().filter(|roce| roce.direction == direction) {
        named.insert(
            format!("{} {}", roce.transport, roce.kind),
            pair(roce.count),
        );
    }
    named
}

fn expected(model: &Model, direction: Direction) -> Named {
    let pair = |count: &counters::Count| (count.packets, count.bytes);
    let counters = &model.counters;
    let mut named = Named::new();
    if let Some(count) = counters.passed.get(&direction) {
        named.insert("passed".to_owned(), pair(count));
    }
    for ((.., reason), count) in &counters.drops {
        named.insert(reason.name().to_owned(), pair(count));
    }
    for ((.., transport, kind), count) in &counters.roce {
        named.insert(format!("{} {}", transport.name(), kind.name()), pair(count));
    }
    named
}

/// Frames with headers of every kind behind the Ethernet header.
fn frames() -> Result<Vec<Vec<u8>>> {
    let chain = || {
        Frame::v6()
            .extension(0, 7)
            .extension(43, 2)
            .extension(60, 31)
    };
    let mut frames = vec![
        Frame::v4().options(10).carry(6, &tcp(1, 2, &[1; 9])),
        Frame::v4().carry(132, &sctp(1, 2)),
        Frame::v4().carry(1, &icmp(8, 0, &[])),
        Frame::v6().carry(58, &neighbor_message(135, "fd00::2".parse()?)),
        Frame::v4()
            .fragment(0, true)
            .carry(17, &udp(1, 2, &[0; 32])),
        chain().carry(6, &tcp(1, 2, &[1; 900])),
        chain().fragment(64, true).carry(6, &[0; 64]),
    ];
    for frame in [Frame::v4().tos(3), Frame::v6().tos(3), chain()] {
        for packet in [
            Roce::write(5, 256),
            Roce::read(6, 4096),
            Roce::new(0x11).with(&aeth(0x60)),
            Roce::management(&cm(0x10, 7)),
            Roce::cnp(),
            Roce::new(0x0a),
        ] {
            frames.push(packet.v2(&frame));
        }
    }
    frames.push(Roce::new(0x12).with(&aeth(0x23)).payload(8).v1());
    Ok(frames)
}

/// Nothing speaks of its own accord.
fn quieten(netns: &TestNetns, interface: &str) -> Result<()> {
    netns.set_sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
    netns.ip(&format!("link set {interface} arp off"))?;
    netns.ip(&format!("address flush dev {interface}"))?;
    Ok(())
}

/// One pod sends, the other gets; the programs are on one of them, as the first to look at a packet
/// leaves it with linear headers.
fn reads(direction: Direction, frames: &[Vec<u8>], options: &[&str]) -> Result<()> {
    let setup = TestNode::new(2)?;
    let [sender, receiver] = &setup.pods[..] else {
        unreachable!("two pods were made")
    };
    for pod in [sender, receiver] {
        quieten(pod, POD_INTERFACE)?;
    }
    let agent = TestAgent::start(&setup.node, options)?;
    let watched = match direction {
        Direction::Ingress => receiver,
        Direction::Egress => sender,
    };
    let id = agent.attach(watched, POD_INTERFACE)?;
    let destination = Wire::open(receiver, POD_INTERFACE)?.mac();
    let ring = Ring::open(sender, POD_INTERFACE)?;
    let mut model = Model::default();
    for frame in frames {
        let mut frame = frame.clone();
        frame[..6].copy_from_slice(&destination);
        frame[6..12].copy_from_slice(&ring.mac());
        let passes = model.endpoint(direction, &frame) == TC_NEXT;
        let sent = ring.send(&frame)?;
        ensure!(
            sent == passes || direction == Direction::Ingress,
            "{frame:02x?}"
        );
    }
    let stats = || -> Result<EndpointStats> { Ok(serde_json::from_value(agent.stats(id)?)?) };
    let expected = expected(&model, direction);
    let total = |named: &Named| -> u64 {
        let counts = named.iter().filter(|(name, _)| !name.contains(' '));
        counts.map(|(_, (packets, _))| packets).sum()
    };
    wait_until("the frames to be counted", || {
        Ok(total(&counted(&stats()?, direction)) >= total(&expected))
    })?;
    let counted = counted(&stats()?, direction);
    ensure!(
        counted == expected,
        "counted {counted:#?}, expected {expected:#?}"
    );
    Ok(())
}

const QUIET: &[&str] = &["--metrics-address", "off"];

#[test]
fn from_a_pod() -> Result<()> {
    let mut frames = frames()?;
    for tags in [&[VLAN][..], &[QINQ, VLAN]] {
        frames.push(Roce::write(5, 256).v2(&Frame::v6().tags(tags)));
    }
    reads(Direction::Egress, &frames, QUIET)
}

#[test]
fn to_a_pod() -> Result<()> {
    reads(Direction::Ingress, &frames()?, QUIET)
}

#[test]
fn on_clsact() -> Result<()> {
    for direction in [Direction::Egress, Direction::Ingress] {
        reads(
            direction,
            &frames()?,
            &["--metrics-address", "off", "--tc", "clsact"],
        )?;
    }
    Ok(())
}

#[test]
fn what_is_refused_is_refused_for_the_same_reason() -> Result<()> {
    // The ring takes nothing shorter than an Ethernet header and something.
    let frames: Vec<_> = refused()
        .into_iter()
        .map(|(_, frame, _)| frame)
        .filter(|frame| frame.len() > 14)
        .collect();
    reads(Direction::Egress, &frames, QUIET)
}

/// The uplink's program has to read who is asked for before it copies a request to the other side.
#[test]
fn a_pods_request_for_the_nodes_address_reaches_the_node() -> Result<()> {
    let setup = TestNode::new(1)?;
    let pod = &setup.pods[0];
    let agent = TestAgent::start(&setup.node, QUIET)?;
    agent.run(&["uplink", "add", UPLINK])?;
    agent.attach(pod, POD_INTERFACE)?;
    let copied = || -> Result<Option<u64>> {
        let stats = agent.json(&["stats"])?;
        let counters = &stats["uplinks"][0]["counters"];
        Ok(counters["neighbor_copied"]["packets"].as_u64())
    };
    quieten(pod, POD_INTERFACE)?;
    pod.add_address(POD_INTERFACE, "10.78.0.11/24")?;
    let before = copied()?;
    let ring = Ring::open(pod, POD_INTERFACE)?;
    let mut request = vec![0, 1, 8, 0, 6, 4, 0, 1];
    request.extend(ring.mac());
    request.extend([10, 78, 0, 11, 0, 0, 0, 0, 0, 0, 10, 78, 0, 1]);
    let frame = Frame::ethernet(0x0806).macs(ring.mac(), [0xff; 6]);
    ensure!(ring.send(&frame.carry(0, &request))?);
    wait_until("the request to be copied", || Ok(copied()? > before))
}
