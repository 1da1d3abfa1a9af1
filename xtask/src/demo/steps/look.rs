//! The places to look.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{STEPS, traffic};
use crate::{
    demo::{
        Stage, agent::METRICS, interrupt, model::Status, netns, screen, traffic::Conversation,
        witness::Snapshot,
    },
    exec,
};

/// Shows command line, metrics and maps.
pub(in crate::demo) fn look(stage: &Stage) -> Result<()> {
    screen::title(
        8,
        STEPS,
        "Where to look: command line, Prometheus metrics, bpftool",
    );
    let Stage { agent, topology } = stage;
    screen::output(&agent.show("endpoints")?, 5);
    screen::line("");
    let text = agent.show("stats")?;
    // Endpoints and uplinks; drops and RoCE were shown before.
    let tables: Vec<_> = text.split("\n\n").take(2).collect();
    screen::output(&tables.join("\n\n"), 12);

    screen::line("");
    screen::note(&format!("GET http://{METRICS}/metrics, in the node:"));
    let snapshot = Snapshot::take(agent, topology)?;
    let text = topology.node.enter(fetch)?;
    let red = snapshot
        .stats
        .pod("red")
        .context("no counters of pod red")?;
    for line in excerpt(&text)? {
        screen::ends(line);
    }
    let sent = format!(" {}", red.egress.packets);
    ensure!(
        text.lines().any(|line| {
            line.starts_with("sluice_endpoint_packets_total{")
                && line.contains("pod=\"red\"")
                && line.contains("direction=\"egress\"")
                && line.ends_with(&sent)
        }),
        "the metrics do not say that red sent{sent} packets:\n{text}"
    );

    screen::line("");
    screen::output(&agent.show("bpf")?, 8);
    screen::line("");
    let status: Status = agent.json("status")?;
    let pin = format!("{}/roce_flows", status.pins);
    screen::command(&format!("bpftool map dump pinned {pin}"), None);
    let dump = exec::capture(netns::tool("bpftool").args(["map", "dump", "pinned", &pin]))?;
    ensure!(
        ["destination_qp", "expected_psn", "duplicates"]
            .iter()
            .all(|field| dump.contains(field)),
        "bpftool does not name the fields of {pin}:\n{dump}"
    );
    screen::output(&dump, 22);
    screen::good("the metrics equal `sluice stats`; bpftool names every field");
    Ok(())
}

fn fetch() -> Result<String> {
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect(METRICS)
        .with_context(|| format!("nobody serves metrics at {METRICS} in the node"))?;
    stream.set_read_timeout(PATIENCE)?;
    // With HTTP/1.0 the answer ends with the connection.
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {METRICS}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("cannot read the metrics")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer of the metrics' server is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.contains(" 200 "),
        "the metrics' server says {status:?}: {body}"
    );
    Ok(body.to_owned())
}

/// A few lines of each sort.
fn excerpt(text: &str) -> Result<Vec<&str>> {
    const WANTED: [(&str, &str, usize); 6] = [
        ("sluice_endpoint_packets_total{", "", 4),
        ("sluice_endpoint_dropped_packets_total{", "", 2),
        ("sluice_roce_packets_total{", "", 2),
        ("sluice_roce_ce_marked_packets_total{", "", 1),
        ("sluice_uplink_host_reach_packets_total{", "", 2),
        ("sluice_uplink_dropped_packets_total{", "block_list", 1),
    ];
    let mut excerpt = Vec::new();
    for (start, part, count) in WANTED {
        let before = excerpt.len();
        let found = text
            .lines()
            .filter(|line| line.starts_with(start) && line.contains(part));
        excerpt.extend(found.take(count));
        ensure!(
            excerpt.len() > before,
            "the metrics have no {start}..}}:\n{text}"
        );
    }
    Ok(excerpt)
}

/// Leaves everything running, with some traffic, until `wait` returns.
pub(in crate::demo) fn keep(stage: &Stage, wait: impl FnOnce() -> Result<()>) -> Result<()> {
    let Stage { agent, topology } = stage;
    let flows = traffic::mix(topology)?;
    let roce = Conversation::open(&topology.red, &topology.blue, 0x31)?
        .flow("RoCE red -> blue", Duration::from_millis(20));
    let node = topology.node.name();
    screen::line(&format!(
        "\nEverything runs on, with traffic. Look around in another shell, as root:\n\n     \
         export SLUICE_SOCKET={} PATH=\"$PATH:{}\"\n     \
         sluice top\n     \
         sluice events\n     \
         nsenter --net=/run/netns/{node} ping {}\n",
        agent.socket().display(),
        agent.program_folder().display(),
        topology.red.v4,
    ));
    screen::line("Enter or Ctrl-C ends it and removes everything.");
    wait()?;
    if interrupt::requested() {
        // Asked for: this is how it ends.
        interrupt::clear();
        return Ok(());
    }
    for flow in flows {
        flow.finish()?;
    }
    roce.finish().map(drop)
}
