//! The CNI plugin as the main plugin for macvlan and ipvlan, in every mode.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sluice_tests::{
    cni::{
        chain::Chain,
        node::{CniNode, CniPod, INTERFACE, static_ipam},
    },
    node::{MACHINE, UPLINK, pings},
    poll::wait_until,
};

/// A pod of this kind and mode is added, is what it was to be, is reached by another machine and
/// counted, and leaves nothing.
fn one(kind: &str, mode: &str) -> Result<()> {
    let node = CniNode::new()?;
    let address = "10.78.0.77";
    let machine = &node.node.machine;
    if mode == "l3" {
        // Such a pod answers no neighbour discovery.
        let mac = node.node.node.describe(UPLINK)?["address"].clone();
        let mac = mac.as_str().context("no MAC address")?;
        machine.ip(&format!(
            "neighbor replace {address} lladdr {mac} dev eth0 nud permanent"
        ))?;
    }
    let before = node.look(&[])?;
    let pod = CniPod::new("pod-1")?;
    let plugin = json!({
        "type": "sluice", "mode": kind, "master": UPLINK, format!("{kind}Mode"): mode,
        "mtu": 1400, "ipam": static_ipam(address),
    });
    let chain = Chain::of("1.0.0", "net", &[plugin]);
    let added = chain.add(&node.sandbox, &pod.call("ADD"))?;
    let interface = pod.netns.describe(INTERFACE)?;
    let info = &interface["linkinfo"];
    ensure!(info["info_kind"] == kind, "{interface}");
    ensure!(info["info_data"]["mode"] == mode, "{interface}");
    ensure!(interface["mtu"] == 1400, "{interface}");
    let listed = &added["interfaces"][0];
    ensure!(listed["mac"] == interface["address"], "{added}");
    ensure!(listed["name"] == INTERFACE, "{added}");
    pod.ensure_protected()?;
    wait_until("the pod to answer", || pings(machine, address))?;
    wait_until("the machine to answer", || pings(&pod.netns, MACHINE[0]))?;
    let id = node.endpoints()?[0]["id"].as_u64().context("no endpoint")?;
    let stats = node.agent.stats(id)?;
    for direction in ["ingress", "egress"] {
        let packets = stats[direction]["packets"].as_u64();
        ensure!(packets >= Some(2), "{direction}: {packets:?}");
    }
    chain.check(&node.sandbox, &pod.call("CHECK"), &added)?;
    chain.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
    node.wait_same(&before, &[])
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn pods_of_every_mode_are_made_and_leave_nothing() -> Result<()> {
    for (kind, mode) in [
        ("macvlan", "bridge"),
        ("macvlan", "private"),
        ("macvlan", "vepa"),
        ("macvlan", "passthru"),
        ("ipvlan", "l2"),
        ("ipvlan", "l3"),
    ] {
        one(kind, mode).with_context(|| format!("{kind} {mode}"))?;
    }
    Ok(())
}
