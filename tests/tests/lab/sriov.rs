//! Endpoints on virtual functions of an SR-IOV card.

use std::fs;

use anyhow::{Context, Result, ensure};
use sluice_tests::{
    agent::{TestAgent, mechanisms},
    netns::TestNetns,
    node::pings,
    poll::wait_until,
};

use crate::card::{Card, PF};

/// A pod that holds a virtual function, with an address.
fn pod_on(card: &Card, function: &str, address: &str) -> Result<TestNetns> {
    let pod = card.pod(function)?;
    pod.add_address(function, &format!("{address}/24"))?;
    Ok(pod)
}

fn packets(agent: &TestAgent, endpoint: u64, direction: &str) -> Result<u64> {
    let stats = agent.stats(endpoint)?;
    stats[direction]["packets"].as_u64().context("no packets")
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn functions_in_pods_are_endpoints() -> Result<()> {
    let card = Card::up()?;
    card.node.add_address(PF, "10.91.0.1/24")?;
    for mechanism in mechanisms() {
        let functions = card.functions(2)?;
        let mut agent =
            TestAgent::start(&card.node, &["--metrics-address", "off", "--tc", mechanism])?;
        let pods = [
            pod_on(&card, &functions[0], "10.91.0.11")?,
            pod_on(&card, &functions[1], "10.91.0.12")?,
        ];
        let ids = [
            agent.attach(&pods[0], &functions[0])?,
            agent.attach(&pods[1], &functions[1])?,
        ];
        wait_until("the pods to reach each other", || {
            pings(&pods[0], "10.91.0.12")
        })?;
        // The card's own switch connects the node.
        wait_until("the node to reach a pod", || {
            pings(&card.node, "10.91.0.11")
        })?;
        agent.kill()?;
        ensure!(pings(&pods[0], "10.91.0.12")?, "without an agent");
        agent.restart()?;
        for id in ids {
            for direction in ["ingress", "egress"] {
                let packets = packets(&agent, id, direction)?;
                ensure!(packets >= 2, "endpoint {id} {direction}: {packets}");
            }
        }
    }
    Ok(())
}

/// A function goes back to the node when its pod's namespace dies: with its name, and free of the
/// pod's programs, whether an agent runs meanwhile or is started later.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_function_comes_back_free_of_its_pods_programs() -> Result<()> {
    let card = Card::up()?;
    for mechanism in mechanisms() {
        for alive in [true, false] {
            come_back(&card, mechanism, alive)
                .with_context(|| format!("{mechanism}, agent alive: {alive}"))?;
        }
    }
    Ok(())
}

fn come_back(card: &Card, mechanism: &str, alive: bool) -> Result<()> {
    let functions = card.functions(1)?;
    let function = &functions[0];
    let mut agent = TestAgent::start(&card.node, &["--metrics-address", "off", "--tc", mechanism])?;
    let pod = pod_on(card, function, "10.91.0.11")?;
    agent.attach(&pod, function)?;
    if !alive {
        agent.kill()?;
    }
    pod.remove()?;
    ensure!(card.function(0)? == *function, "under another name");
    if !alive {
        agent.restart()?;
    }
    wait_until("the endpoint to be forgotten", || {
        Ok(agent.json(&["endpoints"])?.as_array().map(Vec::len) == Some(0))
    })?;
    let links = fs::read_dir(agent.pins().join("links"))?.count();
    ensure!(links == 0, "{links} links left");
    for direction in ["ingress", "egress"] {
        let filters = card
            .node
            .run("tc", &["filter", "show", "dev", function, direction])?;
        ensure!(!filters.contains("0x51ce"), "left: {filters}");
    }
    Ok(())
}
