//! The node and its macvlan pods reach each other.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use super::STEPS;
use crate::demo::{
    Stage, interrupt,
    model::Status,
    netns::Namespace,
    screen,
    topology::{self, UPLINK},
    traffic::ping,
};

/// Pings before and after the uplink is registered.
pub(in crate::demo) fn host_reach(stage: &Stage) -> Result<()> {
    screen::title(
        5,
        STEPS,
        "Host reach: macvlan keeps node and pods apart, Sluice joins them",
    );
    let Stage { agent, topology } = stage;
    let red = &topology.red;
    for to in [IpAddr::from(red.v4), red.v6.into()] {
        interrupt::check()?;
        let answered = ping(&topology.node, None, to, 2)?;
        ensure!(
            answered.received == 0,
            "the node reaches {to} without an uplink registered, which macvlan does not allow"
        );
        screen::good(&format!(
            "before: node -> red {to}: no answer, as macvlan has it"
        ));
    }

    agent.show(&format!("uplink add {UPLINK}"))?;
    let status: Status = agent.json("status")?;
    let uplink = status
        .uplinks
        .iter()
        .find(|uplink| uplink.interface == UPLINK)
        .with_context(|| format!("{UPLINK} is not among the uplinks"))?;
    ensure!(uplink.state == "attached", "{UPLINK} is {}", uplink.state);
    screen::note(&format!("XDP runs {} on {UPLINK}", place(&uplink.xdp)));

    let blue = &topology.blue;
    let green = &topology.green;
    let ways: [(&str, &Namespace, IpAddr); 8] = [
        ("node -> red", &topology.node, red.v4.into()),
        ("node -> red", &topology.node, red.v6.into()),
        ("blue -> node", &blue.namespace, topology::NODE_V4.into()),
        ("blue -> node", &blue.namespace, topology::NODE_V6.into()),
        ("green -> blue", &green.namespace, blue.v4.into()),
        ("green -> blue", &green.namespace, blue.v6.into()),
        ("red -> blue", &red.namespace, blue.v4.into()),
        ("fabric -> red", &topology.fabric, red.v4.into()),
    ];
    let mut shown = "";
    let mut line = String::new();
    for (label, from, to) in ways {
        // The failures above are still in the node's neighbour table, for a moment.
        interrupt::wait_for(&format!("an answer to a ping, {label} ({to}),"), || {
            let answered = ping(from, None, to, 1)?;
            Ok((answered.received == 1).then_some(()))
        })?;
        let answered = ping(from, None, to, 3)?;
        ensure!(
            answered.received == answered.sent,
            "{label} ({to}): {} of {} pings answered",
            answered.received,
            answered.sent
        );
        if label == shown {
            line.push_str(&format!(" and {to}"));
        } else {
            if !line.is_empty() {
                screen::good(&line);
            }
            line = format!("after:  {label} {to}");
            shown = label;
        }
    }
    screen::good(&line);
    Ok(())
}

fn place(xdp: &str) -> &str {
    match xdp {
        "native" => "natively, in the driver,",
        _ => "generically, in the network stack,",
    }
}
