//! Soft-RoCE under policy: its packets are seen, and so judged. What a NIC sends by itself is not.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    agent::TestAgent,
    netns::TestNetns,
    node::{POD_INTERFACE, addresses, pings},
    policy::{PolicyFolder, namespace, pod, policy},
    poll::wait_until,
};

use crate::{
    card::{Card, PF},
    rxe::{Rxe, succeeded},
};

const TOOL: &str = "ib_write_bw";
const NAMES: [&str; 2] = ["server", "client"];

/// What the client may send to the server.
fn rules(ports: Value) -> Value {
    policy(
        "x",
        "in",
        json!({
            "podSelector": {"matchLabels": {"pod": "server"}},
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"pod": "client"}}}],
                "ports": ports,
            }],
        }),
    )
}

/// RoCE packets that policy kept from an endpoint.
fn denied(agent: &TestAgent, endpoint: u64) -> Result<u64> {
    let stats = agent.stats(endpoint)?;
    let drops = stats["drops"].as_array().context("no drops")?;
    let denied = drops
        .iter()
        .filter(|drop| drop["reason"] == "policy_denied" && drop["direction"] == "ingress");
    Ok(denied.filter_map(|drop| drop["packets"].as_u64()).sum())
}

#[test]
#[ignore = "runs in the lab: cargo xtask test --lab"]
fn soft_roce_reaches_a_pod_only_if_its_policy_lets_it() -> Result<()> {
    let card = Card::up()?;
    let pods = [TestNetns::new()?, TestNetns::new()?];
    for (at, pod) in pods.iter().enumerate() {
        card.node.add_macvlan(PF, pod, POD_INTERFACE, "bridge")?;
        let [address, _] = addresses(at);
        pod.add_address(POD_INTERFACE, &format!("{address}/24"))?;
    }
    let [[server_address, _], [client_address, _]] = [addresses(0), addresses(1)];
    wait_until("the pods to reach each other", || {
        pings(&pods[1], &server_address)
    })?;
    let server = Rxe::new(&card.node, &pods[0], POD_INTERFACE, &server_address)?;
    let client = Rxe::new(&card.node, &pods[1], POD_INTERFACE, &client_address)?;

    let folder = PolicyFolder::new()?;
    let mut objects = vec![namespace("x")];
    objects.extend((0..2).map(|at| pod(at, "x", NAMES[at])));
    folder.write("pods.yaml", &objects)?;
    // The tool's own talk is TCP.
    folder.write("policy.yaml", &[rules(json!([{"protocol": "TCP"}]))])?;
    let folder_path = folder.path();
    let options = ["--metrics-address", "off", "--policy-dir", &folder_path];
    let agent = TestAgent::start(&card.node, &options)?;
    let mut endpoints = Vec::new();
    for (netns, name) in pods.iter().zip(NAMES) {
        let pod = format!("x/{name}");
        let attached = agent.json(&[
            "attach",
            "--netns",
            netns.name(),
            POD_INTERFACE,
            "--pod",
            &pod,
        ])?;
        endpoints.push(attached["id"].as_u64().context("endpoint without id")?);
    }

    let before = server.packets()?;
    let serving = server.serve(TOOL)?;
    let called = client.call(TOOL, &server_address)?;
    ensure!(!called.status.success(), "writes passed: {called:?}");
    ensure!(serving.finish().is_err(), "the server got its writes");
    ensure!(
        server.packets()?.0 == before.0,
        "RoCE packets reached the device"
    );
    wait_until("the packets to be counted as denied", || {
        Ok(denied(&agent, endpoints[0])? > 0)
    })?;

    let roce = json!([{"protocol": "TCP"}, {"protocol": "UDP", "port": 4791}]);
    folder.write("policy.yaml", &[rules(roce)])?;
    wait_until("the new policy to be in force", || {
        let shown = agent.json(&["policy", "show", &endpoints[0].to_string()])?;
        Ok(shown.to_string().contains("4791/udp"))
    })?;
    let serving = server.serve(TOOL)?;
    succeeded(&client.call(TOOL, &server_address)?).context("client")?;
    serving.finish().context("server")?;
    ensure!(server.packets()?.0 > before.0, "nothing arrived");
    Ok(())
}
