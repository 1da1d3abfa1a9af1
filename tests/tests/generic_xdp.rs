//! An uplink whose XDP program runs in the network stack ("generic"): what the kernel does to
//! packets for it must not show at the pods.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use dataplane::api::types::EndpointStats;
use sluice_tests::{
    agent::{TestAgent, mechanisms},
    node::{POD_INTERFACE, TestNode, UPLINK, addresses},
    packets::{Frame, QINQ, Roce, VLAN},
    poll::wait_until,
    traffic::transfer,
    wire::Wire,
};

/// Frames to a pod, some of them with addresses that look like an ethertype where one would be if
/// the packet were taken to begin fourteen bytes too late.
fn frames(source: [u8; 6], destination: [u8; 6]) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    for [from, to] in [
        ["10.78.0.254", "10.78.0.11"],
        ["8.0.0.1", "10.78.0.11"],
        ["fd78::254", "fd78::11"],
        ["fd78:0:86dd::1", "fd78::11"],
    ] {
        let frame = Frame::between(from.parse::<IpAddr>()?, to.parse()?).macs(source, destination);
        for tags in [&[][..], &[VLAN], &[QINQ, VLAN]] {
            frames.push(Roce::write(0, 64).v2(&frame.clone().tags(tags)));
        }
    }
    Ok(frames)
}

/// Bytes that the pod's side sees of a frame: the outermost tag is in the packet's metadata.
fn seen(frame: &[u8]) -> u64 {
    let tagged = matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8]);
    frame.len() as u64 - if tagged { 4 } else { 0 }
}

fn reads_right(options: &[&str]) -> Result<()> {
    let setup = TestNode::new(1)?;
    let (pod, machine) = (&setup.pods[0], &setup.machine);
    let options = [&["--metrics-address", "off", "--xdp", "generic"], options].concat();
    let agent = TestAgent::start(&setup.node, &options)?;
    agent.run(&["uplink", "add", UPLINK])?;
    let uplinks = agent.json(&["uplink", "list"])?;
    ensure!(uplinks[0]["xdp"] == "generic", "{uplinks}");
    let id = agent.attach(pod, POD_INTERFACE)?;
    let stats = || -> Result<EndpointStats> { Ok(serde_json::from_value(agent.stats(id)?)?) };

    let wire = Wire::open(machine, "eth0")?;
    let frames = frames(wire.mac(), Wire::open(pod, POD_INTERFACE)?.mac())?;
    for frame in &frames {
        ensure!(wire.send(frame)?);
    }
    let sent = (
        frames.len() as u64,
        frames.iter().map(|frame| seen(frame)).sum::<u64>(),
    );
    // The pod says, in ICMP, that nobody listens: only the writes are known in number.
    let counted = || -> Result<(u64, u64)> {
        let stats = stats()?;
        let mut writes = stats.roce.iter().filter(|count| count.kind == "write");
        Ok(writes
            .next()
            .map_or((0, 0), |write| (write.count.packets, write.count.bytes)))
    };
    wait_until("the frames to be counted", || Ok(counted()?.0 >= sent.0))?;
    ensure!(counted()? == sent, "sent {sent:?}, counted {:?}", stats()?);

    // Large segments, which generic XDP copies.
    let [address, _] = addresses(0);
    transfer(machine, pod, &address)?;
    transfer(pod, machine, "10.78.0.254")?;
    let drops = stats()?.drops;
    ensure!(drops.is_empty(), "{drops:?}");
    // Segments in several buffers are counted whole.
    let uplink = agent.json(&["stats"])?["uplinks"][0]["counters"].clone();
    ensure!(uplink["malformed"]["packets"] == 0, "{uplink}");
    let bytes = uplink["received"]["bytes"].as_u64();
    ensure!(bytes > Some(1 << 20), "{uplink}");
    Ok(())
}

#[test]
fn packets_of_other_machines_are_read_right() -> Result<()> {
    for mechanism in mechanisms() {
        reads_right(&["--tc", mechanism]).context(*mechanism)?;
    }
    Ok(())
}

/// The kernel moves the start of no packet of more than 16 KiB, unless it is made of segments: one
/// whose link header is lost stays without, and what cannot be read does not pass. Where the kernel
/// loses none, it arrives.
#[test]
fn a_packet_too_large_to_be_repaired_is_dropped() -> Result<()> {
    const MTU: &str = "60000";
    let setup = TestNode::new(1)?;
    let (pod, machine) = (&setup.pods[0], &setup.machine);
    for (netns, interface) in [
        (&setup.node, UPLINK),
        (machine, "eth0"),
        (pod, POD_INTERFACE),
    ] {
        netns.ip(&format!("link set {interface} mtu {MTU}"))?;
    }
    let agent = TestAgent::start(
        &setup.node,
        &["--metrics-address", "off", "--xdp", "generic"],
    )?;
    agent.run(&["uplink", "add", UPLINK])?;
    let id = agent.attach(pod, POD_INTERFACE)?;
    let [address, _] = addresses(0);
    let receiver = pod.enter(|| UdpSocket::bind((address.as_str(), 0)))??;
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(10)))?;
    let sender = machine.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    sender.connect(receiver.local_addr()?)?;
    let mut datagram = vec![0; usize::from(u16::MAX)];
    for length in [15_000, 40_000, 9_000] {
        sender.send(&vec![7; length])?;
    }
    let mut received = Vec::new();
    while received.last() != Some(&9_000) {
        received.push(receiver.recv(&mut datagram)?);
    }
    let stats: EndpointStats = serde_json::from_value(agent.stats(id)?)?;
    let dropped: Vec<_> = stats
        .drops
        .iter()
        .map(|drop| {
            (
                drop.direction.as_str(),
                drop.reason.as_str(),
                drop.count.packets,
            )
        })
        .collect();
    let expected: (&[usize], &[_]) = if received.contains(&40_000) {
        (&[15_000, 40_000, 9_000], &[])
    } else {
        (&[15_000, 9_000], &[("ingress", "link_header_lost", 1)])
    };
    ensure!(
        (&received[..], &dropped[..]) == expected,
        "{received:?} arrived, dropped {dropped:?}"
    );
    Ok(())
}
