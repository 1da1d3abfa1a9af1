//! The agent dies under load.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::STEPS;
use crate::{
    demo::{
        Stage, interrupt,
        model::{Count, Endpoint, Status},
        netns, screen, topology,
        traffic::{Tally, udp},
        witness::Snapshot,
    },
    exec,
};

/// Kills the agent under traffic and starts it again.
pub(in crate::demo) fn crash(stage: &mut Stage) -> Result<()> {
    screen::title(
        9,
        STEPS,
        "The agent dies under traffic; the dataplane does not notice",
    );
    let Stage { agent, topology } = stage;
    let status: Status = agent.json("status")?;
    let endpoints: Vec<Endpoint> = agent.json("endpoints")?;
    let before = Snapshot::take(agent, topology)?;
    let red = before.stats.pod("red").context("no counters of pod red")?;
    let counter = Counter {
        map: format!("{}/ep_stats", status.pins),
        // As `sluice bpf` says: ingress at twice the endpoint's id, egress behind it.
        index: red.id * 2 + 1,
    };

    let (pod_red, pod_blue) = (&topology.red, &topology.blue);
    let flows = [
        udp(
            "UDP red -> blue",
            &pod_red.namespace,
            (&pod_blue.namespace, (pod_blue.v4, 5009).into()),
            512,
            Duration::ZERO,
        )?,
        udp(
            "UDP red -> node",
            &pod_red.namespace,
            (&topology.node, (topology::NODE_V4, 5009).into()),
            64,
            Duration::ZERO,
        )?,
    ];
    interrupt::sleep(Duration::from_millis(500))?;

    screen::command(&format!("kill -9 {}", status.pid), None);
    agent.kill()?;
    let first = counter.read()?;
    screen::note(&format!(
        "no agent; bpftool reads the pinned map: red sent {} packets",
        screen::grouped(first.packets)
    ));
    interrupt::sleep(Duration::from_secs(1))?;
    let second = counter.read()?;
    ensure!(
        second.packets > first.packets,
        "red's counter stands still without the agent"
    );
    screen::note(&format!(
        "no agent, a second later: {} packets",
        screen::grouped(second.packets)
    ));

    screen::command("sluice agent", Some("the node"));
    let start = Instant::now();
    agent.start(&topology.node)?;
    let took = start.elapsed();
    let adopted: Vec<Endpoint> = agent.json("endpoints")?;
    ensure!(
        adopted == endpoints,
        "the endpoints changed: {endpoints:?} before, {adopted:?} now"
    );
    screen::good(&format!(
        "the agent is back after {} ms, with the same {} endpoints",
        took.as_millis(),
        adopted.len()
    ));
    interrupt::sleep(Duration::from_millis(500))?;

    for flow in flows {
        let label = flow.label().to_owned();
        let Tally {
            messages, answers, ..
        } = flow.finish()?;
        ensure!(
            messages > 0 && answers == messages,
            "{label}: {answers} of {messages} datagrams answered"
        );
        screen::good(&format!(
            "{label}: {0} of {0} datagrams answered, none lost",
            screen::grouped(messages)
        ));
    }
    let after = Snapshot::take(agent, topology)?;
    let counted = after.agrees(&before, topology, false)?;
    screen::good(&format!(
        "counters went on: {} packets meanwhile, exactly as many as the kernel's interfaces say",
        screen::grouped(counted)
    ));
    Ok(())
}

/// A counter of each processor, read with bpftool: no part of Sluice runs for that.
struct Counter {
    map: String,
    index: u32,
}

/// `bpftool -j map lookup`, as far as it is needed.
#[derive(Deserialize)]
struct Lookup {
    formatted: Formatted,
}

#[derive(Deserialize)]
struct Formatted {
    values: Vec<OfCpu>,
}

#[derive(Deserialize)]
struct OfCpu {
    value: Count,
}

impl Counter {
    fn read(&self) -> Result<Count> {
        let key = self.index.to_ne_bytes().map(|byte| byte.to_string());
        let text = exec::capture(
            netns::tool("bpftool")
                .args(["-j", "map", "lookup", "pinned", &self.map, "key"])
                .args(key),
        )?;
        let found: Lookup = serde_json::from_str(&text)
            .with_context(|| format!("bpftool said something else: {text}"))?;
        let values = found.formatted.values.iter().map(|cpu| cpu.value);
        Ok(values.fold(Count::default(), |sum, of_cpu| Count {
            packets: sum.packets + of_cpu.packets,
            bytes: sum.bytes + of_cpu.bytes,
        }))
    }
}
