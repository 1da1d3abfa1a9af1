//! Uplinks that are no plain NIC: a VLAN on one, and a bond. Tagged interfaces of pods.

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{MACHINE, NODE, POD_INTERFACE, UPLINK, addresses, pings},
    poll::wait_until,
};

const OPTIONS: &[&str] = &["--metrics-address", "off"];

/// A node, another machine, and a veth pair between `up0` and `eth0`; nothing has an address.
fn wire() -> Result<[TestNetns; 2]> {
    let (node, machine) = (TestNetns::new()?, TestNetns::new()?);
    node.add_veth(UPLINK, &machine, "eth0")?;
    Ok([node, machine])
}

fn vlan(netns: &TestNetns, parent: &str) -> Result<String> {
    let name = format!("{parent}.5");
    netns.ip(&format!(
        "link add link {parent} name {name} up type vlan id 5"
    ))?;
    Ok(name)
}

fn add_addresses(netns: &TestNetns, interface: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    netns.add_address(interface, &format!("{v4}/24"))?;
    netns.add_address(interface, &format!("{v6}/64"))
}

/// Two pods on macvlan of `uplink`: node, pods and machine all reach each other.
fn all_reach_all(node: &TestNetns, uplink: &str, machine: &TestNetns, link: &str) -> Result<()> {
    add_addresses(node, uplink, NODE)?;
    add_addresses(machine, link, MACHINE)?;
    let agent = TestAgent::start(node, OPTIONS)?;
    agent.run(&["uplink", "add", uplink])?;
    let mut pods = Vec::new();
    for number in 0..2 {
        let pod = TestNetns::new()?;
        node.add_child(uplink, &pod, POD_INTERFACE, "macvlan mode bridge")?;
        let [v4, v6] = addresses(number);
        add_addresses(&pod, POD_INTERFACE, [&v4, &v6])?;
        agent.attach(&pod, POD_INTERFACE)?;
        pods.push(pod);
    }
    let pod_addresses = addresses(0);
    let [v4, v6] = addresses(1);
    for (from, to) in [
        (node, [pod_addresses[0].as_str(), pod_addresses[1].as_str()]),
        (machine, [&pod_addresses[0], &pod_addresses[1]]),
        (&pods[0], NODE),
        (&pods[0], MACHINE),
        (&pods[0], [&v4, &v6]),
        (node, MACHINE),
    ] {
        for address in to {
            wait_until(&format!("{address} to answer {}", from.name()), || {
                pings(from, address)
            })?;
        }
    }
    let stats = agent.json(&["stats"])?;
    let counters = &stats["uplinks"][0]["counters"];
    for counter in ["node_to_pod", "pod_to_node", "neighbor_copied", "received"] {
        let packets = counters[counter]["packets"].as_u64();
        ensure!(packets > Some(0), "{counter}: {stats}");
    }
    ensure!(
        stats["endpoints"][0]["drops"]
            .as_array()
            .is_some_and(Vec::is_empty),
        "{stats}"
    );
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_vlan_can_be_an_uplink() -> Result<()> {
    let [node, machine] = wire()?;
    let (uplink, link) = (vlan(&node, UPLINK)?, vlan(&machine, "eth0")?);
    all_reach_all(&node, &uplink, &machine, &link)
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_bond_can_be_an_uplink() -> Result<()> {
    let [node, machine] = wire()?;
    node.ip("link add bond0 type bond mode active-backup miimon 10")?;
    node.ip(&format!("link set {UPLINK} down"))?;
    node.ip(&format!("link set {UPLINK} master bond0"))?;
    node.set_up("bond0")?;
    node.wait_carrier("bond0")?;
    all_reach_all(&node, "bond0", &machine, "eth0")
}

/// A pod puts a VLAN of its own on its interface: its packets are told by what is behind the tag,
/// which is in the packet's metadata.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn a_pods_own_vlan_is_counted_behind_its_tag() -> Result<()> {
    let [node, machine] = wire()?;
    let pod = TestNetns::new()?;
    node.add_child(UPLINK, &pod, POD_INTERFACE, "macvlan mode bridge")?;
    let (link, inner) = (vlan(&machine, "eth0")?, vlan(&pod, POD_INTERFACE)?);
    add_addresses(&machine, &link, MACHINE)?;
    let [v4, v6] = addresses(0);
    add_addresses(&pod, &inner, [&v4, &v6])?;
    let agent = TestAgent::start(&node, OPTIONS)?;
    agent.run(&["uplink", "add", UPLINK])?;
    let id = agent.attach(&pod, POD_INTERFACE)?;
    for address in MACHINE {
        wait_until(&format!("{address} to answer"), || pings(&pod, address))?;
    }
    // RoCE behind the tag, both ways: what the programs look for lies deepest.
    for (from, to, port) in [(&pod, MACHINE[0], 4791), (&machine, v4.as_str(), 4791)] {
        from.run(
            "python3",
            &[
                "-c",
                &format!(
                    "import socket\n\
                     socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(\
                     bytes.fromhex('0440ffff0000001180000005') + bytes(20), ('{to}', {port}))"
                ),
            ],
        )?;
    }
    wait_until("both RoCE packets to be counted", || {
        let stats = agent.stats(id)?;
        let roce = stats["roce"].as_array().cloned().unwrap_or_default();
        let sends = roce.iter().filter(|count| count["kind"] == "send");
        Ok(sends.count() == 2)
    })?;
    let stats = agent.stats(id)?;
    ensure!(
        stats["drops"].as_array().is_some_and(Vec::is_empty),
        "{stats}"
    );
    Ok(())
}
