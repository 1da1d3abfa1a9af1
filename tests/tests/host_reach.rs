//! The node and its macvlan pods reach each other through the uplink's
//! programs alone.

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{MACHINE, NODE, POD_INTERFACE, TestNode, UPLINK, addresses, pings},
    poll::wait_until,
    traffic::transfer,
};

/// Routes, rules, neighbours' owners, addresses and links of a namespace: what
/// host reach must leave alone.
fn network_of(netns: &TestNetns) -> Result<String> {
    let mut all = String::new();
    for command in [
        "link show type macvlan",
        "-4 route show table all",
        "-6 route show table all",
        "-4 rule",
        "-6 rule",
        "-brief address",
    ] {
        all.push_str(&netns.ip(command)?);
    }
    Ok(all)
}

#[test]
fn node_and_pods_reach_each_other_and_nothing_else_changes() -> Result<()> {
    let setup = TestNode::new(2)?;
    let (node, machine, pods) = (&setup.node, &setup.machine, &setup.pods);
    setup.settle()?;
    let before = network_of(node)?;
    let agent = TestAgent::start(node, &["--metrics-address", "off"])?;
    for pod in pods {
        agent.attach(pod, POD_INTERFACE)?;
    }
    for address in addresses(0) {
        ensure!(
            !pings(node, &address)?,
            "{address} answers before there is an uplink"
        );
    }

    agent.run(&["uplink", "add", UPLINK])?;
    for (number, pod) in pods.iter().enumerate() {
        for (pod_address, node_address) in addresses(number).iter().zip(NODE) {
            // The node may still be waiting for the answer that it did not get
            // before.
            wait_until(&format!("node -> {pod_address}"), || {
                pings(node, pod_address)
            })?;
            wait_until(&format!("{pod_address} -> node"), || {
                pings(pod, node_address)
            })?;
            transfer(node, pod, pod_address)?;
            transfer(pod, node, node_address)?;
        }
    }
    // What goes elsewhere goes as before.
    for (pod_address, machine_address) in addresses(0).iter().zip(MACHINE) {
        transfer(&pods[0], machine, machine_address)?;
        transfer(machine, &pods[0], pod_address)?;
        transfer(node, machine, machine_address)?;
        transfer(&pods[1], &pods[0], pod_address)?;
    }
    ensure!(
        network_of(node)? == before,
        "the node's network has changed"
    );

    let uplinks = agent.json(&["stats"])?;
    let counters = &uplinks["uplinks"][0]["counters"];
    for counter in ["node_to_pod", "pod_to_node", "neighbor_copied"] {
        let packets = counters[counter]["packets"].as_u64();
        ensure!(packets > Some(0), "{counter}: {packets:?}");
    }

    // Off again.
    agent.run(&["uplink", "add", UPLINK, "--no-host-reach"])?;
    for address in addresses(0) {
        ensure!(
            !pings(node, &address)?,
            "{address} answers with host reach off"
        );
    }
    ensure!(pings(&pods[0], MACHINE[0])?);
    Ok(())
}

#[test]
fn only_known_endpoints_are_reached() -> Result<()> {
    let setup = TestNode::new(2)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    agent.run(&["uplink", "add", UPLINK])?;
    agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let [known, _] = addresses(0);
    let [unknown, _] = addresses(1);
    ensure!(pings(&setup.node, &known)?);
    ensure!(
        !pings(&setup.node, &unknown)?,
        "a pod that is no endpoint answers"
    );
    agent.run(&["detach", "--netns", setup.pods[0].name(), POD_INTERFACE])?;
    // The node's neighbour entry may still know the pod's address.
    ensure!(!pings(&setup.node, &known)?, "a detached pod answers");
    Ok(())
}

#[test]
fn addresses_that_come_and_go_are_followed() -> Result<()> {
    let setup = TestNode::new(1)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    agent.run(&["uplink", "add", UPLINK])?;
    agent.attach(&setup.pods[0], POD_INTERFACE)?;
    let pod = &setup.pods[0];
    for (address, prefix) in [("10.78.0.99", 24), ("fd78::99", 64)] {
        ensure!(!pings(&setup.node, address)?);
        pod.add_address(POD_INTERFACE, &format!("{address}/{prefix}"))?;
        wait_until("the new address to answer", || pings(&setup.node, address))?;
    }
    pod.ip(&format!("link set {POD_INTERFACE} down"))?;
    pod.ip(&format!(
        "link set {POD_INTERFACE} address 02:00:00:00:12:34 up"
    ))?;
    let [address, _] = addresses(0);
    wait_until("the pod to answer under its new MAC address", || {
        pings(&setup.node, &address)
    })
}

#[test]
fn duplicate_address_detection_works_as_on_a_wire() -> Result<()> {
    let setup = TestNode::new(1)?;
    let agent = TestAgent::start(&setup.node, &["--metrics-address", "off"])?;
    agent.run(&["uplink", "add", UPLINK])?;
    let pod = &setup.pods[0];
    agent.attach(pod, POD_INTERFACE)?;
    let state = |address: &str| -> Result<String> {
        pod.ip(&format!(
            "-6 -o address show dev {POD_INTERFACE} to {address}"
        ))
    };
    let settled = |address: &str| -> Result<String> {
        pod.ip(&format!("address add {address}/64 dev {POD_INTERFACE}"))?;
        wait_until("duplicate address detection to end", || {
            let state = state(address)?;
            Ok(!state.is_empty() && (state.contains("dadfailed") || !state.contains("tentative")))
        })?;
        state(address)
    };
    // Its own probe must not come back to it.
    let fresh = settled("fd78::abcd")?;
    ensure!(!fresh.contains("dadfailed"), "{fresh}");
    // The node defends its address, which without host reach it could not.
    let taken = settled(NODE[1])?;
    ensure!(taken.contains("dadfailed"), "{taken}");
    Ok(())
}
