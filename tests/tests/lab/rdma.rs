//! Soft-RoCE between pods of one node: what Sluice counts on the wire is what the devices say they
//! sent and received, and what tshark captured. In the RDMA subsystem's mode that the machine was
//! booted for.

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::pings,
    poll::{wait_for, wait_until},
};

use crate::{
    card::{Card, PF},
    rxe::{Capture, Operations, Rxe, exclusive, succeeded},
};

pub(crate) const TOOLS: [&str; 3] = ["ib_write_bw", "ib_read_lat", "ib_send_bw"];

/// RoCE packets of an endpoint by direction and operation, as Sluice counted them.
pub(crate) fn counted(agent: &TestAgent, endpoint: u64) -> Result<Operations> {
    let stats = agent.stats(endpoint)?;
    let mut operations = Operations::new();
    for count in stats["roce"].as_array().context("no list")? {
        if count["operation"] == true {
            let text = |field: &str| count[field].as_str().unwrap_or_default().to_owned();
            let packets = count["packets"].as_u64().context("no packets")?;
            *operations
                .entry((text("direction"), text("kind")))
                .or_default() += packets;
        }
    }
    Ok(operations)
}

/// Received and sent, of all operations.
pub(crate) fn totals(operations: &Operations) -> (u64, u64) {
    let total = |wanted: &str| {
        operations
            .iter()
            .filter(|((direction, _), _)| direction == wanted)
            .map(|(_, packets)| packets)
            .sum()
    };
    (total("ingress"), total("egress"))
}

/// Waits until the device and Sluice agree: the last acknowledgement may be under way.
pub(crate) fn agree(agent: &TestAgent, endpoint: u64, device: &Rxe<'_>) -> Result<Operations> {
    let mut last = String::new();
    wait_for("Sluice's counters to agree with the device's", || {
        let counted = counted(agent, endpoint)?;
        let packets = device.packets()?;
        last = format!("device {packets:?}, Sluice {counted:?}");
        Ok((packets.0 > 0 && packets == totals(&counted)).then_some(counted))
    })
    .with_context(|| last)
}

/// Every tool once between two pods; both ends' counters against both devices' and a capture.
fn exchange(card: &Card, pods: &[TestNetns; 2], interfaces: [&str; 2]) -> Result<()> {
    let addresses = ["10.92.0.11", "10.92.0.12"];
    let agent = TestAgent::start(&card.node, &["--metrics-address", "off"])?;
    for ((pod, interface), address) in pods.iter().zip(interfaces).zip(addresses) {
        pod.add_address(interface, &format!("{address}/24"))?;
    }
    wait_until("the pods to reach each other", || {
        pings(&pods[0], addresses[1])
    })?;
    let devices = [0, 1].map(|n| Rxe::new(&card.node, &pods[n], interfaces[n], addresses[n]));
    let [server, client] = devices;
    let (server, client) = (server?, client?);
    let ids = [
        agent.attach(&pods[0], interfaces[0])?,
        agent.attach(&pods[1], interfaces[1])?,
    ];
    let capture = Capture::start(&pods[1], interfaces[1])?;
    for tool in TOOLS {
        let serving = server.serve(tool)?;
        succeeded(&client.call(tool, addresses[0])?).with_context(|| format!("{tool}, client"))?;
        serving
            .finish()
            .with_context(|| format!("{tool}, server"))?;
    }
    agree(&agent, ids[0], &server)?;
    let counted = agree(&agent, ids[1], &client)?;
    let captured = capture.stop(addresses[1])?;
    ensure!(
        captured == counted,
        "captured {captured:?}, counted {counted:?}"
    );
    for kind in ["write", "read_request", "send"] {
        let sent = counted.get(&("egress".into(), kind.into()));
        ensure!(sent >= Some(&50), "{kind}: {sent:?} of 50 messages");
    }
    Ok(())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn roce_between_functions_is_counted_as_devices_and_tshark_do() -> Result<()> {
    let card = Card::up()?;
    let functions = card.functions(2)?;
    let pods = [card.pod(&functions[0])?, card.pod(&functions[1])?];
    exchange(&card, &pods, [&functions[0], &functions[1]])
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn roce_between_macvlan_pods_is_counted_as_devices_and_tshark_do() -> Result<()> {
    let card = Card::up()?;
    let pods = [TestNetns::new()?, TestNetns::new()?];
    for pod in &pods {
        card.node.add_macvlan(PF, pod, "net1", "bridge")?;
    }
    exchange(&card, &pods, ["net1", "net1"])
}

/// In exclusive mode a device is seen in its pod alone; in shared mode everywhere.
#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn rdma_devices_are_where_the_mode_says() -> Result<()> {
    let card = Card::up()?;
    let functions = card.functions(2)?;
    let pods = [card.pod(&functions[0])?, card.pod(&functions[1])?];
    let device = Rxe::new(&card.node, &pods[0], &functions[0], "10.92.0.11")?;
    let sees = |netns: &TestNetns| -> Result<bool> {
        Ok(netns.run("rdma", &["link"])?.contains(&device.name))
    };
    let alone = exclusive(&card.node)?;
    ensure!(sees(&pods[0])?, "its pod");
    ensure!(sees(&pods[1])? != alone, "the other pod");
    ensure!(sees(&card.node)? != alone, "the node");
    Ok(())
}
