//! The metrics, read by Prometheus itself.

use std::{io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    node::{POD_INTERFACE, TestNode, UPLINK, pings},
    prometheus::{Prometheus, http_get},
};

/// Where the agent serves its metrics, inside the node's namespace.
const METRICS: &str = "127.0.0.1:9655";

fn agent_with_traffic(setup: &TestNode) -> Result<TestAgent> {
    let agent = TestAgent::start(&setup.node, &["--metrics-address", METRICS])?;
    agent.run(&["uplink", "add", UPLINK])?;
    for (number, pod) in setup.pods.iter().enumerate() {
        agent.run(&[
            "attach",
            "--netns",
            pod.name(),
            POD_INTERFACE,
            "--pod",
            &format!("shop/web-{number}"),
        ])?;
    }
    ensure!(pings(&setup.pods[0], "10.78.0.12")?);
    agent.run(&["block", "add", "192.0.2.0/24"])?;
    Ok(agent)
}

#[test]
fn promtool_finds_nothing_to_say() -> Result<()> {
    let setup = TestNode::new(2)?;
    let _agent = agent_with_traffic(&setup)?;
    let text = http_get(&setup.node, METRICS, "/metrics")?;
    ensure!(text.contains("sluice_endpoint_packets_total"), "{text}");
    let mut promtool = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    let checked = promtool.wait_with_output()?;
    ensure!(
        checked.status.success() && checked.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
    Ok(())
}

#[test]
fn prometheus_scrapes_and_answers_by_pod() -> Result<()> {
    let setup = TestNode::new(2)?;
    let agent = agent_with_traffic(&setup)?;
    let prometheus = Prometheus::start(&setup.node, METRICS)?;
    let value = prometheus.value(
        "sum(sluice_endpoint_packets_total{namespace=\"shop\",pod=\"web-0\",direction=\"egress\"})",
    )?;
    let stats = agent.json(&["stats"])?;
    let counted = stats["endpoints"][0]["egress"]["packets"]
        .as_f64()
        .context("no count")?;
    ensure!(
        value > 0.0 && value <= counted,
        "scraped {value}, counted {counted}"
    );
    Ok(())
}
