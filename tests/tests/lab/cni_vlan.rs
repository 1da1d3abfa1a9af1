//! Macvlan and ipvlan pods in VLANs: they share a VLAN interface on the master, which comes with the first and
//! goes with the last.

use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    cni::{
        chain::Chain,
        node::{CniNode, CniPod, INTERFACE, main_macvlan, static_ipam},
    },
    node::{UPLINK, pings},
    poll::wait_until,
};

const VLAN: u16 = 100;
/// Of the other machine, in the VLAN.
const MACHINE: &str = "10.79.0.254";

fn chain_of(kind: &str, address: &str, vlan: u16) -> Chain {
    let mut plugin = main_macvlan(&static_ipam(address));
    plugin["mode"] = json!(kind);
    plugin["vlan"] = json!(vlan);
    Chain::of("1.0.0", "net", &[plugin])
}

fn chain(address: &str, vlan: u16) -> Chain {
    chain_of("macvlan", address, vlan)
}

/// The node's VLAN interfaces.
fn vlans(node: &CniNode) -> Result<Vec<String>> {
    let links = node.node.node.ip("-json link show type vlan")?;
    let links: Vec<Value> = serde_json::from_str(&links)?;
    let names = links.iter().filter_map(|link| link["ifname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn pods_of_a_vlan_reach_each_other_and_leave_nothing() -> Result<()> {
    ["macvlan", "ipvlan"]
        .into_iter()
        .try_for_each(|kind| reach_each_other(kind).context(kind))
}

fn reach_each_other(kind: &str) -> Result<()> {
    let node = CniNode::new()?;
    let machine = &node.node.machine;
    machine.ip(&format!(
        "link add link eth0 name in100 type vlan id {VLAN}"
    ))?;
    machine.set_up("in100")?;
    machine.add_address("in100", &format!("{MACHINE}/24"))?;
    let pods = [
        CniPod::new("pod-1")?,
        CniPod::new("pod-2")?,
        CniPod::new("pod-3")?,
    ];
    let before = node.look(&[])?;
    let chains = [
        chain_of(kind, "10.79.0.11", VLAN),
        chain_of(kind, "10.79.0.12", VLAN),
        chain_of(kind, "10.79.0.13", 200),
    ];
    let mut added = Vec::new();
    for (chain, pod) in chains.iter().zip(&pods) {
        added.push(chain.add(&node.sandbox, &pod.call("ADD"))?);
    }
    ensure!(vlans(&node)?.len() == 2, "{:?}", vlans(&node)?);
    for address in [MACHINE, "10.79.0.12"] {
        wait_until(&format!("{address} to answer"), || {
            pings(&pods[0].netns, address)
        })?;
        ensure!(!pings(&pods[2].netns, address)?, "from another VLAN");
    }
    ensure!(node.endpoints()?.len() == 3);
    pods[0].ensure_protected()?;

    let del = |number: usize| {
        let call = pods[number].call("DEL");
        chains[number].del(&node.sandbox, &call, Some(&added[number]))
    };
    del(0)?;
    ensure!(vlans(&node)?.len() == 2, "one pod of the VLAN is left");
    ensure!(pings(&pods[1].netns, MACHINE)?);
    del(2)?;
    ensure!(vlans(&node)?.len() == 1, "{:?}", vlans(&node)?);
    del(1)?;
    node.wait_same(&before, &[])
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_vlan_interface_of_the_nodes_own_is_used_and_stays() -> Result<()> {
    let node = CniNode::new()?;
    node.node.node.ip(&format!(
        "link add link {UPLINK} name mine type vlan id {VLAN}"
    ))?;
    node.node.node.set_up("mine")?;
    let before = node.look(&[])?;
    let pod = CniPod::new("pod-1")?;
    let chain = chain("10.79.0.11", VLAN);
    let added = chain.add(&node.sandbox, &pod.call("ADD"))?;
    ensure!(vlans(&node)? == ["mine"]);
    chain.del(&node.sandbox, &pod.call("DEL"), Some(&added))?;
    node.wait_same(&before, &[])
}

/// With a restart of the agent in between, which finds in its records who needs the interface.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn pods_that_come_and_go_at_once_leave_no_vlan_interface() -> Result<()> {
    let mut node = CniNode::new()?;
    let before = node.look(&[])?;
    let pods = (0..8)
        .map(|number| CniPod::new(&format!("pod-{number}")))
        .collect::<Result<Vec<_>>>()?;
    let each = |node: &CniNode, verb: &str| -> Result<()> {
        thread::scope(|scope| {
            let calls: Vec<_> = pods
                .iter()
                .zip(11..)
                .map(|(pod, host)| {
                    let chain = chain(&format!("10.79.0.{host}"), VLAN);
                    scope.spawn(move || match verb {
                        "ADD" => chain.add(&node.sandbox, &pod.call(verb)).map(drop),
                        _ => chain.del(&node.sandbox, &pod.call(verb), None),
                    })
                })
                .collect();
            let mut calls = calls.into_iter();
            calls.try_for_each(|call| call.join().expect("no panic"))
        })
    };
    for _ in 0..3 {
        each(&node, "ADD")?;
        ensure!(vlans(&node)?.len() == 1, "{:?}", vlans(&node)?);
        node.agent.kill()?;
        node.agent.restart()?;
        each(&node, "DEL")?;
        node.wait_same(&before, &[])?;
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn an_agent_that_dies_after_it_made_the_vlan_interface_leaves_none() -> Result<()> {
    let mut node = CniNode::with_failpoints()?;
    let before = node.look(&[])?;
    let pod = CniPod::new("pod-1")?;
    let chain = chain("10.79.0.11", VLAN);
    node.agent
        .set_environment("FAILPOINTS", "cni::add::after_vlan=return(kill)");
    node.agent.kill()?;
    node.agent.restart()?;
    ensure!(chain.add(&node.sandbox, &pod.call("ADD")).is_err());
    node.agent.wait_dead()?;
    ensure!(vlans(&node)?.len() == 1, "it was made");
    node.agent.set_environment("FAILPOINTS", "");
    node.agent.restart()?;
    chain.del(&node.sandbox, &pod.call("DEL"), None)?;
    node.wait_same(&before, &[])?;
    let added = chain.add(&node.sandbox, &pod.call("ADD"))?;
    ensure!(pod.protected(INTERFACE)?, "{added}");
    chain
        .del(&node.sandbox, &pod.call("DEL"), Some(&added))
        .context("the last DEL")?;
    node.wait_same(&before, &[])
}
