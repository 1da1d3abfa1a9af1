//! Chained behind the reference sriov-cni plugin.

use std::{env, os::unix::fs::symlink};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sluice_tests::{cni::chain::Chain, netns::TestNetns, node::pings, poll::wait_until};

use crate::cni::{Node, call};

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn functions_that_sriov_cni_lends_are_endpoints_and_go_back() -> Result<()> {
    let mut node = Node::new(2)?;
    let sriov = env::var_os("SLUICE_SRIOV_CNI")
        .context("SLUICE_SRIOV_CNI is not set; run the tests with `cargo xtask test --lab`")?;
    symlink(sriov, node.sandbox.bin().join("sriov"))?;
    let before = [node.state(0)?, node.state(1)?];
    let pods = [TestNetns::new()?, TestNetns::new()?];
    let mut added = Vec::new();
    for (number, pod) in (0..).zip(&pods) {
        let device = node.card.address(number)?;
        let address = format!("10.97.0.1{number}/24");
        let plugins = [
            json!({
                "type": "sriov", "deviceID": device, "vlan": 100, "spoofchk": "off",
                "ipam": {"type": "static", "addresses": [{"address": address}]},
            }),
            json!({"type": "sluice", "deviceID": device}),
        ];
        let chain = Chain::of("1.0.0", "fast", &plugins);
        let result = chain.add(&node.sandbox, &call("ADD", &format!("pod-{number}"), pod))?;
        ensure!(result["ips"][0]["address"] == address, "{result}");
        added.push((chain, result));
    }
    wait_until("the pods to reach each other", || {
        pings(&pods[0], "10.97.0.11")
    })?;
    let endpoints = node.agent.json(&["endpoints"])?;
    let endpoints = endpoints.as_array().context("no list")?;
    ensure!(endpoints.len() == 2, "{endpoints:?}");
    for endpoint in endpoints {
        let stats = node
            .agent
            .stats(endpoint["id"].as_u64().context("no id")?)?;
        for direction in ["ingress", "egress"] {
            ensure!(stats[direction]["packets"].as_u64() > Some(0), "{stats}");
        }
    }

    // The agent may die in between; both plugins undo their own part.
    node.agent.kill()?;
    node.agent.restart()?;
    for (number, ((chain, result), pod)) in added.iter().zip(&pods).enumerate() {
        let call = call("DEL", &format!("pod-{number}"), pod);
        chain.del(&node.sandbox, &call, Some(result))?;
        let after = node.state(u32::try_from(number)?)?;
        ensure!(
            after == before[number],
            "{after:?} was {:?}",
            before[number]
        );
    }
    ensure!(node.agent.json(&["endpoints"])? == json!([]));
    let links = std::fs::read_dir(node.agent.pins().join("links"))?.count();
    ensure!(links == 0, "{links} links left");
    Ok(())
}
