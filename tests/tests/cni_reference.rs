//! The harness by itself: reference plugins, clients and runtime without anything of ours, so that
//! what later tests find is ours and not theirs.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice_tests::{
    cni::{call::Call, chain::Chain, containerd::Containerd, sandbox::Sandbox, snapshot::Snapshot},
    netns::{TestNetns, output},
    node::{TestNode, UPLINK, pings},
};

/// Macvlan on the node's uplink, addresses from host-local.
fn macvlan() -> Value {
    json!({
        "type": "macvlan",
        "master": UPLINK,
        "mode": "bridge",
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.78.0.0/24", "rangeStart": "10.78.0.100", "rangeEnd": "10.78.0.150"}]]},
    })
}

fn look(node: &TestNode, pod: &TestNetns, sandbox: &Sandbox) -> Result<Snapshot> {
    let lib = sandbox.lib_cni();
    Snapshot::take(&[("node", &node.node), ("pod", pod)], &[&lib], None)
}

#[test]
fn a_reference_chain_adds_pings_and_leaves_nothing() -> Result<()> {
    let node = TestNode::new(0)?;
    node.settle()?;
    let pod = TestNetns::new()?;
    let sandbox = Sandbox::bare(&node.node)?;
    let chain = Chain::of("1.0.0", "net", &[macvlan()]);
    let path = pod.path().display().to_string();
    let first = Call::new("ADD", "warm-up", &path, "net1");
    // Host-local leaves a lock and the last address that it gave.
    let added = chain.add(&sandbox, &first)?;
    chain.del(
        &sandbox,
        &Call {
            verb: "DEL".into(),
            ..first
        },
        Some(&added),
    )?;
    let before = look(&node, &pod, &sandbox)?;

    let call = Call::new("ADD", "pod-1", &path, "net1");
    let added = chain.add(&sandbox, &call)?;
    assert_eq!(added["interfaces"][0]["name"], "net1");
    assert!(pings(&node.machine, "10.78.0.101")?, "{added}");
    let differences = before.differences(&look(&node, &pod, &sandbox)?).join("\n");
    for expected in [
        "+ pod link net1",
        "+ pod route: 10.78.0.0/24 dev net1",
        "10.78.0.101",
    ] {
        assert!(differences.contains(expected), "{expected}:\n{differences}");
    }
    chain.check(
        &sandbox,
        &Call {
            verb: "CHECK".into(),
            ..call.clone()
        },
        &added,
    )?;
    chain.del(
        &sandbox,
        &Call {
            verb: "DEL".into(),
            ..call
        },
        Some(&added),
    )?;
    let after = look(&node, &pod, &sandbox)?;
    let differences = before.differences(&after);
    // The only thing that may differ: which address was given last.
    assert!(
        differences
            .iter()
            .all(|line| line.contains("last_reserved_ip")),
        "{differences:#?}"
    );
    Ok(())
}

#[test]
fn cnitool_adds_and_removes() -> Result<()> {
    let node = TestNode::new(0)?;
    let pod = TestNetns::new()?;
    let sandbox = Sandbox::bare(&node.node)?;
    let chain = Chain::of("1.0.0", "net", &[macvlan()]);
    sandbox.configure("10-net.conflist", chain.list())?;
    let result: Value = serde_json::from_str(&output(&mut sandbox.cnitool("add", "net", &pod)?)?)?;
    assert_eq!(result["ips"][0]["address"], "10.78.0.100/24");
    assert!(pings(&node.machine, "10.78.0.100")?);
    output(&mut sandbox.cnitool("check", "net", &pod)?)?;
    output(&mut sandbox.cnitool("del", "net", &pod)?)?;
    assert!(pod.ip("link show eth0").is_err());
    assert!(!sandbox.lib_cni().join("networks/net/10.78.0.100").exists());
    Ok(())
}

#[test]
fn multus_runs_two_delegates_and_hands_over_the_device() -> Result<()> {
    let node = TestNode::new(0)?;
    let pod = TestNetns::new()?;
    let sandbox = Sandbox::bare(&node.node)?;
    // A plugin that keeps what it was given.
    sandbox.script(
        "witness",
        "#!/bin/sh\ncat > /var/lib/cni/witness-$CNI_COMMAND-$CNI_IFNAME\n\
         [ $CNI_COMMAND != ADD ] || printf '{\"cniVersion\":\"1.0.0\",\"interfaces\":[]}'\n",
    )?;
    let second = json!({
        "cniVersion": "1.0.0", "name": "second",
        "plugins": [
            macvlan(),
            {"type": "witness", "deviceID": "0000:01:00.1", "pciBusID": "0000:01:00.1", "capabilities": {"deviceID": true, "CNIDeviceInfoFile": true}},
        ],
    });
    let config = json!({
        "cniVersion": "1.0.0", "name": "multus", "type": "multus", "logLevel": "error",
        "runtimeConfig": {"deviceID": "0000:01:00.1"},
        "delegates": [{"cniVersion": "1.0.0", "name": "first", "plugins": [macvlan()]}, second],
    });
    let call = Call::new("ADD", "pod-1", &pod.path().display().to_string(), "eth0");
    let added = call.run(&sandbox, "multus", &config)?.result()?;
    assert_eq!(added["interfaces"][0]["name"], "eth0", "{added}");
    for (interface, address) in [("eth0", "10.78.0.100"), ("net1", "10.78.0.100")] {
        // Two networks, each with its own list of addresses.
        assert_eq!(pod.describe(interface)?["addr_info"][0]["local"], address);
    }
    let given = std::fs::read(sandbox.lib_cni().join("witness-ADD-net1"))?;
    let given: Value = serde_json::from_slice(&given)?;
    assert_eq!(given["deviceID"], "0000:01:00.1");
    assert_eq!(given["runtimeConfig"]["deviceID"], "0000:01:00.1");
    let info = given["runtimeConfig"]["CNIDeviceInfoFile"].as_str();
    assert!(info.context("no file")?.starts_with('/'), "{given}");

    let call = Call {
        verb: "DEL".into(),
        ..call
    };
    call.run(&sandbox, "multus", &config)?.result()?;
    for interface in ["eth0", "net1"] {
        assert!(pod.ip(&format!("link show {interface}")).is_err());
    }
    Ok(())
}

#[test]
fn containerd_runs_a_pod() -> Result<()> {
    let node = TestNode::new(0)?;
    let sandbox = Sandbox::bare(&node.node)?;
    sandbox.configure(
        "10-net.conflist",
        Chain::of("1.0.0", "net", &[macvlan()]).list(),
    )?;
    let containerd = Containerd::start(&sandbox)?;
    let pod = containerd.pod("web")?;
    assert!(Path::new(&pod.netns()).exists());
    let addresses = pod.run(&["/bin/ip", "address", "show", "eth0"])?;
    assert!(addresses.contains("10.78.0.100/24"), "{addresses}");
    assert!(pings(&node.machine, "10.78.0.100")?);
    pod.run(&["/bin/ping", "-c", "1", "-W", "2", "10.78.0.254"])?;
    pod.stop()?;
    assert!(!sandbox.lib_cni().join("networks/net/10.78.0.100").exists());
    Ok(())
}
