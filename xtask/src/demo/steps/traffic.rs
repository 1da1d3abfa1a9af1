//! Traffic of every sort, and the live table beside it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::STEPS;
use crate::demo::{
    Stage, live, screen,
    topology::{self, Topology},
    traffic::{Conversation, Flow, Ledger, Ping, Tally, tcp, udp},
    witness::Snapshot,
};

/// Lets everybody talk for a while; what RoCE was sent.
pub(in crate::demo) fn traffic(stage: &Stage, time: Duration) -> Result<Ledger> {
    let Stage { agent, topology } = stage;
    screen::title(
        6,
        STEPS,
        "Traffic: ICMP, TCP, UDP and RoCEv2-shaped packets, in all directions",
    );
    screen::note("RoCE is played by UDP sockets: real headers and lengths, but no RDMA device");
    let before = Snapshot::take(agent, topology)?;

    let (count, interval) = pings(time);
    let ping = Ping::start(
        &topology.green.namespace,
        topology.red.v4.into(),
        count,
        interval,
    )?;
    let flows = mix(topology)?;
    let roce = Conversation::open(&topology.red, &topology.blue, 0x11)?
        .flow("RoCE red -> blue", Duration::from_millis(3));
    live::watch(agent, time)?;

    let answered = ping.finish()?;
    ensure!(
        answered.sent == count && answered.received == count,
        "ICMP green -> red: {} of {count} pings answered",
        answered.received
    );
    screen::good(&format!("ICMP green -> red: {count} of {count} answered"));
    finish(flows)?;
    let ledger = roce.finish()?;
    let packets: u64 = ledger
        .operations()
        .map(|(_, there, back)| there + back)
        .sum();
    screen::good(&format!(
        "RoCE red -> blue: {} packets, all arrived",
        screen::grouped(packets)
    ));

    let after = Snapshot::take(agent, topology)?;
    let counted = after.agrees(&before, topology, true)?;
    screen::good(&format!(
        "Sluice counted {} packets, byte for byte what the kernel counted on the pods' interfaces",
        screen::grouped(counted)
    ));
    Ok(ledger)
}

/// Conversations of TCP and UDP, IPv4 and IPv6, in all directions.
pub(super) fn mix(topology: &Topology) -> Result<Vec<Flow<Tally>>> {
    let Topology {
        red,
        blue,
        green,
        node,
        fabric,
    } = topology;
    let millis = Duration::from_millis;
    let to_red = |port| (&red.namespace, (red.v4, port).into());
    let to_blue = |port| (&blue.namespace, (blue.v6, port).into());
    Ok(vec![
        tcp(
            "TCP green -> red",
            &green.namespace,
            to_red(5001),
            millis(4),
        )?,
        tcp(
            "TCP red -> blue (IPv6)",
            &red.namespace,
            to_blue(5001),
            millis(2),
        )?,
        tcp("TCP node -> blue (IPv6)", node, to_blue(5002), millis(5))?,
        tcp(
            "TCP blue -> fabric",
            &blue.namespace,
            (fabric, (topology::FABRIC_V4, 5001).into()),
            millis(8),
        )?,
        udp("UDP fabric -> red", fabric, to_red(5002), 1000, millis(1))?,
        udp(
            "UDP green -> blue (IPv6)",
            &green.namespace,
            to_blue(5003),
            400,
            millis(1),
        )?,
        udp(
            "UDP red -> node",
            &red.namespace,
            (node, (topology::NODE_V4, 5001).into()),
            200,
            millis(2),
        )?,
    ])
}

fn finish(flows: Vec<Flow<Tally>>) -> Result<()> {
    for flow in flows {
        let label = flow.label().to_owned();
        let Tally {
            messages,
            answers,
            bytes,
        } = flow.finish()?;
        ensure!(
            messages > 0 && answers == messages,
            "{label}: {answers} of {messages} answered"
        );
        let what = if label.starts_with("TCP") {
            format!("{:.1} MB there and back, as sent", bytes as f64 / 1e6)
        } else {
            format!("{0} of {0} datagrams answered", screen::grouped(messages))
        };
        screen::good(&format!("{label}: {what}"));
    }
    Ok(())
}

/// Pings that take a little less than that time: how many, and how far apart.
fn pings(time: Duration) -> (u64, Duration) {
    let interval = Duration::from_millis(100);
    let count = time.as_millis() / interval.as_millis();
    (u64::try_from(count).unwrap_or(u64::MAX).max(1), interval)
}
